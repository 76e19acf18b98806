"""What the tests of calls share: weights, and how trees are compared."""

from __future__ import annotations

import jax

from tests.support.models import (
    ffn,
)


def smooth(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return ffn(x, up, down).sum()
