"""Dense forms: products that stay dense, spelled as their platform runs them best.

XLA:CPU widens the whole bfloat16 matrix of an ordinary product in memory before it multiplies, and one that a loop over
layers reads as a whole stack. The same float32 products can be summed while the matrix is read narrow::

    x @ w      w [in, out]   eight rows at a time in one vectorised loop, gathered as bits
    x @ w.T    w [out, in]   a matrix-vector product that converts on the way, for inputs below 16 KiB

No copy is made. The sums are taken in another order than the author's, so a result that is rounded to bfloat16 may be
its neighbour: nothing of this is done unasked. Left as they are: products of several rows, small ones, other types,
weights that are sliced, and whatever a rewritten site reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hire_compiler.capture.program import Argument
from hire_compiler.graph.graph import Graph, Op
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.replace.replacement import Preparation, Replacement
from hire_compiler.passes.replace.shapes import canonical_input, restore_result
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.site_match import SiteMatch, trips
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.reports.findings import Respelled
from hire_compiler.runtime.gathered import chosen_columns_dot
from hire_compiler.runtime.materialize import view
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import Target, load, rows_dot, unfused

LEAST_BYTES = 1 << 18  # of a matrix: less stays in the cache
_HELD = "matrix"


def dense_forms(
    graph: Graph, arguments: Sequence[Argument], rewritten: Sequence[SiteMatch], target: Target
) -> list[tuple[Respelled, Replacement]]:
    """Every product that has a better form on the target, and the replacement that is it.

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
        (_told(dot, by_rows, provenance), _respelled(dot, by_rows, target))
        for dot in dots
        if dot is not None and theirs.isdisjoint(dot.weight.arguments) and (by_rows := _lies(dot, target)) is not None
    ]


def _read(op: Op, provenance: Provenance) -> WeightDot | None:
    try:
        return read_weight_dot(op, provenance)
    except NoMatch:
        return None


def _lies(dot: WeightDot, target: Target) -> bool | None:
    """Whether a product reads its matrix by rows, or by columns (False); None where there is no better form."""
    types = {dot.weight.dtype, dot.weight.stored, dot.x.dtype}
    if type(dot.weight) is not Weight or types != {"bfloat16"} or dot.batch > 1 or dot.weight.nbytes < LEAST_BYTES:
        return None
    if dot.weight.is_view:
        return True if dot.d < target.fused_vector else None
    return False if dot.columns.is_view else None


def _told(dot: WeightDot, by_rows: bool, provenance: Provenance) -> Respelled:
    return Respelled(
        path=dot.op.scope,
        weight=dot.weight.name,
        form="rows, widened on the way" if by_rows else "columns, eight rows at a time",
        nbytes=dot.weight.nbytes * trips(dot, provenance.counters),
    )


def _respelled(dot: WeightDot, by_rows: bool, target: Target) -> Replacement:
    matrix = dot.weight if by_rows else dot.columns
    looped = dot.op.in_loop or matrix.layers is not None  # there only bits are not widened as a whole
    stacked = dot.layer is not None

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array, *layer: jax.Array) -> list[jax.Array]:
        held = view(matrix, prepared[_HELD] if looped else views[0])
        row = canonical_input(x, dot).astype(jnp.float32)
        product = _by_rows(row, held, layer) if by_rows else _by_columns(row, held, layer, target)
        return [restore_result(unfused(product, target), dot)]

    bits = ((_HELD, matrix.argument),) if looped else ()
    used = tuple(argument for _, argument in bits)
    key = PreparedKey("dense", "as it lies", "", target.platform, (matrix.key,) if looped else (), matrix.name)
    return Replacement(
        preparation=Preparation(key, used, lambda *_: {}, bits, vectors=frozenset(used)),
        values=(dot.x, *(() if dot.layer is None else (dot.layer,))),
        views=() if looped else (matrix.argument,),
        step=step,
        results=(dot.result,),
        before=dot.op,
        signature=repr((
            "dense", by_rows, dot.x_free, dot.x_contracting, dot.row_shape, dot.rows_first, stacked,
            matrix.shape, matrix.layers,
        )),
    )  # fmt: skip


def _by_rows(row: jax.Array, held: jax.Array, layer: tuple[jax.Array, ...]) -> jax.Array:
    own = held if not layer else jax.lax.dynamic_index_in_dim(held, layer[0].reshape(()), keepdims=False)
    return rows_dot(row, load(own))


def _by_columns(row: jax.Array, held: jax.Array, layer: tuple[jax.Array, ...], target: Target) -> jax.Array:
    count, width = held.shape[-2:]
    index = jnp.arange(count, dtype=jnp.int32)
    if layer:
        index += layer[0].reshape(()).astype(jnp.int32) * count
    return chosen_columns_dot(row, held.reshape(-1, width), index, 1, target)
