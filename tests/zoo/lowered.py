"""What every model of the zoo is made of: a function, random arguments, and what a perfect detector finds in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from tests.support.drawn import drawn

VOCABULARY, D, LAYERS = 2048, 64, 2


@dataclass(frozen=True)
class Expected:
    """Sites of a model: feed-forward blocks (with what they compute), heads, and how often a loop repeats a block."""

    blocks: int
    activation: str = ""
    gated: bool = False
    heads: int = 1
    repeat: int = 1
    width: int = 256


@dataclass(frozen=True)
class Model:
    """One third-party model.

    Attributes:
      family: whose code it is.
      name: of the model, unique in its family.
      build: returns the function and its arguments; imports the package.
      expected: what has to be found.
      note: what is special about its graph.
      package: what it needs, if that is not the package of its family's file.
    """

    family: str
    name: str
    build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
    expected: Expected
    note: str = ""
    package: str = ""

    @property
    def id(self) -> str:
        return f"{self.family}-{self.name}".replace(" ", "_")


def random_like(tree: Any, seed: int = 0) -> Any:
    """Random arrays of the shapes of ``tree``; matrices scaled so that activations stay of size one."""
    rng = np.random.default_rng(seed)

    def one(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.ones(leaf.shape, leaf.dtype)
        scale = 1 / np.sqrt(leaf.shape[-1]) if len(leaf.shape) > 1 else 1.0
        return drawn(rng.normal(size=leaf.shape) * scale, leaf.dtype)

    return jax.tree.map(one, tree)


def every_site(density: float, group: int = 1) -> hire.Config:
    """Rules that rewrite every site at this width."""
    common = {"predictor": hire.Quantized(), "density": density, "max_batch": 4096}
    blocks, heads = hire.Rule(kind="ffn", group=group, **common), hire.Rule(kind="head", **common)
    return hire.Config(rules=(blocks, heads, hire.Rule(kind="experts", predictor=hire.Exact(), max_batch=4096)))
