"""What a compiled program says between devices: every collective, who takes part, and its bytes on the wire.

The compiled text of a program for several devices is one device's program. Every collective in it is found, with the
devices that talk to each other, the bytes it puts on the wire, and how often a call runs it. What that costs in
time is :mod:`hire_compiler.measuring.hlo.cost`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from hire_compiler.measuring.hlo.text import HloInstruction, HloProgram, collective_kind, collective_result_bytes

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of a compiled program.

    Attributes:
      kind: ``all-gather``, ``all-reduce`` …; a pair of start and done counts once.
      result_bytes: size of its result on one device.
      groups: the devices of each exchange; () means one exchange of all devices.
      devices: how many devices there are.
      trips: how often one call of the program runs it (loops whose count is not in the text count once).
      conditional: it stands in a branch that need not run.
      path: where it comes from in the author's program.
    """

    kind: str
    result_bytes: int
    groups: Groups
    devices: int
    trips: int = 1
    conditional: bool = False
    path: str = ""

    @property
    def group_size(self) -> int:
        """Devices that take part in one exchange."""
        return len(self.groups[0]) if self.groups else self.devices

    @property
    def wire_bytes(self) -> int:
        """Bytes that one device must receive for it once, by a ring.

        With n devices and a result of R bytes: all-gather and all-to-all (n−1)/n·R, all-reduce 2(n−1)/n·R,
        reduce-scatter (n−1)·R, permute and broadcast R.
        """
        n, size = self.group_size, self.result_bytes
        if self.kind in ("collective-permute", "collective-broadcast"):
            return size
        if self.kind == "reduce-scatter":
            return (n - 1) * size
        return -(-(n - 1) * size * (2 if self.kind == "all-reduce" else 1) // n)


def collectives(program: HloProgram, devices: int) -> tuple[Collective, ...]:
    """Every collective that one call of a compiled program can run, in program order.

    Args:
      program: ``read_hlo(compiled.as_text())``.
      devices: how many devices it was compiled for.
    """
    return tuple(_walk(program, program.entry, 1, False, devices))


def bytes_by_kind(found: Sequence[Collective], *, conditional: bool = True) -> dict[str, int]:
    """Bytes on the wire of one call, for one device: ``{"all-reduce": 24576, …}``.

    Args:
      conditional: count collectives of branches that need not run, too.
    """
    totals: dict[str, int] = {}
    for one in found:
        if conditional or not one.conditional:
            totals[one.kind] = totals.get(one.kind, 0) + one.wire_bytes * one.trips
    return dict(sorted(totals.items()))


def _walk(program: HloProgram, name: str, trips: int, conditional: bool, devices: int) -> Iterator[Collective]:
    for instruction in program.computations[name].instructions:
        kind = collective_kind(instruction.op)
        if kind:
            yield read_collective(instruction, devices, trips=trips, conditional=conditional)
        elif instruction.op == "while":
            times = trips * (program.trip_count(instruction) or 1)
            yield from _walk(program, instruction.attribute("body").lstrip("%"), times, conditional, devices)
        else:
            branch = conditional or instruction.op == "conditional"
            for called in instruction.called:
                yield from _walk(program, called, trips, branch, devices)


def read_collective(
    instruction: HloInstruction, devices: int, *, trips: int = 1, conditional: bool = False
) -> Collective:
    """One collective operation of a program for so many devices."""
    pairs = instruction.attribute("source_target_pairs")
    return Collective(
        kind=collective_kind(instruction.op),
        result_bytes=collective_result_bytes(instruction),
        groups=_braced(pairs) if pairs else replica_groups(instruction.attributes),
        devices=devices,
        trips=trips,
        conditional=conditional,
        path=instruction.path,
    )


def replica_groups(line: str) -> Groups:
    """Replica groups in any of the three ways XLA prints them; empty for "all devices"."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", line)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2])
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if tiled:
        order = _integers(tiled[3]) if tiled[3] else None
        return _tiled_groups(_integers(tiled[1]), _integers(tiled[2]), order)
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", line)
    return _braced(listed[1]) if listed else ()


def _braced(text: str) -> Groups:
    return tuple(_integers(group) for group in re.findall(r"\{([\d,]+)\}", text))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _tiled_groups(shape: tuple[int, ...], dims: tuple[int, ...], order: tuple[int, ...] | None) -> Groups:
    """``[groups,size]<=[dims]T(order)``: the devices as an array of ``dims``, transposed, cut in rows."""
    order = tuple(range(len(dims))) if order is None else order
    strides = [prod(dims[i + 1 :]) for i in range(len(dims))]
    flat = [sum(c * strides[axis] for c, axis in zip(place, order)) for place in _places([dims[a] for a in order])]
    size = shape[-1]
    return tuple(tuple(flat[i : i + size]) for i in range(0, len(flat), size))


def _mesh_groups(axes: str, used: str) -> Groups:
    """``mesh['a'=2,'b'=4] {'b'}``: devices that differ in the used axes only."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    inner = set(re.findall(r"'([^']+)'", used))
    groups: dict[tuple[int, ...], list[int]] = {}
    for device, place in enumerate(_places(list(sizes.values()))):
        outer = tuple(c for c, name in zip(place, sizes) if name not in inner)
        groups.setdefault(outer, []).append(device)
    return tuple(tuple(group) for group in groups.values())


def _places(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(n) for n in sizes))
