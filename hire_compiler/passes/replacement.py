"""What a replacement is: the JAX functions that take the place of one planned site.

A site becomes two functions, both made of ``runtime/``: *prepare*, from the caller's weights to the arrays
that the step needs, and *step*, from the values captured in the graph to the values it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph import Op, Value
from hire_compiler.narrow import NarrowWeight
from hire_compiler.passes.predictor_bytes import learns
from hire_compiler.passes.prepared_key import PreparedKey, digest
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.canonical import Outside
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.narrow import NarrowRows, keeps_as_bits, store_part
from hire_compiler.runtime.predictors import (
    PREDICTOR_ARRAYS,
    Arrays,
    kept_for,
    prepare_copies,
)
from hire_compiler.runtime.target import Target, bits_of, store
from hire_compiler.runtime.weights import materialize, view
from hire_compiler.sharding import Axes, MeshShape, Spec
from hire_compiler.weights import Weight


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
      computed: weights of which finite arguments do not say that they are finite: a scale may be zero, or divide.
    """

    key: PreparedKey
    arguments: tuple[int, ...]
    build: Callable[..., Arrays]
    bits: tuple[tuple[str, int], ...] = ()
    spread: Spread | None = None
    vectors: frozenset[int] = frozenset()
    computed: tuple[Weight, ...] = ()

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
        slack]. ``"tail"``: the error of the predicted logits on the candidates: mean squares, summed over batch
        rows, and the largest.
      captured: values of the author's program that the step takes after ``values``.
      inside: operations that go on reading the author's own results: nothing reads theirs any more.
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


def copied_bytes(match: SiteMatch) -> int:
    """Bytes of the site's matrices that no argument already holds by rows (all layers)."""
    leaves = [leaf for weight in match.weights for leaf in weight.leaves]
    return sum(leaf.nbytes * (leaf.layers or 1) for leaf in leaves if not leaf.is_view)


def lies_by_columns(dot: WeightDot) -> bool:
    """Whether an argument holds a head's matrix as ``[d, n]``, so that a copy by rows would be one more."""
    moved = any(step.op in ("deal", "turn") for step in dot.weight.steps) or isinstance(dot.weight, NarrowWeight)
    return not moved and not dot.weight.is_view and dot.columns.is_view and dot.columns.layers is None


def _as_bits(weight: Weight, target: Target, looped: bool) -> bool:
    """Whether the step takes a weight's argument as bits.

    Those are narrow floats that are read inside a loop, as a stack always is (``looped``: these, too), where the target
    would otherwise convert all of them.
    """
    inside = looped or weight.layers is not None
    return weight.is_view and inside and target.bf16_as_bits and keeps_as_bits(weight.dtype)


def _is_argument(weight: Weight, target: Target, looped: bool) -> bool:
    return weight.is_view and not _as_bits(weight, target, looped)


def _leaves(weights: Sequence[Weight]) -> list[tuple[str, Weight]]:
    """Everything that rows are read from, and its name among the prepared arrays."""
    return [
        (f"rows{i}_{j}" if isinstance(weight, NarrowWeight) else f"rows{i}", leaf)
        for i, weight in enumerate(weights)
        for j, leaf in enumerate(weight.leaves)
    ]


# --------------------------------------------------------------------------- preparing


# What a proof needs beside the predictor, from the ranked rows, the predictor's arrays, and a way to get matrix i.
Proof = Callable[[jax.Array, Arrays, Callable[[int], jax.Array]], Arrays]


def make_preparation(
    match: SiteMatch,
    plan: SitePlan,
    predicted: Weight,
    vectors: list[tuple[Weight, np.ndarray]],
    target: Target,
    order: np.ndarray | None = None,
    matrices: tuple[Weight, ...] | None = None,
    proof: Proof | None = None,
    looped: bool = False,
) -> Preparation:
    """How a site's arrays are prepared: the predictor of ``predicted``, re-laid-out rows, and vectors.

    Args:
      predicted: the rows whose products are predicted.
      vectors: parameters with one entry per row, and the position of every row's entry.
      order: in which the rows are laid out, ``[rows]`` (or stacked), the common path first; None for the model's own.
      matrices: whose rows the step reads beside the predictor; None for all of the site.
      proof: what is prepared so that winners or zeros can be proven.
      looped: the step reads the matrices in a loop of its own.
    """
    predictor, common = plan.predictor, plan.common
    assert predictor is not None
    matrices = match.weights if matrices is None else matrices
    held = {argument for w in (predicted, *matrices) for argument in w.arguments}
    used = sorted(held | {v.argument for v, _ in vectors})
    moment = plan.learned.moment
    mean = None if moment is None or not learns(predictor) else moment.mean

    def build(*arrays: jax.Array) -> Arrays:
        given = dict(zip(used, arrays, strict=True))
        rows = in_order(materialize(predicted, given), order)[..., common:, :]
        made = prepare_copies(rows, predictor.copies, mean, stacked=predicted.layers is not None)
        prepared = kept_for(made, predicted.shape[1], target)
        if proof is not None:
            prepared |= proof(rows, prepared, lambda i: materialize(matrices[i], given))
        if order is not None:
            for i, w in enumerate(matrices):
                whole = in_order(materialize(w, given), order)
                prepared |= {f"common{i}": whole[..., :common, :], f"rows{i}": whole[..., common:, :]}
        for name, leaf in _leaves(matrices) if order is None else ():
            if not leaf.is_view:
                prepared[name] = store_part(materialize(leaf, given), target)
        for i, (vector, index) in enumerate(vectors):
            value = materialize(vector, given)
            entries = value.reshape(*value.shape[: value.ndim - len(vector.shape)], -1)[..., index]
            prepared[f"vector{i}"] = in_order(entries[..., None], order)[..., 0]
        return {name: array if name.startswith("vector") else store(array, target) for name, array in prepared.items()}

    parts = (predicted.key, *(w.key for w in matrices), *(f"{v.key}@{digest(i)}" for v, i in vectors))
    learned = "" if mean is None else plan.learned.digest()
    options = f"{predictor}{'+bound' if plan.certify else ''}"
    options += "" if order is None else f"+{common} common@{digest(order)}"
    key = PreparedKey(plan.site.kind, options, learned, target.platform, parts, predicted.name)
    read = _leaves(matrices) if order is None else []
    bits = tuple((name, leaf.argument) for name, leaf in read if _as_bits(leaf, target, looped))
    computed = tuple(dict.fromkeys(w for w in (predicted, *matrices) if isinstance(w, NarrowWeight)))
    return Preparation(key, tuple(used), build, bits, vectors=frozenset(used) - held, computed=computed)


