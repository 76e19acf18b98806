"""What a compiled TPU program is expected to cost: the TPU compiler's own cycles, and a price for what it leaves blank.

The scheduled program of XLA:TPU carries ``estimated_cycles`` for most operations. For gathers, sorts, the fused
predictor + partial top-k, copies and collectives it says nothing, and those are priced here:

===================  =================================================================================================
operation            seconds
===================  =================================================================================================
with cycles          ``cycles / clock``
sort                 ``3 · stages · vectors / clock``: a bitonic network of n' = 2^⌈log₂ n⌉ elements has
                     log₂ n' (log₂ n' + 1) / 2 stages, each over every vector register (8 × 128) of every operand
top-k (exact)        ``k · (330 + 4.9 · vectors) / clock``: it takes out one maximum after the other
partial top-k        ``2.5 · vectors / clock``, of what it reads
matmul fused with a  ``HBM bytes / streamed``: at the rate at which the compiler's own cycles let a plain matmul read
partial top-k        its weights (570 GB/s on v5e), so that fused and plain forms compare; and at least
                     ``weights / 1024 / clock``, where they were brought into VMEM before
collective           ``steps · hop + wire bytes / ICI``, as a ring of n devices does it: n − 1 steps, all-reduce twice
                     as many, a permute 1
anything else        ``HBM bytes / HBM bandwidth``
===================  =================================================================================================

The constants of sorts and of the partial top-k come from the compiler's instruction schedules of such operations
(libtpu 0.0.52, docs/tpu.md), that of the exact top-k from one measured on a v5e: [32, 201088], k = 64, takes 1320 µs.
HBM bytes are those of operands and results that live in memory space 0; a
gather or a dynamic slice reads what it returns, not what it indexes, inside fusions too; an update in place writes
the update. Times are added up as if nothing overlapped. They are for comparing programs, not for predicting a wall
clock: the truth for memory-bound programs lies near their bytes, which every estimate shows beside its time. A
conditional counts with its cheapest branch (the proof of a certificate holds); with the dearest one in
``worst_seconds``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log2, prod

from hire_compiler.measuring.hlo.communication import read_collective
from hire_compiler.measuring.hlo.text import Array, Computation, HloInstruction, HloProgram, collective_kind
from hire_compiler.measuring.hlo.traffic import bodies, hbm_bytes, is_prefetch


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU chip, as its maker specifies it.

    Attributes:
      name: ``v5e``, ``v5p`` or ``v6e``.
      clock: cycles a second.
      hbm: bytes a second between HBM and the core.
      streamed: bytes a second at which the compiler expects a matmul to read its weights.
      ici: bytes a second over the links to other chips.
      hop: seconds that one step of a collective takes whatever its size.
    """

    name: str
    clock: float
    hbm: float
    streamed: float
    ici: float
    hop: float


# HBM and links as the maker states them. The clock is the one at which all matrix units together reach the stated peak
# of bfloat16: 4 units of 128 × 128 and 197 Tflop/s on v5e; 8 and 459 on v5p; 4 of 256 × 256 and 918 on v6e. At that
# clock the compiler's cycles for a head of 2048 × 262144 mean the streamed rates: 71, 58 and 84 % of HBM. Streams that
# others measured on a v5e reach 78 to 92 %.
CHIPS = {
    "v5e": Chip(name="v5e", clock=1.5e9, hbm=819e9, streamed=570e9, ici=400e9, hop=1e-6),
    "v5p": Chip(name="v5p", clock=1.75e9, hbm=2765e9, streamed=1500e9, ici=1200e9, hop=1e-6),
    "v6e": Chip(name="v6e", clock=1.75e9, hbm=1640e9, streamed=1370e9, ici=800e9, hop=1e-6),
}
SMALLEST = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")  # topologies that libtpu compiles for

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "domain", "get-dimension-size",
}  # fmt: skip
_MOVES = {
    "parameter", "constant", "bitcast", "copy", "convert", "transpose", "reshape", "slice", "dynamic-slice", "tuple",
    "get-tuple-element", "broadcast", "concatenate", "pad", "fusion", "dynamic-update-slice", "select", "clamp",
    "compare", "add", "iota", "and",
}  # fmt: skip
_LANES, _SUBLANES = 128, 8  # of a vector register


