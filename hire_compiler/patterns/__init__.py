"""What the compiler looks for, one family a file, and the reading of the graph that they share."""