def in_order(rows: jax.Array, order: np.ndarray | None) -> jax.Array:
    """Rows ``[m, …]`` in another order, or stacked ones, each layer in its own."""
    if order is None:
        return rows
    return rows[order] if order.ndim == 1 else jax.vmap(lambda layer, own: layer[own])(rows, jnp.asarray(order))


# --------------------------------------------------------------------------- shapes at the border


def canonical_input(x: jax.Array, dot: WeightDot) -> jax.Array:
    """The input of a product as ``[batch, d]``."""
    return x.transpose(dot.x_free + dot.x_contracting).reshape(dot.batch, dot.d)


def written_input(rows: jax.Array, dot: WeightDot) -> jax.Array:
    """``[batch, d]`` in the shape of a product's input."""
    order = dot.x_free + dot.x_contracting
    return rows.reshape([dot.x.shape[i] for i in order]).transpose(np.argsort(order))


def canonical_result(y: jax.Array, dot: WeightDot) -> jax.Array:
    """The result of a product as ``[batch, rows]``."""
    rows = len(dot.row_shape)
    if dot.rows_first:
        y = y.transpose(*range(rows, y.ndim), *range(rows))
    return y.reshape(dot.batch, dot.rows)


def take_batch_rows(array: jax.Array, rows: np.ndarray) -> jax.Array:
    """Rows ``[r]`` of an array ``[b, …]``; nothing is emitted where those are all."""
    return array if np.array_equal(rows, np.arange(array.shape[0])) else array[rows]


def in_place(array: jax.Array, entry: Outside) -> jax.Array:
    """A captured value as ``[b, n]``, where 1 stands for any length."""
    if np.array_equal(entry.index.ravel(), np.arange(array.size)):
        return array.reshape(entry.index.shape)
    return array.reshape(-1)[entry.index]


def restore_result(y: jax.Array, dot: WeightDot) -> jax.Array:
    """``[batch, rows]`` in the shape and type of the product's result."""
    free = len(dot.batch_shape)
    y = y.reshape(dot.batch_shape + dot.row_shape)
    if dot.rows_first:
        y = y.transpose(*range(free, y.ndim), *range(free))
    return y.astype(jnp.dtype(dot.result.dtype))


def held_matrices(
    weights: tuple[Weight, ...],
    prepared: Arrays,
    views: tuple[jax.Array, ...],
    target: Target,
    *,
    looped: bool = False,
) -> list[jax.Array | NarrowRows]:
    """The matrices of a site inside its step function, from the arguments or from what was prepared."""
    arguments = iter(views)
    held = []
    for name, leaf in _leaves(weights):
        array = next(arguments) if _is_argument(leaf, target, looped) else prepared[name]
        held.append(view(leaf, array) if leaf.is_view else array)
    arrays = iter(held)
    return [
        NarrowRows(tuple(next(arrays) for _ in weight.leaves), weight.rows, target)
        if isinstance(weight, NarrowWeight)
        else next(arrays)
        for weight in weights
    ]


def argument_views(weights: tuple[Weight, ...], target: Target, *, looped: bool = False) -> tuple[int, ...]:
    """The arguments that the step function of a site reads as they are."""
    return tuple(leaf.argument for _, leaf in _leaves(weights) if _is_argument(leaf, target, looped))


def predictor_arrays(prepared: Arrays) -> Arrays:
    """Those of the prepared arrays that belong to the predictor."""
    return {name: prepared[name] for name in PREDICTOR_ARRAYS if name in prepared}
