"""What a replacement is: the JAX functions that take the place of one planned site.

A site becomes two functions, both made of ``runtime/``: *prepare*, from the caller's weights to the arrays
that the step needs, and *step*, from the values captured in the graph to the values it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.patterns.region.canonical import Outside
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import bits_of
from hire_compiler.sharding.layout import Axes, MeshShape, Spec


@dataclass(frozen=True)
class Spread:
    """How prepared arrays lie on a mesh: every shard's own, one after the other along the first dimension.

    Attributes:
      mesh: all its axes.
      rows: axes that split the rows of the site.
      bits: arrays that are an argument itself, and how that is split.
    """

    mesh: MeshShape
    rows: Axes
    bits: tuple[tuple[str, Spec], ...] = ()

    def spec(self, name: str) -> Spec:
        """How a prepared array is split, for its first dimensions."""
        return dict(self.bits).get(name, (self.rows,))


def nothing_to_build(*_arrays: jax.Array) -> Arrays:
    """Of a site that reads the caller's arrays alone; not worth a program of its own."""
    return {}


@dataclass(frozen=True)
class Preparation:
    """How the prepared arrays of a site come from the caller's weights.

    Attributes:
      key: equal for sites that can share the arrays.
      arguments: positions in ``@main`` of the weights that ``build`` takes.
      build: from those arrays to named arrays.
      bits: named arrays that are an argument itself, its bytes read as unsigned integers: no copy.
      spread: how the arrays lie on a mesh, if every shard has its own.
      vectors: those of the arguments that are biases or masks alone: any number is right there, −inf too.
      halved: float32 weights that are kept as bfloat16: every entry has to be such a number.
      computed: weights of which finite arguments do not say that they are finite: a scale may be zero, or divide.
    """

    key: PreparedKey
    arguments: tuple[int, ...]
    build: Callable[..., Arrays]
    bits: tuple[tuple[str, int], ...] = ()
    spread: Spread | None = None
    vectors: frozenset[int] = frozenset()
    computed: tuple[Weight, ...] = ()
    halved: tuple[Weight, ...] = ()

    def spec(self, name: str) -> Spec | None:
        """On a mesh, the axes that split the first dimensions of an array."""
        return None if self.spread is None else self.spread.spec(name)

    def traced(self, *arrays: jax.Array) -> Arrays:
        """All named arrays, as a function that JAX can trace."""
        given = dict(zip(self.arguments, arrays, strict=True))
        with _mlir.own_settings(x64=_mlir.has_wide(arrays), keep_mesh=True):
            return dict(self.build(*arrays)) | {name: bits_of(given[argument]) for name, argument in self.bits}


@dataclass(frozen=True)
class AuthorsCode:
    """What the author wrote, to be run as it is where nothing else can settle a doubt.

    Attributes:
      products: those that it begins with, and which operand of each is the input.
      last: the operations whose results are replaced.
      following: everything that follows from the products, where it stands in loops and branches too; () to look.
      weights: values that are computed from parameters alone: computed again where they are read, not before.
    """

    products: tuple[tuple[Op, int], ...]
    last: tuple[Op, ...]
    following: tuple[Op, ...] = ()
    weights: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Replacement:
    """What takes the place of a site.

    Attributes:
      values: captured values the step function takes, in order.
      views: weights read straight from their argument: positions in ``@main``.
      step: ``step(prepared arrays, views, *values)`` -> the values of ``results``, in order.
      results: the values replaced.
      before: the operation in front of which the call is put.
      signature: equal for sites whose step functions are the same function.
      behind: values that ``step`` returns after ``results``, of which only what stands behind ``before`` reads the new
        ones: what stands before it made them, and is dead.
      measure: what one more value of the step measures, if not ``""``. ``"proof"``: batch rows proven [, largest
        slack], or whole numbers of which the others are what an exact block counts. ``"tail"``: the error of the
        predicted logits on the candidates: mean squares, summed over batch rows, and the largest.
      captured: values of the author's program that the step takes after ``values``.
      inside: operations that go on reading the author's own results: nothing reads theirs any more.
      late: operations that read ``results`` and stand before the call; they are put behind it, in their order.
      author: code that ``step`` can run by calling its keyword ``run_author``, which gives the values of ``results``
        and ``behind``.
    """

    preparation: Preparation
    values: tuple[Value, ...]
    views: tuple[int, ...]
    step: Callable[..., list[jax.Array]]
    results: tuple[Value, ...]
    before: Op
    signature: str
    measure: str = ""
    behind: tuple[Value, ...] = ()
    captured: tuple[Outside, ...] = ()
    author: AuthorsCode | None = None
    inside: tuple[Op, ...] = ()
    late: tuple[Op, ...] = ()


def written_input(rows: jax.Array, dot: WeightDot) -> jax.Array:
    """``[batch, d]`` in the shape of a product's input."""
    order = dot.x_free + dot.x_contracting
    return rows.reshape([dot.x.shape[i] for i in order]).transpose(np.argsort(order))


def in_place(array: jax.Array, entry: Outside) -> jax.Array:
    """A captured value as ``[b, n]``, where 1 stands for any length."""
    if np.array_equal(entry.index.ravel(), np.arange(array.size)):
        return array.reshape(entry.index.shape)
    return array.reshape(-1)[entry.index]
