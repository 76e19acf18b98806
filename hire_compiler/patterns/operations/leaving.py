"""Whether a value only leaves the program, or something is made of it."""

from __future__ import annotations

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT

_MOVING = frozenset({*LAYOUT, "convert"})


def goes_on(value: Value) -> bool:
    """Whether anything is made of a value, but what hands it out as it is: moved, stored, out of loops and branches."""
    seen, stack = {id(value)}, [value]
    while stack:
        for op, position in stack.pop().uses:
            handed = _handed_on(op, position)
            if handed is None:
                return True
            stack += [v for v in handed if id(v) not in seen]
            seen |= {id(v) for v in handed}
    return False


def _handed_on(op: Op, position: int) -> tuple[Value, ...] | None:
    """As what an operation hands its operand on; None if it does more than that."""
    if op.name == "func.return":
        return ()
    if op.name in _MOVING and position == 0:
        return op.results
    if op.name == "dynamic_update_slice" and position < 2:
        return op.results
    if op.name == "while":
        return _carried(op, position)
    owner = op.block.owner
    if op.name != "return" or owner is None:
        return None
    if owner.name in ("case", "if"):
        return (owner.results[position],)
    return _carried(owner, position) if owner.name == "while" and op.block is owner.blocks[1] else None


def _carried(loop: Op, position: int) -> tuple[Value, ...]:
    """A carry of a loop, wherever it is read."""
    return (loop.results[position], *(block.args[position] for block in loop.blocks))
