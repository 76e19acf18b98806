"""Instrument: make a program also return the second moments of its sites' inputs.

At every site the sum of xxᵀ over the batch is computed beside the product that reads x, and returned after the
program's own results. Inside loops the sum is carried along: one more operand and result for every loop
around the site, with one slot per layer where the weights are stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.graph import Value
from hire_compiler.passes.detect import Match
from hire_compiler.passes.replacement import canonical_input, site_moment_key
from hire_compiler.passes.splice import merge_jax_function
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.runtime.target import Target


@dataclass(frozen=True)
class Probe:
    """One extra result of an instrumented program.

    Attributes:
      key: the name a calibration files it under.
      rows: rows of x summed in one call (per layer).
    """

    key: str
    rows: int


@dataclass(frozen=True)
class Instrumented:
    """The program with its probes; ``@main`` returns the moments after its own results."""

    module: bytes
    probes: tuple[Probe, ...]
    shapes: tuple[tuple[int, ...], ...]
    skipped: tuple[str, ...]


def instrument(module: Any, matches: Sequence[Match], target: Target) -> Instrumented:
    """Edit a parsed, normalized module in place."""
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    probes, shapes, skipped, seen = [], [], [], set()
    pending = []
    for match in matches:
        key = site_moment_key(match)
        dot = match.products[0] if isinstance(match, FfnMatch) else match.dot
        if key in seen:
            continue
        seen.add(key)
        loops = _enclosing_loops(dot.op.ir, block)
        if loops is None:
            skipped.append(f"{key}: it stands in a branch, which calibration does not enter")
            continue
        probes.append(Probe(key, dot.batch))
        layers = () if dot.weight.layers is None else (dot.weight.layers,)
        shapes.append((*layers, dot.d, dot.d))
        pending.append(_emit_sum(module, block, dot, dot.layer, shapes[-1], target))
    for call in pending:
        # At once, before the next sum rebuilds the same loops: the return keeps track of replaced values.
        _mlir.append_result(block, _carry_out(call, block))
    _mlir.set_main_signature(function)
    _mlir.run_passes(module, "trivial-dce")
    return Instrumented(_mlir.to_bytecode(module), tuple(probes), tuple(shapes), tuple(skipped))


def _enclosing_loops(op: Any, block: Any) -> list[Any] | None:
    loops: list[Any] = []
    while op.block != block:
        op = op.parent.operation
        if op.name != "stablehlo.while":
            return None
        loops.insert(0, op)
    return loops


def _emit_sum(
    module: Any, block: Any, dot: WeightDot, layer: Value | None, shape: tuple[int, ...], target: Target
) -> Any:
    """Put ``sum + xxᵀ`` in front of the product; the sum is still a constant zero."""

    def add_moment(total: jax.Array, x: jax.Array, *layers: jax.Array) -> list[jax.Array]:
        rows = canonical_input(x, dot).astype(jnp.float32)
        moment = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
        return [total.at[layers[0].reshape(())].add(moment) if layers else total + moment]

    values = [dot.x] if layer is None else [dot.x, layer]
    types = [jax.ShapeDtypeStruct(value.shape, jnp.dtype(value.dtype)) for value in values]
    types.insert(0, jax.ShapeDtypeStruct(shape, jnp.float32))
    merged = merge_jax_function(module, "hire_moment", add_moment, types, target)
    with _mlir.ir.InsertionPoint.at_block_begin(block):
        zero = _mlir.zeros(shape)
    with _mlir.ir.InsertionPoint(dot.op.ir):
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
