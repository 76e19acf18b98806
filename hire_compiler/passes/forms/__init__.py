"""Products with a weight that no site rewrites, in the form that their platform reads at the speed of its memory."""
