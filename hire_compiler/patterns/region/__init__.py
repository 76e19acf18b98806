"""The code between two products: read into terms, resolved into one expression over ``[batch, columns]``."""
