"""The same on four devices, here four pieces of one CPU: ``python -m examples.sharded``."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import hire_compiler as hire

VOCABULARY, D = 65536, 512
mesh = jax.make_mesh((jax.device_count(),), ("model",))
rows = NamedSharding(mesh, PartitionSpec("model", None))  # every device holds its part of the vocabulary
head = jax.device_put(jax.random.normal(jax.random.key(0), (VOCABULARY, D)), rows)


@jax.jit
def decode_step(head: jax.Array, x: jax.Array) -> jax.Array:
    """The end of a model: from hidden states ``[batch, d]`` to tokens."""
    return jnp.argmax(x @ head.T, axis=-1)


step = hire.transform(decode_step)  # reads the shardings off the program
for seed in range(20):
    x = jax.random.normal(jax.random.key(seed), (1, D))
    assert step(head, x) == decode_step(head, x)
print(step.report())
