"""Random numbers as arrays of any float type, without a program of XLA's to convert them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def drawn(numbers: np.ndarray, dtype: Any = jnp.float32) -> jax.Array:
    """Float64 numbers in another type, rounded as JAX rounds them: to float32 first."""
    return jnp.asarray(numbers.astype(np.float32).astype(jnp.dtype(dtype)))
