"""Files that appear whole or not at all, what stands at a path, and how far long work is."""
