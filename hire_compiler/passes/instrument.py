"""Instrument: make a program also return what a calibration wants to know of its sites.

At every site the sum of xxᵀ over the batch is computed beside the product that reads x; of a feed-forward block also
how many neurons were active, beside the product that reads them. All are returned after the program's own results.
Inside loops the sums are carried along: one more operand and result for every loop around the site, with one slot per
layer where the weights are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.calibration import WINNERS
from hire_compiler.graph import Value
from hire_compiler.passes.detect import Match
from hire_compiler.passes.facts import gives_zeros
from hire_compiler.passes.replacement import canonical_input, canonical_result, site_activity_key, site_moment_key
from hire_compiler.passes.splice import merge_jax_function
from hire_compiler.passes.trials import Candidate
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.runtime.activity import active_neurons, count_active, counted_size
from hire_compiler.runtime.target import Target

ROWS_A_CALL = 32  # input rows that one call leaves for trials


@dataclass(frozen=True)
class Probe:
    """One extra result of an instrumented program.

    Attributes:
      what: the second moment of an input, counts of active neurons, some of the input's rows themselves, or counts of
        the rows that won.
      key: the name a calibration files it under.
      shape: of the result; its first dimension counts the layers where the weights are stacked.
      rows: rows seen in one call (per layer).
      width: neurons that were counted.
      strongest: share of them that was taken for active in each row; None where active means not zero.
    """

    what: Literal["moment", "activity", "inputs", "winners"]
    key: str
    shape: tuple[int, ...]
    rows: int
    width: int = 0
    strongest: float | None = None


@dataclass(frozen=True)
class Instrumented:
    """The program with its probes; ``@main`` returns what they saw after its own results."""

    module: bytes
    probes: tuple[Probe, ...]
    skipped: tuple[str, ...]
    candidates: tuple[Candidate, ...] = ()


def instrument(
    module: Any, matches: Sequence[Match], target: Target, strongest: float, candidates: Sequence[Candidate] = ()
) -> Instrumented:
    """Edit a parsed, normalized module in place.

    Args:
      strongest: share of a row's neurons that counts as active where none is exactly zero.
      candidates: blocks on which predictors are to be tried: some of their input rows are returned too.
    """
    wanted = {candidate.key for candidate in candidates}
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    probes: list[Probe] = []
    skipped, pending = [], []
    for match in matches:
        for probe, dot, look in _probes(match, strongest, wanted):
            if any((known.what, known.key) == (probe.what, probe.key) for known in probes):
                continue
            if _enclosing_loops(dot.op.ir, block) is None:
                skipped.append(f"{probe.key}: it stands in a branch, which calibration does not enter")
                continue
            probes.append(probe)
            pending.append(_emit_sum(module, block, dot, look, probe, target))
    for call in pending:
        # At once, before the next sum rebuilds the same loops: the return keeps track of replaced values.
        _mlir.append_result(block, _carry_out(call, block))
    _mlir.set_main_signature(function)
    _mlir.run_passes(module, "trivial-dce")
    return Instrumented(_mlir.to_bytecode(module), tuple(probes), tuple(skipped), tuple(candidates))


_Look = Callable[[jax.Array], jax.Array]


def _probes(match: Match, strongest: float, wanted: Collection[str]) -> list[tuple[Probe, WeightDot, _Look]]:
    """What to learn of a site: the probe, the product it looks at, and what it makes of its input (winners: result)."""
    dot = match.products[0] if isinstance(match, FfnMatch) else match.dot
    stack = () if dot.weight.layers is None else (dot.weight.layers,)
    moment = Probe("moment", site_moment_key(match), (*stack, dot.d, dot.d), dot.batch)
    probes: list[tuple[Probe, WeightDot, _Look]] = [(moment, dot, _moment)]
    if isinstance(match, FfnMatch):
        down, share = match.down, None if gives_zeros(match) else strongest
        shape = (*stack, counted_size(down.d))
        activity = Probe("activity", site_activity_key(match), shape, down.batch, down.d, share)
        probes.append((activity, down, partial(_activity, strongest=share)))
        if site_activity_key(match) in wanted:
            rows = min(dot.batch, ROWS_A_CALL)
            inputs = Probe("inputs", site_activity_key(match), (*stack, rows, dot.d), rows)
            probes.append((inputs, dot, partial(_some_rows, count=rows)))
    elif dot.weight.layers is None:
        winners = Probe("winners", site_moment_key(match), (dot.rows,), dot.batch)
        probes.append((winners, dot, _winners))
    return probes


def _moment(rows: jax.Array) -> jax.Array:
    rows = rows.astype(jnp.float32)
    return jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)


def _activity(h: jax.Array, strongest: float | None) -> jax.Array:
    return count_active(active_neurons(h, strongest))


def _some_rows(rows: jax.Array, count: int) -> jax.Array:
    """Rows at equal distances."""
    return rows[:: len(rows) // count][:count].astype(jnp.float32)


def _winners(logits: jax.Array) -> jax.Array:
    best = jax.lax.top_k(logits.astype(jnp.float32), min(WINNERS, logits.shape[1]))[1]
    return jnp.zeros(logits.shape[1], jnp.float32).at[best.reshape(-1)].add(1.0)


def _enclosing_loops(op: Any, block: Any) -> list[Any] | None:
    loops: list[Any] = []
    while op.block != block:
        op = op.parent.operation
        if op.name != "stablehlo.while":
            return None
        loops.insert(0, op)
    return loops


def _emit_sum(module: Any, block: Any, dot: WeightDot, look: _Look, probe: Probe, target: Target) -> Any:
    """Put ``sum + look(x)`` (of rows the last ones seen) before the product, or behind it if it looks at the result.

    The sum is still a constant zero.
    """
    layer: Value | None = dot.layer
    shape, last, behind = probe.shape, probe.what == "inputs", probe.what == "winners"
    seen = dot.result if behind else dot.x

    def add(total: jax.Array, value: jax.Array, *layers: jax.Array) -> list[jax.Array]:
        found = look(canonical_result(value, dot) if behind else canonical_input(value, dot))
        if layers:
            place = total.at[layers[0].reshape(())]
            return [place.set(found) if last else place.add(found)]
        return [found if last else total + found]

    values = [seen] if layer is None else [seen, layer]
    types = [jax.ShapeDtypeStruct(value.shape, jnp.dtype(value.dtype)) for value in values]
    types.insert(0, jax.ShapeDtypeStruct(shape, jnp.float32))
    merged = merge_jax_function(module, "hire_probe", add, types, target)
    with _mlir.ir.InsertionPoint.at_block_begin(block):
        zero = _mlir.zeros(shape)
    place = _mlir.ir.InsertionPoint
    with place.after(dot.op.ir) if behind else place(dot.op.ir):
        return _mlir.call(*merged, [zero, *(value.ir for value in values)])[0].owner.operation


def _carry_out(call: Any, block: Any) -> Any:
    """Carry the sum through every loop around ``call``; the final sum, in the block of ``@main``."""
    loops = _enclosing_loops(call, block)
    assert loops is not None
    total = call.operands[0]
    rebuilt = []
    for loop in loops:
        new, (total,) = _mlir.rebuild_while(loop, range(len(loop.operands)), [total])
        rebuilt.append(new)
    call.operands[0] = total
    final = call.results[0]
    for loop in reversed(rebuilt):
        terminator = list(loop.regions[1].blocks[0].operations)[-1].operation
        terminator.operands[len(terminator.operands) - 1] = final
        final = loop.results[len(loop.results) - 1]
    return final
