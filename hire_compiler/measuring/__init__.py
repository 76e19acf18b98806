"""Is it faster, and the same? Programs run in turns here, or compiled for a TPU that is not here."""
