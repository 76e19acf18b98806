"""Models without their Python code: read an export, rewrite it, save it, load it, run it, compare it."""
