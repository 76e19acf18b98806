"""The fourth stage: a planned site becomes two JAX functions, made of ``runtime``: *prepare* and *step*."""
