"""The oracle of "same selection, same answer" for programs that nobody here wrote.

The author's own graph stays as it is, every product dense. Beside each site the selection of the rewrite is computed,
and whatever it did not select is masked out: the other neurons' activations where the second product reads them, the
other rows' logits where they come out. No row is gathered and no weight re-laid, so a wrong order of rows, a wrong
offset or a wrong layer in the rewrite shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import Program, capture
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.detect.detect import detect
from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.passes.pipeline import rewrite_program
from hire_compiler.passes.plan.neurons import common_order
from hire_compiler.passes.replace.head import comparison
from hire_compiler.passes.replace.preparing import predictor_arrays
from hire_compiler.passes.replace.read_vectors import entries, vectors_of
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.passes.replace.shapes import canonical_input
from hire_compiler.passes.splice.splice import splice
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.ffn import PerRow, select_groups
from hire_compiler.runtime.logits import select_candidates
from hire_compiler.runtime.target import target_for

CPU = target_for("cpu")


def masked(
    function: Callable[..., Any], config: hire.Config, *args: Any, calibration: hire.Calibration | None = None
) -> Any:
    """What the function returns when every site is masked down to the rows that ``config`` selects."""
    wrapped = UserFunction(function)
    leaves, tree = wrapped.flatten(args, {})
    program = capture(wrapped, leaves, tree)
    values = [*program.constants, *leaves]
    return jax.tree.unflatten(program.out_tree, masked_flat(program, config, values, calibration))


def masked_flat(
    program: Program, config: hire.Config, values: list[Any], calibration: hire.Calibration | None = None
) -> list[Any]:
    """The same for a program and its flat arguments."""
    plans = rewrite_program(program, config, calibration, "cpu").plans
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        found = detect(read_graph(module), program.arguments)
        pairs = [(m, p) for m, p in zip(found.matches, plans, strict=True) if p.predictor is not None]
        masks = [(p.site.id, _mask(m, p, kind_of(m).replace(m, p, CPU), _order(m, p, calibration))) for m, p in pairs]
        spliced = splice(module, masks, [(a.shape, a.dtype) for a in program.arguments], CPU)
    built = {key: p.traced(*[jnp.asarray(values[i]) for i in p.arguments]) for key, p in spliced.preparations.items()}
    operands = [values[i] for i in spliced.kept] + [built[e.preparation][e.name] for e in spliced.prepared]
    return jax.jit(lambda *o: _mlir.run_module(spliced.module, program.out_avals, o), keep_unused=True)(*operands)


def _order(match: SiteMatch, plan: Any, calibration: hire.Calibration | None) -> np.ndarray:
    """Which neuron stands where, with the common path first: ``[layers, width]``."""
    if not plan.common:
        return np.arange(plan.site.width)[None]
    assert isinstance(match, FfnMatch)
    assert calibration is not None
    activity = calibration.activities[match.neuron_key]
    return np.atleast_2d(common_order(activity, plan.group, plan.common))


def _mask(match: SiteMatch, plan: Any, replacement: Replacement, order: np.ndarray) -> Replacement:
    if isinstance(match, FfnMatch):
        return _mask_ffn(match, plan, replacement, order)
    return _mask_head(match, plan, replacement)


def _mask_ffn(match: FfnMatch, plan: Any, replacement: Replacement, places: np.ndarray) -> Replacement:
    down, up = match.down, match.products[0]

    vectors = vectors_of([(o.weight, i) for o, i in match.biases], lie_as_written=not plan.common)

    def step(prepared: Any, views: Any, x: jax.Array, h: jax.Array, *layers: jax.Array) -> list[jax.Array]:
        bias, layer = match.activation.gate_bias, layers[0].reshape(()) if layers else None
        own = vectors.values(prepared, views, layer, x.size // up.d)

        def beside(i: int, layer: Any) -> jax.Array:
            if isinstance(own[i], PerRow):
                return own[i].values
            return own[i][..., plan.common :] if layer is None else own[i][layer, plan.common :]

        groups = select_groups(
            canonical_input(x, up), predictor_arrays(prepared),
            None if bias is None else own[bias] if isinstance(own[bias], PerRow) else own[bias][..., plan.common :],
            lambda z: match.relevance(z, [beside(i, layer) for i in match.relevance.reads]),
            plan.group, (plan.candidates - plan.common) // plan.group, CPU, layer,
        )  # fmt: skip
        rest = jnp.zeros((down.d - plan.common) // plan.group, bool).at[groups].set(True).repeat(plan.group)
        neurons = jnp.asarray(places)[0 if layer is None or len(places) == 1 else layer]
        chosen = jnp.ones(down.d, bool).at[neurons[plan.common :]].set(rest)
        # Neuron n is entry n of the contracting dimensions, taken in the order in which the product pairs them.
        dims = down.x_contracting
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        mask = chosen.reshape([h.shape[i] for i in dims]).transpose(order)
        return [jnp.where(jax.lax.broadcast_in_dim(mask, h.shape, sorted(dims)), h, 0)]

    operand = _Operand(down.op, next(i for i, value in enumerate(down.op.operands) if value is down.x))
    values = (match.x, down.x) if match.layer is None else (match.x, down.x, match.layer)
    return replace(
        replacement, values=values, views=vectors.arguments, step=step, results=(operand,), measure="",
        signature=repr(id(match)),
    )  # fmt: skip


def _mask_head(match: HeadMatch, plan: Any, replacement: Replacement) -> Replacement:
    dot = match.dot
    assert all(winner.noise is None for winner in match.winners), "noise decides what is selected: not done here"

    parameters = match.winners[0].region.parameters if match.winners else ()

    def step(prepared: Any, views: Any, x: jax.Array, logits: jax.Array) -> list[jax.Array]:
        read = [entries(origin.weight, index, view) for (origin, index), view in zip(parameters, views, strict=True)]
        ids, scores = select_candidates(
            canonical_input(x, dot), predictor_arrays(prepared), plan.candidates, CPU,
            compared=_compared(match, prepared, read), survivors=plan.survivors,
        )  # fmt: skip
        free = len(dot.batch_shape)
        rows = logits if not dot.rows_first else jnp.moveaxis(logits, range(-free, 0), range(free)) if free else logits
        flat = rows.reshape(dot.batch, dot.rows)
        chosen = jnp.zeros(flat.shape, bool).at[jnp.arange(dot.batch)[:, None], ids].set(True)
        rest = scores.astype(flat.dtype) if plan.tail == "predicted" and not plan.winners_only else -jnp.inf
        flat = jnp.where(chosen, flat, rest).reshape(rows.shape)
        return [flat if not dot.rows_first or not free else jnp.moveaxis(flat, range(free), range(-free, 0))]

    following = dot.op.block.ops[dot.op.block.ops.index(dot.op) + 1]
    return replace(
        replacement, values=(dot.x, dot.result), views=tuple(origin.weight.argument for origin, _ in parameters),
        step=step, results=(_Uses(dot.op),), before=following, measure="", author=None, captured=(),
        signature=repr(id(match)),
    )  # fmt: skip


def _compared(match: HeadMatch, prepared: Any, read: list[jax.Array]) -> list[Any]:
    """What the readers compare: of winners the first one's values, they are all alike.

    Args:
      read: the vectors of winners, which a step reads from their arguments.
    """
    regions = [match.winners[0].region] if match.winners else list(match.compared)
    owners = np.cumsum([0, *(len(region.parameters) for region in regions)])
    vectors = read if match.winners else [prepared[f"vector{i}"] for i in range(owners[-1])]
    return [comparison(r, vectors[a:b]) for r, (a, b) in zip(regions, pairwise(owners), strict=True)]


class _Operand:
    """One operand of an operation, as a value that can be replaced."""

    def __init__(self, op: Any, index: int) -> None:
        self.shape, self.dtype = op.operands[index].shape, op.operands[index].dtype
        self.ir, self._op, self._index = self, op.ir, index

    def replace_all_uses_with(self, new: Any) -> None:
        self._op.operands[self._index] = new


class _Uses:
    """A result for all its readers but the one that makes the new value of it."""

    def __init__(self, op: Any) -> None:
        self.shape, self.dtype = op.result.shape, op.result.dtype
        self.ir, self._value = self, op.ir.results[0]

    def replace_all_uses_with(self, new: Any) -> None:
        for use in list(self._value.uses):
            if use.owner != new.owner:
                use.owner.operands[use.operand_number] = new


def largest_difference(got: Any, wanted: Any) -> float:
    """Of any floating output, relative to its largest number; inf if an integer or a NaN differs."""
    worst = 0.0
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if not jnp.issubdtype(other.dtype, jnp.floating):
            worst = worst if bool(jnp.array_equal(one, other)) else np.inf
            continue
        a, b = (np.asarray(v.astype(jnp.float32), np.float64) for v in (one, other))
        finite = np.isfinite(b)
        if not np.array_equal(finite, np.isfinite(a)):
            return np.inf
        worst = max(worst, float(np.abs(a - b)[finite].max(initial=0) / max(np.abs(b[finite]).max(initial=0), 1e-30)))
    return worst
