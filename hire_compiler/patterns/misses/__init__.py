"""Products with a weight that are no site, and the reason in the words of those who write models."""
