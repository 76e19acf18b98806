"""``tune``: choose, by measuring, the fastest setting that meets a budget."""
