"""Verify: no branch may hold a collective that some of its devices could skip.

Inside one device's program (``sdy.manual_computation``) a collective waits for the whole group. Where it stands in a
branch or a loop, the decision to go there has to be the same on every device of that group, or the others wait for
ever. The check is an abstract interpretation: for every value, which devices surely hold the same number.

A value is described by one label a device; devices with equal labels hold equal values. Arguments differ along the mesh
axes that split them, an all-reduce or all-gather makes its groups agree, everything else is as equal as what it is
computed from. Outside manual computations the program means the same on every device, and nothing needs checking.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from hire_compiler import _mlir
from hire_compiler.errors import TransformError
from hire_compiler.graph.graph import Block, Graph, Op, Value, read_graph
from hire_compiler.sharding.layout import MeshShape, Spec

Labels = tuple[int, ...]
Groups = tuple[tuple[int, ...], ...]

_COLLECTIVES = frozenset(
    {"all_reduce", "all_gather", "all_to_all", "reduce_scatter", "collective_permute", "collective_broadcast"}
)
_DIFFERENT = frozenset({"partition_id", "replica_id", "all_to_all", "reduce_scatter", "collective_permute"})


def check_collectives(module: Any) -> int:
    """Check a module whose calls are inlined; how many collectives stand in branches or loops of one device's program.

    Raises:
      TransformError: devices of one group might decide differently whether to run a collective.
    """
    return _check(read_graph(module), _mlir.meshes(module))


def verify(module: bytes) -> int:
    """The same for bytecode, calls and all."""
    with _mlir.fresh_context():
        parsed = _mlir.parse(module)
        _mlir.inline_calls(parsed)
        return check_collectives(parsed)


def _check(graph: Graph, meshes: dict[str, _mlir.Mesh]) -> int:
    checked = 0
    for op in graph.ops():
        if op.name == "sdy.manual_computation":
            checked += _ManualProgram(op, meshes).checked
    return checked


class _ManualProgram:
    """Walks the body of one manual computation once; the answer is in ``checked``."""

    def __init__(self, op: Op, meshes: dict[str, _mlir.Mesh]) -> None:
        name, specs = _mlir.manual_shardings(op.ir)
        self._mesh = MeshShape(meshes[name])
        self._meshes = meshes
        self._labels: dict[int, Labels] = {}
        self.checked = 0
        (body,) = op.blocks
        for argument, spec in zip(body.args, specs, strict=True):
            self._labels[id(argument)] = self._split_labels(spec)
        self._walk(body)

    def _walk(self, block: Block) -> list[Labels]:
        """Label everything in a block; the labels of what it returns."""
        for op in block.ops[:-1]:
            for result, labels in zip(op.results, self._op(op), strict=True):
                self._labels[id(result)] = labels
        return [self._of(value) for value in block.returned]

    def _of(self, value: Value) -> Labels:
        return self._labels.get(id(value), self._same)  # what comes from outside a manual computation is the same

    def _op(self, op: Op) -> list[Labels]:
        count = len(op.results)
        if op.name in ("if", "case"):
            return self._branch(op)
        if op.name == "while":
            return self._loop(op)
        if op.name in ("all_reduce", "all_gather", "collective_broadcast"):
            groups = self._groups(op)
            return [_agreed(self._of(operand), groups) for operand in op.operands][:count]
        if op.name in _DIFFERENT:
            return [tuple(range(self._mesh.devices))] * count
        return [_joined([self._of(operand) for operand in op.operands], self._mesh.devices)] * count

    def _branch(self, op: Op) -> list[Labels]:
        decides = self._of(op.operands[0])
        self._check(op, decides)
        returned = [self._walk(block) for block in op.blocks]
        return [_joined([decides, *labels], self._mesh.devices) for labels in zip(*returned, strict=True)]

    def _loop(self, op: Op) -> list[Labels]:
        condition, body = op.blocks
        carried = [self._of(operand) for operand in op.operands]
        while True:
            for block in op.blocks:
                for argument, labels in zip(block.args, carried, strict=True):
                    self._labels[id(argument)] = labels
            (decides,) = self._walk(condition)
            returned = self._walk(body)
            after = [
                _joined([old, new, decides], self._mesh.devices) for old, new in zip(carried, returned, strict=True)
            ]
            if after == carried:
                break
            carried = after
        self._check(op, decides)
        return carried

    def _check(self, op: Op, decides: Labels) -> None:
        for inner in _inside(op):
            if inner.name not in _COLLECTIVES:
                continue
            self.checked += 1
            for group in self._groups(inner):
                if len({decides[device] for device in group}) > 1:
                    scope = inner.scope or op.scope
                    raise TransformError(
                        f"{inner.name} stands in a branch or loop ({op.name}{f' in {scope!r}' if scope else ''}), and "
                        f"devices {list(group)} may decide differently whether to go there, so some would wait for "
                        "ever: reduce the predicate over the mesh (lax.pmin) first"
                    )

    def _groups(self, op: Op) -> Groups:
        axes = _mlir.collective_axes(op.ir)
        if axes is None:
            return _mlir.collective_groups(op.ir) or (tuple(range(self._mesh.devices)),)
        mesh = MeshShape(self._meshes[axes[0]])
        others = tuple(name for name, _ in mesh.axes if name not in axes[1])
        labels = _coordinates(mesh, others)
        return tuple(tuple(d for d, label in enumerate(labels) if label == one) for one in dict.fromkeys(labels))

    def _split_labels(self, spec: Spec) -> Labels:
        return _coordinates(self._mesh, tuple(axis for axes in spec for axis in axes))

    @property
    def _same(self) -> Labels:
        return (0,) * self._mesh.devices


def _coordinates(mesh: MeshShape, axes: Sequence[str]) -> Labels:
    """Devices numbered by their place along some axes."""
    places = product(*(range(size) for _, size in mesh.axes))
    at = [i for i, (name, _) in enumerate(mesh.axes) if name in axes]
    return _numbered([tuple(place[i] for i in at) for place in places])


def _joined(labels: Sequence[Labels], devices: int) -> Labels:
    """As equal as all of these together."""
    return _numbered(list(zip(*labels, strict=True))) if labels else (0,) * devices


def _agreed(labels: Labels, groups: Groups) -> Labels:
    """After an exchange the devices of a group hold the same; groups that put in the same get out the same."""
    found: list[Any] = list(labels)
    for group in groups:
        for device in group:
            found[device] = ("group", tuple(labels[member] for member in group))
    return _numbered(found)


def _numbered(keys: Sequence[Any]) -> Labels:
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return tuple(order[key] for key in keys)


def _inside(op: Op) -> list[Op]:
    return [inner for block in op.blocks for each in block.ops for inner in (each, *_inside(each))]
