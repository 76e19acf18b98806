"""The first stage: one form for what can be written in many. Meaning never changes here."""
