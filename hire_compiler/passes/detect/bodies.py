"""What stands in the author's own ``shard_map`` or ``pmap``: every body as a program of one device.

A body is read as the program it is, its weights named as outside; ``passes/mesh/rewrite_bodies.py`` rewrites those that
can be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from hire_compiler import _mlir
from hire_compiler.capture.program import Argument, Program
from hire_compiler.graph.graph import Graph, Op, Value
from hire_compiler.passes.detect.detect import Detection
from hire_compiler.passes.plan.site_plan import leave_dense
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.reports.report import Report

NAME = "sdy.manual_computation"


@dataclass(frozen=True)
class Inside:
    """One ``shard_map`` of a program, to be read and not rewritten.

    Attributes:
      program: its body; weights have the names they have outside, and the shapes of one device.
      devices: on how many it runs.
      repeat: how often it runs in one call.
      why: why it is not rewritten; '' where ``passes/mesh/rewrite_bodies.py`` may do that.
    """

    program: Program
    devices: int
    repeat: int
    why: str


def bodies(graph: Graph, module: Any, program: Program) -> list[Inside]:
    """The bodies of all manual computations of a normalized module that stand in no other's body."""
    found = [op for op in graph.ops(closed=frozenset({NAME})) if op.name == NAME]
    if not found:
        return []
    provenance = Provenance(program.arguments)
    meshes, text = _mlir.meshes(module), _mlir.to_bytecode(module)
    return [_inside(op, number, text, meshes, provenance, graph) for number, op in enumerate(found)]


def _inside(
    op: Op, number: int, text: bytes, meshes: dict[str, _mlir.Mesh], provenance: Provenance, graph: Graph
) -> Inside:
    mesh = dict(meshes[_mlir.manual_shardings(op.ir)[0]])
    axes = _mlir.manual_axes(op.ir)
    arguments = tuple(
        replace(_argument(outer, provenance), shape=inner.shape, dtype=inner.dtype)
        for outer, inner in zip(op.operands, op.blocks[0].args, strict=True)
    )
    why = ""
    if op.block is not graph.main:
        why = "a shard_map in a loop or a branch stays as it is"
    elif set(axes) != set(mesh):
        why = "a shard_map that leaves axes of the mesh to XLA stays as it is"
    body = Program("shard_map", _mlir.body_module(text, NAME, number), arguments)
    return Inside(body, prod(mesh[axis] for axis in axes), _trips(op, provenance), why)


def _argument(value: Value, provenance: Provenance) -> Argument:
    """What a body knows of an operand: the weight's name, or that it is none."""
    if provenance.is_weight(value):
        return Argument(provenance.weight(value).weight.name, (), "")
    source = provenance.sources.weight(value)
    if source is not None and not source.looked_up:
        return Argument(source.argument.name, (), "")
    small = len(value.shape) < 2 and provenance.sources.is_constant(value)  # a bias, a scale, a table of tokens
    return Argument("an array computed before the shard_map", (), "", donated=not small)


def _trips(op: Op, provenance: Provenance) -> int:
    """How often a body runs: as often as the counter of the loop around it that picks its weights."""
    for value in op.operands:
        layer = provenance.weight(value).layer if provenance.is_weight(value) else None
        if layer is not None:
            places = provenance.counters.values(layer)
            return len(places) if places is not None else 1
    return 1


def on_devices(report: Report, inside: Inside) -> Report:
    """The report of a body, its sites counted on all devices and in all trips."""
    sites = (replace(s, devices=s.devices * inside.devices, repeat=s.repeat * inside.repeat) for s in report.sites)
    return replace(report, sites=tuple(sites))


def left_dense(found: Detection, why: str) -> Report:
    """The report of a body that stays as it is."""
    plans = [
        leave_dense(site, why, sum(weight.nbytes for weight in match.weights))
        for site, match in zip(found.sites, found.matches, strict=True)
    ]
    return Report(sites=found.sites, misses=found.misses, decisions=tuple(plan.decision for plan in plans))