@dataclass(frozen=True, kw_only=True)
class OpCost:
    """One operation of the compiled program, all its runs together.

    Attributes:
      name: in the compiled program.
      kind: ``matmul``, ``gather``, ``matmul + partial top-k``, ``sort``, ``copy``, ``prefetch``, a collective,
        ``elementwise`` …
      path: where it comes from in the author's program.
      repeat: how often it runs.
      seconds: of all runs.
      cycles: the compiler's own estimate for all runs, or None where it gives none.
      hbm_bytes: read and written in HBM by all runs.
      wire_bytes: moved over the links by all runs, per chip.
      rare: in a branch that does not count in the usual case.
    """

    name: str
    kind: str
    path: str
    repeat: int
    seconds: float
    cycles: int | None = None
    hbm_bytes: int = 0
    wire_bytes: int = 0
    rare: bool = False


def price(program: HloProgram, chip: Chip, devices: int = 1) -> tuple[OpCost, ...]:
    """The cost of every operation that takes time, in program order."""
    return tuple(_computation(program, program.main, chip, devices, 1))


def worst_seconds(program: HloProgram, chip: Chip, devices: int = 1, computation: str | None = None) -> float:
    """Seconds of one run in which every conditional takes its dearest branch."""
    own = program.computations[computation or program.entry]
    total = 0.0
    for instruction in own.instructions:
        if instruction.op == "while":
            body = instruction.attribute("body").lstrip("%")
            total += (program.trip_count(instruction) or 1) * worst_seconds(program, chip, devices, body)
        elif instruction.op == "conditional":
            total += max(worst_seconds(program, chip, devices, name) for name in instruction.called)
        elif instruction.op in ("call", "async-start"):
            total += sum(worst_seconds(program, chip, devices, name) for name in instruction.called)
        elif _takes_time(instruction):
            total += _operation(program, own, instruction, chip, devices, 1).seconds
    return total


def _takes_time(instruction: HloInstruction) -> bool:
    return instruction.op not in _FREE and not instruction.op.endswith("-done")


def _computation(
    program: HloProgram, computation: Computation, chip: Chip, devices: int, repeat: int
) -> Iterator[OpCost]:
    for instruction in computation.instructions:
        if instruction.op == "while":
            trips = program.trip_count(instruction) or 1
            body = program.computations[instruction.attribute("body").lstrip("%")]
            yield from _computation(program, body, chip, devices, repeat * trips)
        elif instruction.op == "conditional":
            yield from _conditional(program, instruction, chip, devices, repeat)
        elif instruction.op in ("call", "async-start"):
            for name in instruction.called:
                yield from _computation(program, program.computations[name], chip, devices, repeat)
        elif _takes_time(instruction):
            yield _operation(program, computation, instruction, chip, devices, repeat)


def _conditional(
    program: HloProgram, conditional: HloInstruction, chip: Chip, devices: int, repeat: int
) -> Iterator[OpCost]:
    """All branches, with everything but the cheapest marked as rare."""
    branches = [
        list(_computation(program, program.computations[name], chip, devices, repeat)) for name in conditional.called
    ]
    totals = [sum(op.seconds for op in branch if not op.rare) for branch in branches]
    usual = totals.index(min(totals)) if totals else 0
    for index, branch in enumerate(branches):
        for op in branch:
            yield op if index == usual else OpCost(**{**op.__dict__, "rare": True})


def _operation(
    program: HloProgram, computation: Computation, instruction: HloInstruction, chip: Chip, devices: int, repeat: int
) -> OpCost:
    kind = "prefetch" if is_prefetch(program, computation, instruction) else kind_of(program, instruction)
    wire, steps = _wire(program, instruction, devices)
    hbm = hbm_bytes(program, computation, instruction)
    cycles = instruction.estimated_cycles
    if steps:
        seconds = steps * chip.hop + wire / chip.ici
    elif cycles is not None:
        seconds = cycles / chip.clock
    else:
        rate = chip.streamed if kind.startswith("matmul") else chip.hbm
        seconds = max(hbm / rate, _own_cycles(program, instruction) / chip.clock)
    return OpCost(
        name=instruction.name,
        kind=kind,
        path=instruction.path,
        repeat=repeat,
        seconds=repeat * seconds,
        cycles=None if cycles is None else repeat * cycles,
        hbm_bytes=repeat * hbm,
        wire_bytes=repeat * wire,
    )


