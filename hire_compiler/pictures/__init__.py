"""Reports, comparisons and tunings as pictures."""
