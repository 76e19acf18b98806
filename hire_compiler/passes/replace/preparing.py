"""Preparing: how the arrays that a step needs are made from the caller's weights, or read where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.graph.narrow import NarrowWeight
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.plan.predictor_bytes import learns
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.prepared_key import PreparedKey, digest
from hire_compiler.passes.replace.replacement import Preparation
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.materialize import materialize, view
from hire_compiler.runtime.narrow_rows import NarrowRows, keeps_as_bits, store_part
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS, Arrays, kept_for, prepare_copies
from hire_compiler.runtime.target import Target, store


def copied_bytes(match: SiteMatch) -> int:
    """Bytes of the site's matrices that no argument already holds by rows (all layers)."""
    leaves = [leaf for weight in match.weights for leaf in weight.leaves]
    return sum(leaf.nbytes * (leaf.layers or 1) for leaf in leaves if not leaf.is_view)


def kept_weights(match: SiteMatch, plan: SitePlan) -> tuple[Weight, ...]:
    """The matrices of a site, in the type in which the step reads them."""
    return tuple(weight.halved() for weight in match.weights) if plan.halved else match.weights


def lies_by_columns(dot: WeightDot) -> bool:
    """Whether an argument holds a head's matrix as ``[d, n]``, so that a copy by rows would be one more."""
    moved = any(step.op in ("deal", "turn") for step in dot.weight.steps) or isinstance(dot.weight, NarrowWeight)
    return not moved and not dot.weight.is_view and dot.columns.is_view and dot.columns.layers is None


def pieces_for(rows: Weight, target: Target) -> Target | None:
    """The target that says how large the pieces are in which something is made of rows; None for all at once.

    Rows that lie otherwise are laid out as a whole first, and pieces would save nothing.
    """
    return target if rows.is_view and not rows.is_computed else None


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
    matrices = kept_weights(match, plan) if matrices is None else matrices
    held = {argument for w in (predicted, *matrices) for argument in w.arguments}
    used = sorted(held | {v.argument for v, _ in vectors})
    moment = plan.learned.moment
    mean = None if moment is None or not learns(predictor) else moment.mean

    def build(*arrays: jax.Array) -> Arrays:
        given = dict(zip(used, arrays, strict=True))
        rows = in_order(materialize(predicted, given), order)[..., common:, :]
        stacked = predicted.layers is not None
        made = prepare_copies(rows, predictor.copies, mean, stacked=stacked, target=pieces_for(predicted, target))
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
    halved = match.weights if plan.halved else ()
    return Preparation(key, tuple(used), build, bits, vectors=frozenset(used) - held, computed=computed, halved=halved)


def in_order(rows: jax.Array, order: np.ndarray | None) -> jax.Array:
    """Rows ``[m, …]`` in another order, or stacked ones, each layer in its own."""
    if order is None:
        return rows
    return rows[order] if order.ndim == 1 else jax.vmap(lambda layer, own: layer[own])(rows, jnp.asarray(order))


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


def how_held(weights: tuple[Weight, ...]) -> str:
    """Everything that the code which reads held matrices depends on: equal for sites that can share it."""
    return repr(
        [
            (weight.shape, weight.layers, weight.is_view, weight.rows if isinstance(weight, NarrowWeight) else None)
            for weight in weights
        ]
    )


def predictor_arrays(prepared: Arrays) -> Arrays:
    """Those of the prepared arrays that belong to the predictor."""
    return {name: prepared[name] for name in PREDICTOR_ARRAYS if name in prepared}
