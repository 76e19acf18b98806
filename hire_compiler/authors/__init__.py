"""What the author of a model may put into it: a sampler behind the logits, a choice of neurons.

Ordinary JAX code; it runs without the compiler, too.
"""
