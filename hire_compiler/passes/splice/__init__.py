"""The fifth stage: replacements are put into the module, and what they made dead is taken out."""
