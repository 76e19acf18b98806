"""One line makes a decode step sparse, and its tokens stay the same: ``python -m examples.quickstart``."""

import jax
import jax.numpy as jnp

import hire_compiler as hire

VOCABULARY, D = 32768, 512
keys = jax.random.split(jax.random.key(0), 3)
params = {"embed": jax.random.normal(keys[0], (VOCABULARY, D)), "mix": jax.random.normal(keys[1], (D, D)) / D**0.5}


@jax.jit
def decode_step(params: dict[str, jax.Array], token: jax.Array) -> jax.Array:
    """A model of your own stands here: from a token ``[batch]`` to the next one."""
    x = params["embed"][token]
    x = x + jnp.tanh(x @ params["mix"])
    return jnp.argmax(x @ params["embed"].T, axis=-1)


step = hire.transform(decode_step)  # the one line

token = wanted = jnp.array([17])
for _ in range(20):
    token, wanted = step(params, token), decode_step(params, wanted)
    assert token == wanted
print(step.report())
print(hire.compare(step, params, token))
