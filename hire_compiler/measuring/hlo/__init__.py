"""The compiled program, as XLA prints it: read, its traffic counted, its time estimated."""
