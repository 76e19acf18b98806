"""Inputs of a program: from a file, or random ones of the right types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hire_compiler.errors import WeightError
from hire_compiler.offline.disk.tensors import Tensors, TensorSpec

INTEGERS = 16  # random integers are below this: a token, a position and a cache index alike must be in range


def random_inputs(specs: Sequence[TensorSpec], rng: np.random.Generator) -> list[np.ndarray]:
    """Random values: standard normal floats (positive scalars: temperatures, scales), integers below 16, booleans."""
    return [_random(spec, rng) for spec in specs]


def _random(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(jnp.dtype(spec.dtype))
    if dtype == np.bool_:
        return rng.integers(0, 2, spec.shape).astype(dtype)
    if jnp.issubdtype(dtype, np.integer):
        return rng.integers(0, INTEGERS, spec.shape).astype(dtype)
    normal = rng.standard_normal(spec.shape, np.float32)
    return (normal if spec.shape else np.abs(normal)).astype(dtype)


def inputs_from(tensors: Tensors, names: Sequence[str], specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Values by name, or by position (``0``, ``arg0``, ``arr_0``).

    Raises:
      WeightError: one is missing or has another type; names it.
    """
    return [_find(tensors, index, name, spec) for index, (name, spec) in enumerate(zip(names, specs, strict=True))]


def _find(tensors: Tensors, index: int, name: str, spec: TensorSpec) -> np.ndarray:
    for spelling in (name, str(index), f"arg{index}", f"arr_{index}"):
        if spelling not in tensors.specs:
            continue
        value: Any = tensors.read(spelling)
        if tuple(value.shape) != spec.shape or str(value.dtype) != spec.dtype:
            raise WeightError(
                f"the input {name} is {spec}, but {tensors.origin} holds {value.dtype}{list(value.shape)}"
            )
        return np.asarray(value)
    raise WeightError(f"{tensors.origin} lacks the input {name!r} ({spec}); call it that, or {index}")
