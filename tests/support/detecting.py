"""What the tests of detection share: shapes, sites and reasons of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import hire_compiler as hire
from tests.support.models import VOCABULARY, WIDTH, D, said

Function = Callable[..., Any]


def shape(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


X, UP, DOWN, HEAD = shape(2, D), shape(D, WIDTH), shape(WIDTH, D), shape(VOCABULARY, D)


def sites(function: Function, *args: Any) -> list[tuple[str, Any]]:
    """Kind and activation (or consumers) of every site."""
    return [(site.kind, site.activation or site.consumers) for site in hire.inspect(function, *args).sites]


def why(function: Function, weight: str, *args: Any) -> str:
    """The reason of the only miss of a weight, in a program where that weight is no site."""
    report = hire.inspect(function, *args)
    assert not [site for site in report.sites if weight in site.weights]
    (miss,) = [miss for miss in report.misses if miss.weight == weight]
    assert miss.reason in said(report)
    return miss.reason


def block(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return jax.nn.relu(jnp.sin(x) @ up) @ down
