"""Dense forms: products that stay dense, spelled as their platform runs them best.

XLA:CPU widens the whole bfloat16 matrix of an ordinary product in memory before it multiplies, and copies the matrix
of a layer out of its stack before it multiplies by columns. The same float32 products can be summed while the matrix
is read where it lies::

    x @ w      w [in, out]   eight rows at a time in one vectorised loop, gathered from the stack
    x @ w.T    w [out, in]   a matrix-vector product that converts on the way

Two to four rows go one by one; up to sixteen share chunks of a bfloat16 matrix that stay in the cache. No copy is made.
The sums are taken in another order than the author's, so a result may move by a rounding: nothing of this is done
unasked. Left as they are: products of more rows, small ones, other types, weights that are sliced, float32 where the
platform reads it well, and whatever a rewritten site reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hire_compiler.capture.program import Argument
from hire_compiler.graph.graph import Graph, Op
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.replace.replacement import Preparation, Replacement, nothing_to_build
from hire_compiler.passes.replace.shapes import canonical_input, restore_result
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.site_match import SiteMatch, trips
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.reports.findings import Respelled
from hire_compiler.runtime.gathered import chosen_columns_dot
from hire_compiler.runtime.materialize import view
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import ONE_BY_ONE, Target, dot_of_few, for_each_row, load, rows_dot, unfused

LEAST_BYTES = 1 << 18  # of a matrix: less stays in the cache
MOST_ROWS = 16  # of the input: more compute enough to hide how the matrix is read
_HELD = "matrix"


@dataclass(frozen=True)
class Form:
    """How a product reads its matrix.

    Attributes:
      by_rows: along its rows, ``[out, in]``; False: along those of its transpose.
      one_by_one: a pass over the matrix for each row of the input.
      as_bits: a bfloat16 matrix reaches the product as bits, so that it is not widened as a whole.
    """

    by_rows: bool
    one_by_one: bool
    as_bits: bool

    def __str__(self) -> str:
        way = "rows, widened on the way" if self.by_rows else "columns, eight rows at a time"
        return way if self.one_by_one else way.split(",")[0] + ", in chunks that stay in the cache"


@dataclass(frozen=True)
class DenseForm:
    """A product that has a better form, and what is told of it."""

    dot: WeightDot
    form: Form
    told: Respelled

    def replacement(self, target: Target) -> Replacement:
        """The product in that form."""
        return _respelled(self.dot, self.form, target)


def dense_forms(
    graph: Graph, arguments: Sequence[Argument], rewritten: Sequence[SiteMatch], target: Target
) -> list[DenseForm]:
    """Every product that has a better form on the target.

    Args:
      graph: normalized.
      rewritten: sites whose weights are left to them.
    """
    if not target.bf16_as_bits:
        return []
    provenance = Provenance(arguments)
    theirs = {argument for match in rewritten for weight in match.weights for argument in weight.arguments}
    dots = [_read(op, provenance) for op in graph.ops() if op.name == "dot_general"]
    return [
        DenseForm(dot, form, _told(dot, form, provenance))
        for dot in dots
        if dot is not None and theirs.isdisjoint(dot.weight.arguments) and (form := _better(dot, target)) is not None
    ]


def _read(op: Op, provenance: Provenance) -> WeightDot | None:
    try:
        return read_weight_dot(op, provenance)
    except NoMatch:
        return None


def _better(dot: WeightDot, target: Target) -> Form | None:
    """The form that reads the matrix faster than the author's; None where there is none."""
    types = {dot.weight.dtype, dot.weight.stored, dot.x.dtype}
    if type(dot.weight) is not Weight or dot.batch > MOST_ROWS or dot.weight.nbytes < LEAST_BYTES:
        return None
    by_rows = dot.weight.is_view
    if not (by_rows or dot.columns.is_view):
        return None
    few = dot.batch <= ONE_BY_ONE
    looped = dot.op.in_loop or (dot.weight if by_rows else dot.columns).layers is not None
    if types == {"float32"}:
        better = (few and dot.batch > 1) if by_rows else dot.batch == 1
        return Form(by_rows, one_by_one=True, as_bits=False) if better else None
    if types != {"bfloat16"} or (by_rows and few and dot.d >= target.fused_vector):
        return None
    return Form(by_rows, one_by_one=few, as_bits=looped or not few)  # in loops only bits are not widened as a whole


def _told(dot: WeightDot, form: Form, provenance: Provenance) -> Respelled:
    return Respelled(
        path=dot.op.scope,
        weight=dot.weight.name,
        form=str(form),
        nbytes=dot.weight.nbytes * trips(dot, provenance.counters),
    )


def _respelled(dot: WeightDot, form: Form, target: Target) -> Replacement:
    matrix = dot.weight if form.by_rows else dot.columns
    stacked = dot.layer is not None

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array, *layer: jax.Array) -> list[jax.Array]:
        held = view(matrix, prepared[_HELD] if form.as_bits else views[0])
        wide = canonical_input(x, dot).astype(jnp.float32)
        multiply = _by_rows if form.by_rows else _by_columns

        def product(some: jax.Array) -> jax.Array:
            return multiply(some, held, layer, target)

        return [restore_result(unfused(for_each_row(product, wide) if form.one_by_one else product(wide), target), dot)]

    bits = ((_HELD, matrix.argument),) if form.as_bits else ()
    used = tuple(argument for _, argument in bits)
    key = PreparedKey("dense", "as it lies", "", target.platform, (matrix.key,) if form.as_bits else (), matrix.name)
    return Replacement(
        preparation=Preparation(key, used, nothing_to_build, bits, vectors=frozenset(used)),
        values=(dot.x, *(() if dot.layer is None else (dot.layer,))),
        views=() if form.as_bits else (matrix.argument,),
        step=step,
        results=(dot.result,),
        before=dot.op,
        signature=repr((
            "dense", form, matrix.dtype, dot.batch, dot.x_free, dot.x_contracting, dot.row_shape, dot.rows_first,
            stacked, matrix.shape, matrix.layers,
        )),
    )  # fmt: skip


def _by_rows(x: jax.Array, held: jax.Array, layer: tuple[jax.Array, ...], target: Target) -> jax.Array:
    if not layer:
        return dot_of_few(x, held, target)
    return rows_dot(x, load(jax.lax.dynamic_index_in_dim(held, layer[0].reshape(()), keepdims=False)))


def _by_columns(x: jax.Array, held: jax.Array, layer: tuple[jax.Array, ...], target: Target) -> jax.Array:
    count, width = held.shape[-2:]
    index = jnp.arange(count, dtype=jnp.int32)
    if layer:
        index += layer[0].reshape(()).astype(jnp.int32) * count
    return chosen_columns_dot(x, held.reshape(-1, width), index, 1, target)
