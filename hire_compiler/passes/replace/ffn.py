"""Replace a feed-forward block: predict its groups of neurons, compute those alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.config.predictors import Exact
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.plan.neurons import common_order
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.prepared_key import digest
from hire_compiler.passes.replace.preparing import (
    Proof,
    argument_views,
    held_matrices,
    how_held,
    kept_weights,
    make_preparation,
    predictor_arrays,
)
from hire_compiler.passes.replace.read_vectors import vectors_of
from hire_compiler.passes.replace.replacement import AuthorsCode, Replacement
from hire_compiler.passes.replace.shapes import canonical_input, canonical_result, restore_result
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.ffn.quantiser import Quantiser
from hire_compiler.patterns.region.canonical import Outside
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.runtime.certify import prepare_bound, rounded_terms
from hire_compiler.runtime.ffn import CommonPath, Down, Form, PerRow, select_groups, sparse_ffn
from hire_compiler.runtime.gathered import Matrix
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.skip_zeros import (
    Skipped,
    certified_ffn,
    exact_ffn,
    largest_entry,
    ordinary,
    row_limits,
    trusted_bound,
)
from hire_compiler.runtime.target import Target


def replace_ffn(match: FfnMatch, plan: SitePlan, target: Target, *, local: bool = False) -> Replacement:
    """The replacement of a planned feed-forward block, of all devices or of one.

    Args:
      local: the match is restated in the sizes of one shard: the author's operations are not run inside its step.
    """
    up = match.products[0]
    weights = kept_weights(match, plan)
    order = _order(plan)
    vectors = vectors_of([(o.weight, i) for o, i in match.biases], lie_as_written=order is None and not local)
    proof = _proof(match, plan, target) if plan.certify or isinstance(plan.predictor, Exact) else None
    preparation = make_preparation(
        match, plan, _predicted_rows(match, plan), vectors.prepared, target, order, proof=proof
    )
    stacked = match.layer is not None
    # Where the model chooses among its neurons, it chooses among the candidates now.
    code = match.region.expression.on_part(match.down.d, plan.candidates)
    deciding = None if local else _deciding(match, plan, target)
    behind = () if match.quantiser is None else tuple(value for value, _ in match.quantiser.scales)
    alone = not (local or behind or match.beside)  # what an adapter adds follows from the block itself
    added = _added_behind(match.down.result) if alone and proof is not None else None

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        x: jax.Array,
        *more: jax.Array,
        run_author: Callable[[], list[jax.Array]] | None = None,
    ) -> list[jax.Array]:
        more, other = (more, None) if added is None else (more[:-1], more[-1])
        layer = more[0].reshape(()) if stacked else None
        rows = canonical_input(x, up)
        biases: list[jax.Array | PerRow] = [
            PerRow(_given(value, index, order, layer))
            for value, (_, index) in zip(more[stacked:][: len(match.givens)], match.givens, strict=True)
        ]
        biases += vectors.values(prepared, views[len(views) - len(vectors.arguments) :], layer, len(rows))
        inputs, down = _first_and_last(
            held_matrices(weights, prepared, views, target)
            if order is None
            else [prepared[f"rows{i}"] for i in range(len(weights))],
            len(match.matrices),
        )
        form = Form(
            activation=lambda *values: code.evaluate(values, exact=True),
            group=plan.group,
            target=target,
            layer=layer,
            product_dtype=up.result.dtype,
            precise=up.precise,
            down_precise=match.down.precise,
            quantise=None if match.quantiser is None else partial(_quantised, match.quantiser),
        )
        call = _Call(rows, inputs, down, biases, prepared, form)
        if proof is None:
            return _predicted(call, match, plan)
        or_all = run_author is not None
        if isinstance(plan.predictor, Exact):
            product = None if deciding is None else canonical_result(more[-1], deciding)
            found = _exact(call, match, plan, product, or_all)
        else:
            found = _certified(call, match, plan, or_all)
        return _or_author(found, match, other, run_author)

    return Replacement(
        preparation=preparation,
        values=(
            match.x,
            *(() if match.layer is None else (match.layer,)),
            *(value for value, _ in match.givens),
            *(() if deciding is None else (deciding.result,)),
        ),
        views=(*(argument_views(weights, target) if order is None else ()), *vectors.arguments),
        step=step,
        results=tuple(dot.result for dot in match.last) if added is None else (added.op.result,),
        behind=behind,
        before=match.down.op if added is None else added.op,
        signature=repr((
            plan.predictor, plan.certify, plan.candidates, plan.budgets, plan.group, plan.score, plan.common,
            match.activation, match.region.expression, up.x_free, up.x_contracting, match.down.row_shape,
            match.down.rows_first, vectors.code, up.precise, match.down.precise,
            how_held(weights), [(dot.row_shape, dot.rows_first) for dot in match.beside],
            [(value.shape, value.dtype, digest(index)) for value, index in match.givens], match.row_scales,
            deciding is None, added and (added.other.shape, added.other.dtype),
            match.quantiser and (match.quantiser.code, [code for _, code in match.quantiser.scales]),
        )),
        captured=() if added is None else (Outside(added.other, np.arange(added.other.size), None),),
        measure="" if proof is None else "proof",
        author=None if proof is None else _authors_code(match, behind, added),
    )  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """What one call of a block has at hand, in the order in which its rows are laid out.

    Attributes:
      rows: its input, ``[b, d]``.
      inputs, down: its matrices.
      biases: its vectors: what is added for each row, and then those that were prepared.
    """

    rows: jax.Array
    inputs: list[Matrix]
    down: Down
    biases: list[jax.Array | PerRow]
    prepared: Arrays
    form: Form


def _exact(call: _Call, match: FfnMatch, plan: SitePlan, product: jax.Array | None, or_all: bool) -> Skipped:
    """What the author's code makes zero is skipped, where the rest fits one of the budgets."""
    budgets = [size // plan.group for size in (*plan.budgets, plan.candidates)]
    return exact_ffn(
        call.rows, call.inputs, call.down, call.biases, call.prepared, match.zero_gate, budgets, call.form,
        match.gate_stages, product=product, or_all=or_all,
    )  # fmt: skip


def _certified(call: _Call, match: FfnMatch, plan: SitePlan, or_all: bool) -> Skipped:
    """What a bound of the gate proves to be zero is skipped."""
    gate, budget, negative = match.activation.gate, plan.candidates // plan.group, match.negative_gate
    return certified_ffn(
        call.rows, call.inputs, call.down, call.biases, call.prepared, gate, budget, call.form, negative, or_all=or_all
    )


def _predicted(call: _Call, match: FfnMatch, plan: SitePlan) -> list[jax.Array]:
    """Only what a predictor ranks highest is computed, and the common path."""
    relevance, target, layer = match.relevance, call.form.target, call.form.layer
    bias = match.activation.gate_bias
    groups = select_groups(
        call.rows,
        predictor_arrays(call.prepared),
        None if bias is None else _predicted_part(call.biases[bias], plan.common),
        lambda z: relevance(z, [_beside(call.biases[i], plan.common, layer) for i in relevance.reads]),
        plan.group,
        (plan.candidates - plan.common) // plan.group,
        target,
        layer,
        plan.score,
        _row_scale(match, call.biases),
    )
    common = _common_path(call.prepared, plan, match)
    y, scales = sparse_ffn(call.rows, call.inputs, call.down, call.biases, groups, call.form, common)
    return [*_results(y, match), *_restored(scales, match)]


def _deciding(match: FfnMatch, plan: SitePlan, target: Target) -> WeightDot | None:
    """The author's own product, where a rounding of it decides what is zero.

    Not on several devices: there a product is summed as XLA splits it, and a shard computes its own. Nor for one row on
    a CPU, which runs the author's product of one bfloat16 row at a fraction of the speed of ours.
    """
    dot = match.deciding_product if isinstance(plan.predictor, Exact) else None
    return None if dot is None or (dot.batch == 1 and target.rows_one_by_one) else dot


@dataclass(frozen=True)
class _Added:
    """An addition to a block's result that is its only reader: a bias, or the residual stream.

    XLA:CPU sums the last product with it in one loop, in another order than without it. So it belongs to what the
    author's code computes where the order decides.
    """

    op: Op
    other: Value


def _added_behind(result: Value) -> _Added | None:
    assert result.op is not None
    if len(result.uses) != 1:
        return None
    op, position = result.uses[0]
    if op.name != "add" or op.block is not result.op.block or op.result.dtype != result.dtype:
        return None
    return _Added(op, op.operands[1 - position])


def _authors_code(match: FfnMatch, behind: Sequence[Value], added: _Added | None) -> AuthorsCode:
    dots = (*match.products, *match.last)
    last = tuple(dot.op for dot in match.last) if added is None else (added.op,)
    made = tuple(value.op for value in behind if value.op is not None)
    products = tuple(dict.fromkeys(dot.start for dot in match.products))
    return AuthorsCode(products, (*last, *made), weights=tuple(dot.factor for dot in dots))


def _or_author(
    found: Skipped, match: FfnMatch, added: jax.Array | None, run_author: Callable[[], list[jax.Array]] | None
) -> list[jax.Array]:
    """The block's results and for how many batch rows they skip; dense's own where an order of sums may decide.

    Behind that number stands what is counted of budgets (:attr:`~hire_compiler.runtime.skip_zeros.Skipped.counted`).
    Without ``run_author`` the whole program runs the author's code, for any row that is not counted.
    """
    y, *others = _results(found.y, match)
    results = [y if added is None else y + added, *others, *_restored(found.scales, match)]
    right = found.ordinary & jnp.stack([ordinary(result) for result in results[: len(match.last)]]).all()
    held = jnp.where(right & found.fits, match.down.batch, 0).astype(jnp.int32)
    if run_author is None:
        return [*results, held]  # a shard's: what it skips is not that of all
    results = jax.lax.cond(right, lambda: results, run_author)
    return [*results, jnp.concatenate([held[None], found.counted])]


def _proof(match: FfnMatch, plan: SitePlan, target: Target) -> Proof:
    """Bounds of the gate's rows, if zeros are proven from them, and limits of the products that are skipped."""
    ranked = match.ranked
    terms = rounded_terms(ranked.batch, ranked.result.dtype, target)

    def bound(rows: jax.Array, copy: Arrays) -> jax.Array:
        made = prepare_bound(rows, copy)
        return trusted_bound(rows, made["bound"] + terms * made["norm"])

    def proof(rows: jax.Array, prepared: Arrays, matrix: Callable[[int], jax.Array]) -> Arrays:
        made: Arrays = {}
        if plan.certify:
            copy = {name: prepared[name] for name in ("q", "scale")}
            made["bound"] = (jax.vmap(bound) if rows.ndim == 3 else bound)(rows, copy)
        first, count = len(match.matrices), len(match.weights)
        down = jnp.concatenate([matrix(i) for i in range(first, count)], axis=-1) if match.beside else matrix(first)
        limits = {f"limit{i}": row_limits(matrix(i), down) for i in range(len(match.products))}
        return made | limits | {"largest": largest_entry(down)}

    return proof


def _quantised(quantiser: Quantiser, h: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """H as the last product reads it, and the numbers of its rows that are read behind that."""
    return quantiser.code.evaluate([h], exact=True), tuple(
        jnp.broadcast_to(code.evaluate([h], exact=True), (h.shape[0], 1)) for _, code in quantiser.scales
    )


def _restored(scales: Sequence[jax.Array], match: FfnMatch) -> list[jax.Array]:
    values = () if match.quantiser is None else (value for value, _ in match.quantiser.scales)
    return [
        scale.astype(jnp.dtype(value.dtype)).reshape(value.shape) for scale, value in zip(scales, values, strict=True)
    ]


def _row_scale(match: FfnMatch, biases: Sequence[jax.Array | PerRow]) -> jax.Array | None:
    """By what the predicted products of quantised inputs are multiplied."""
    scale = None
    for op, number in match.row_scales:
        given = biases[number]
        assert isinstance(given, PerRow)
        wide = given.values.astype(jnp.float32)
        factor = wide if op == "multiply" else 1 / wide
        scale = factor if scale is None else scale * factor
    return scale


def _predicted_rows(match: FfnMatch, plan: SitePlan) -> Weight:
    """The rows that a predictor copies. An exact block copies none, so that no scale of them is prepared."""
    return match.matrices[match.activation.gate] if isinstance(plan.predictor, Exact) else match.predicted


def _order(plan: SitePlan) -> np.ndarray | None:
    """The order in which the rows are laid out; None for that of the model."""
    if not plan.common:
        return None
    assert plan.learned.activity is not None, "a common path is planned from what a calibration knows"
    return common_order(plan.learned.activity, plan.group, plan.common)


def _given(value: jax.Array, index: np.ndarray, order: np.ndarray | None, layer: jax.Array | None) -> jax.Array:
    """What an adapter adds to each neuron ``[b, m]``, in the order in which the rows are laid out."""
    whole = np.array_equal(index, np.arange(value.size).reshape(index.shape)) if value.size == index.size else False
    given = value.reshape(index.shape) if whole else value.reshape(-1)[index]
    if order is None:
        return given
    return given[:, order] if order.ndim == 1 else jnp.take(given, jnp.asarray(order)[layer], axis=1)


def _predicted_part(bias: jax.Array | PerRow, common: int) -> jax.Array | PerRow:
    return PerRow(bias.values[:, common:]) if isinstance(bias, PerRow) else bias[..., common:]


def _beside(vector: jax.Array | PerRow, common: int, layer: jax.Array | None) -> jax.Array:
    """A vector of the neurons that are predicted, of one layer."""
    if isinstance(vector, PerRow):
        return vector.values[:, common:]
    own = vector[..., common:]
    return own if layer is None else jax.lax.dynamic_index_in_dim(own, layer, keepdims=False)


def _common_path(prepared: Arrays, plan: SitePlan, match: FfnMatch) -> CommonPath | None:
    if not plan.common:
        return None
    return CommonPath(
        *_first_and_last([prepared[f"common{i}"] for i in range(len(match.weights))], len(match.matrices))
    )


def _first_and_last(held: Sequence[Matrix], first: int) -> tuple[list[Matrix], Down]:
    """The first matrices of a block, and the last one, or the last ones side by side."""
    last = tuple(held[first:])
    return list(held[:first]), last if len(last) > 1 else last[0]


def _results(y: jax.Array, match: FfnMatch) -> list[jax.Array]:
    """What the last products make ``[b, …]``, each in its own shape and type."""
    ends = np.cumsum([dot.rows for dot in match.last])[:-1]
    parts = jnp.split(y, ends, axis=1) if match.beside else [y]
    return [restore_result(part, dot) for part, dot in zip(parts, match.last, strict=True)]
