"""The replacements, as ordinary JAX functions: predictors, top-k, sparse feed-forward, sparse logits.

Nothing here knows about graphs or patterns; every function can be called, tested and read on its own.
"""
