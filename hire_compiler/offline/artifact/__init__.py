"""What goes out: a rewritten model as programs and weights that run without this package."""