# --------------------------------------------------------------------------- what an operation is


def kind_of(program: HloProgram, instruction: HloInstruction) -> str:
    """What an operation does, in a word or two."""
    inside = list(bodies(program, instruction))
    collective = next((collective_kind(i.op) for i in inside if collective_kind(i.op)), "")
    if collective:
        return collective
    ops = {i.op for i in inside}
    matmul = bool(ops & {"convolution", "dot"})
    if any("PartialReduce" in i.attribute("custom_call_target") for i in inside):
        return "matmul + partial top-k" if matmul else "partial top-k"
    for found, kind in ((matmul, "matmul"), ("gather" in ops, "gather"), ("sort" in ops, "sort")):
        if found:
            return kind
    if any(is_top_k(i) for i in inside):
        return "top-k"
    if ops & {"scatter", "custom-call"}:
        return "scatter" if "scatter" in ops else "custom call"
    arithmetic = ops - _MOVES - {"copy-start", "slice-start", "dynamic-slice-start"}
    moved = [i for i in inside if i.op in ("copy", "copy-start", "slice", "dynamic-slice", "transpose", "slice-start")]
    return "copy" if moved and not arithmetic else "elementwise"


# --------------------------------------------------------------------------- the operations without cycles


def _wire(program: HloProgram, instruction: HloInstruction, devices: int) -> tuple[int, int]:
    """Bytes that a collective moves per chip, and its steps; (0, 0) for everything else."""
    found = next((i for i in bodies(program, instruction) if collective_kind(i.op)), None)
    if found is None:
        return 0, 0
    collective = read_collective(found, devices)
    around = max(collective.group_size - 1, 1)
    steps = {"all-reduce": 2 * around, "collective-permute": 1, "collective-broadcast": 1}
    return collective.wire_bytes, steps.get(collective.kind, around)


def _own_cycles(program: HloProgram, instruction: HloInstruction) -> float:
    """Cycles of the sorts, top-k and matmuls inside an operation to which the compiler gives none."""
    total = 0.0
    for inner in bodies(program, instruction):
        if inner.op == "sort" and inner.results and inner.results[0].shape:
            array = inner.results[0]
            n = array.shape[int(re.sub(r"\D", "", inner.attribute("dimensions")) or 0)]
            levels = ceil(log2(n)) if n > 1 else 0
            total += 3 * levels * (levels + 1) / 2 * _vectors(array) * len(inner.results)
        elif is_top_k(inner):
            total += inner.results[0].shape[-1] * (330 + 4.9 * max(map(_vectors, _operands(program, inner)), default=0))
        elif "PartialReduce" in inner.attribute("custom_call_target"):
            total += 2.5 * max(map(_vectors, _operands(program, inner)), default=0)
        elif inner.op in ("convolution", "dot"):
            total += max((array.size for array in _operands(program, inner)), default=0) / 1024
    return total


def is_top_k(instruction: HloInstruction) -> bool:
    """Whether an operation is the exact top-k of XLA:TPU."""
    return instruction.op == "custom-call" and instruction.attribute("custom_call_target") == '"TopK"'


def _operands(program: HloProgram, instruction: HloInstruction) -> list[Array]:
    """The arrays that an operation reads, wherever it stands."""
    for computation in program.computations.values():
        if computation.by_name.get(instruction.name) is instruction:
            return [array for name in instruction.operands for array in computation.by_name[name].results]
    return []


def _vectors(array: Array) -> int:
    """Vector registers that an array fills: its fastest dimension along the lanes, the next along the sublanes."""
    order = array.layout or tuple(reversed(range(len(array.shape))))
    sizes = [array.shape[i] for i in order] or [1]
    lanes = ceil(sizes[0] / _LANES)
    return lanes * (ceil(sizes[1] / _SUBLANES) * prod(sizes[2:]) if len(sizes) > 1 else 1)
