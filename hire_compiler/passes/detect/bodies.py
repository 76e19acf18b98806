"""What stands in the author's own ``shard_map`` or ``pmap``: every body as a program of one device.

A body is read as the program it is, its weights named as outside; ``passes/mesh/rewrite_bodies.py`` rewrites those that
can be. Bodies that hand a block's neurons from one to the next are read as one, where that makes a block of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from hire_compiler import _mlir
from hire_compiler.capture.program import Argument, Program
from hire_compiler.graph.graph import Graph, Op, Value, read_graph
from hire_compiler.passes.detect.detect import Detection
from hire_compiler.passes.detect.search import search
from hire_compiler.passes.normalize.fold import folded_graph
from hire_compiler.passes.normalize.join_bodies import NAME, Joint, join, joints
from hire_compiler.passes.plan.site_plan import leave_dense
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.site_match import of_kind
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.reports.report import Report

Numbers = tuple[int, ...]  # of manual computations, among all that stand in no other, in program order


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

    @cached_property
    def found(self) -> tuple[Any, Graph, Detection]:
        """What :func:`search` reads in it, once, in the context that is current at first."""
        return search(self.program)


@dataclass(frozen=True)
class Bodies:
    """What stands in the manual computations of a program.

    Attributes:
      inside: those that stand in no other's body, in order.
      joined: which of the program's computations are one among these; it stands in the place of the last of them.
    """

    inside: tuple[Inside, ...] = ()
    joined: tuple[Numbers, ...] = ()


def bodies(graph: Graph, module: Any, program: Program) -> Bodies:
    """The bodies of all manual computations of a normalized module, which stays as it is."""
    if not any(op.name == NAME for op in graph.ops(closed=frozenset({NAME}))):
        return Bodies()
    written = _read(graph, module, program)
    apart = joints(graph)
    if not apart:
        return Bodies(tuple(written))
    text, numbers = _mlir.to_bytecode(module), tuple(joint.numbers for joint in apart)
    together = _read_joined(text, numbers, program)
    joined = _worth_joining(apart, written, together)
    if not joined:
        return Bodies(tuple(written))
    return Bodies(tuple(together if joined == numbers else _read_joined(text, joined, program)), joined)


def join_some(module: Any, chosen: Collection[Numbers]) -> None:
    """Put one computation in the place of those of each tuple, in a module."""
    for joint in joints(read_graph(module)) if chosen else ():
        if joint.numbers in chosen:
            join(joint)


def left_apart(count: int, joined: Collection[Numbers]) -> list[int]:
    """The numbers of the computations that are left of so many, when some are joined."""
    gone = {number for numbers in joined for number in numbers[:-1]}
    return [number for number in range(count) if number not in gone]


def _read_joined(text: bytes, joined: Collection[Numbers], program: Program) -> list[Inside]:
    """The bodies of a copy of the module, some of them joined."""
    module = _mlir.parse(text)
    join_some(module, joined)
    return _read(folded_graph(module), module, program)


def _worth_joining(
    apart: Sequence[Joint], written: Sequence[Inside], together: Sequence[Inside]
) -> tuple[Numbers, ...]:
    """Which computations hold a block together that none of them holds alone."""
    left, found = left_apart(len(written), [joint.numbers for joint in apart]), []
    for joint in apart:
        parts = zip(joint.numbers, (*joint.firsts, joint.second), strict=True)
        alone = sum(_blocks(written[number]) for number, op in parts if _may(op))
        if _blocks(together[left.index(joint.numbers[-1])]) > alone:
            found.append(joint.numbers)
    return tuple(found)


def _may(op: Op) -> bool:
    """Whether a computation may hold a block by itself: it has two products."""
    return sum(inner.name == "dot_general" for inner in op.blocks[0].ops) > 1 or any(i.blocks for i in op.blocks[0].ops)


def _blocks(inside: Inside) -> int:
    return len(of_kind(inside.found[2].matches, FfnMatch))


def _read(graph: Graph, module: Any, program: Program) -> list[Inside]:
    found = [op for op in graph.ops(closed=frozenset({NAME})) if op.name == NAME]
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
