"""Runnable examples: ordinary JAX models and drivers that know nothing of the compiler."""
