"""Instrument: make a program also return what a calibration wants to know of its sites.

At every site the sum of xxᵀ over the batch is computed beside the product that reads x; of a feed-forward block also
how many neurons were active, beside the product that reads them. All are returned after the program's own results.
Inside loops the sums are carried along: one more operand and result for every loop around the site, with one slot per
layer where the weights are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.calibration.head_trials import HeadCandidate
from hire_compiler.calibration.trials import Candidate
from hire_compiler.graph.graph import Value
from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.kinds.probes import Look, Probe
from hire_compiler.passes.replace.shapes import canonical_input, canonical_result
from hire_compiler.passes.splice.splice import merge_jax_function
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.target import Target


@dataclass(frozen=True)
class Instrumented:
    """The program with its probes; ``@main`` returns what they saw after its own results.

    Attributes:
      skipped: what could not be probed, by the name a calibration would file it under, and why not.
    """

    module: bytes
    probes: tuple[Probe, ...]
    skipped: dict[str, str]
    candidates: tuple[Candidate | HeadCandidate, ...] = ()


def instrument(
    module: Any,
    matches: Sequence[SiteMatch],
    target: Target,
    strongest: float,
    candidates: Sequence[Candidate | HeadCandidate] = (),
    looks: Callable[[SiteMatch], Sequence[Look]] | None = None,
) -> Instrumented:
    """Edit a parsed, normalized module in place.

    Args:
      strongest: share of a row's neurons that counts as active where none is exactly zero.
      candidates: blocks on which predictors are to be tried: some of their input rows are returned too.
      looks: what to look at of each site, in the place of what a calibration wants.
    """
    wanted = {candidate.key for candidate in candidates}
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    probes: list[Probe] = []
    skipped: dict[str, str] = {}
    pending = []
    for match in matches:
        usual = kind_of(match).looks(match, strongest, wanted) if looks is None else looks(match)
        for look in usual:
            probe = look.probe
            if any((known.what, known.key) == (probe.what, probe.key) for known in probes):
                continue
            if _enclosing_loops(look.dot.op.ir, block) is None:
                skipped[probe.key] = "it stands in a branch, which calibration does not enter"
                continue
            probes.append(probe)
            pending.append(_emit_sum(module, block, look, target))
    for call in pending:
        # At once, before the next sum rebuilds the same loops: the return keeps track of replaced values.
        _mlir.append_result(block, _carry_out(call, block))
    _mlir.set_main_signature(function)
    _mlir.run_passes(module, "trivial-dce")
    return Instrumented(_mlir.to_bytecode(module), tuple(probes), skipped, tuple(candidates))


def _enclosing_loops(op: Any, block: Any) -> list[Any] | None:
    loops: list[Any] = []
    while op.block != block:
        op = op.parent.operation
        if op.name != "stablehlo.while":
            return None
        loops.insert(0, op)
    return loops


def _emit_sum(module: Any, block: Any, look: Look, target: Target) -> Any:
    """Put ``sum + made(x)`` (of rows the last ones seen) before the product, or behind it if it looks at the result.

    The sum is still a constant zero.
    """
    probe, dot = look.probe, look.dot
    layer: Value | None = dot.layer
    shape, last, behind = probe.shape, probe.what == "inputs", probe.what == "winners"
    seen = dot.result if behind else dot.x

    def add(total: jax.Array, value: jax.Array, *layers: jax.Array) -> list[jax.Array]:
        found = look.make(canonical_result(value, dot) if behind else canonical_input(value, dot))
        if layers:
            place = total.at[layers[0].reshape(())]
            return [place.set(found) if last else place.add(found)]
        return [found if last else total + found]

    values = [seen] if layer is None else [seen, layer]
    types = [jax.ShapeDtypeStruct(value.shape, jnp.dtype(value.dtype)) for value in values]
    types.insert(0, jax.ShapeDtypeStruct(shape, jnp.float32))
    merged = merge_jax_function(module, "hire_probe", add, types, target)
    with _mlir.ir.InsertionPoint.at_block_begin(block):
        zero = _mlir.filled(_mlir.make_tensor_type(shape, "float32"), 0)
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
