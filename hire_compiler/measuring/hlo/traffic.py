"""Which bytes an operation of a compiled TPU program moves between HBM and the core.

Operands and results count if they live in memory space 0. An operation that reads parts of an operand (a gather, a
dynamic slice), inside a fusion too, reads what it returns; an update in place writes the update.
"""

from __future__ import annotations

from collections.abc import Iterator

from hire_compiler.measuring.hlo.text import Computation, HloInstruction, HloProgram


def bodies(program: HloProgram, instruction: HloInstruction) -> Iterator[HloInstruction]:
    """The instruction itself, or everything inside a fusion, nested ones included."""
    if instruction.op != "fusion":
        yield instruction
        return
    for name in instruction.called:
        for inner in program.computations[name].instructions:
            yield from bodies(program, inner)


def is_prefetch(program: HloProgram, computation: Computation, instruction: HloInstruction) -> bool:
    """Whether it brings into VMEM what is then read there as a whole: the only reading of it from HBM."""
    if instruction.op not in ("copy-start", "slice-start"):
        return False
    target = instruction.results[0 if instruction.op == "copy-start" else 1]
    dones = computation.users(instruction.name)
    return target.space == 1 and all(_touched_by_users(program, computation, done.name) is None for done in dones)


def hbm_bytes(program: HloProgram, computation: Computation, instruction: HloInstruction) -> int:
    """Bytes that one run of an operation reads and writes in HBM."""
    if instruction.op in ("copy-start", "slice-start"):
        return _transferred(instruction)
    read = sum(
        _read_bytes(program, computation, instruction, position, name)
        for position, name in enumerate(instruction.operands)
    )
    return read + _written_bytes(program, computation, instruction)


def _transferred(start: HloInstruction) -> int:
    """HBM bytes of an asynchronous copy: it returns (target, source, context), a slice (source, target, context)."""
    first, second = start.results[:2]
    target, source = (first, second) if start.op == "copy-start" else (second, first)
    return sum(target.nbytes for array in (target, source) if array.space == 0)


def _read_bytes(
    program: HloProgram, computation: Computation, instruction: HloInstruction, position: int, name: str
) -> int:
    operand = computation.by_name.get(name)
    if operand is None or operand.op == "constant":
        return 0
    whole = sum(array.nbytes for array in operand.results if array.space == 0)
    if not whole:
        return 0
    touched = _touched(program, computation, instruction, position)
    return whole if touched is None else min(touched, whole)


def _touched(program: HloProgram, computation: Computation, instruction: HloInstruction, position: int) -> int | None:
    """Bytes that an operation reads of an operand if it reads only parts of it; None if it reads it whole."""
    if instruction.op in ("gather", "dynamic-slice", "slice") and position == 0:
        return instruction.nbytes
    if instruction.op in ("dynamic-update-slice", "scatter") and position == 0:
        return 0  # in place
    if instruction.op != "fusion":
        return None
    body = program.computations[instruction.called[0]]
    parameter = body.parameters[position].name
    if _is_alias(body, parameter):  # a fusion of nothing but a bitcast: what is read of it is up to its users
        return _touched_by_users(program, computation, instruction.name)
    return _touched_by_users(program, body, parameter)


def _touched_by_users(program: HloProgram, body: Computation, name: str) -> int | None:
    if name == body.root.name:
        return None
    total = 0
    for user in body.users(name):
        if user.op in ("bitcast", "reshape"):
            parts = [_touched_by_users(program, body, user.name)]
        else:
            parts = [_touched(program, body, user, i) for i, operand in enumerate(user.operands) if operand == name]
        for part in parts:
            if part is None:
                return None
            total += part
    return total


def _is_alias(body: Computation, parameter: str) -> bool:
    value = body.root
    while value.op in ("bitcast", "reshape"):
        value = body.by_name[value.operands[0]]
    return value.name == parameter


def _written_bytes(program: HloProgram, computation: Computation, instruction: HloInstruction) -> int:
    written = sum(array.nbytes for array in instruction.results if array.space == 0)
    root, body = instruction, computation
    while root.op == "fusion":
        body = program.computations[root.called[0]]
        root = body.root
    if root.op in ("dynamic-update-slice", "scatter"):  # in place: only the update is written
        update = body.by_name.get(root.operands[1 if root.op == "dynamic-update-slice" else -1])
        return min(written, update.nbytes) if update else written
    return written
