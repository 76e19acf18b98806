"""Whole numbers of 64 bits that are small: JAX counts the entries for which it draws noise in such numbers.

Noise that is drawn in a loop over batch rows is followed with the loop. All that it reads in 64 bits are positions,
made of ``iota`` and constants; where none reaches 2³², 32 bits hold them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.graph import Op, Value
from hire_compiler.proofs.enclosure import Unbounded, as_input
from hire_compiler.proofs.interval import point
from hire_compiler.tails.values import Plain

LONG = ("int64", "uint64")
_END = 2**32
_DEEPEST = 16

_Counted = tuple[Any, int]  # as uint32, in the author's shape; and the most that it can be


def shortened(op: Op) -> Plain:
    """A conversion of such numbers to 32 bits.

    Raises:
      Unbounded: they may be larger, or follow from something else.
    """
    made = _counted(op.operands[0], _DEEPEST)
    if made is None or op.result.dtype != "uint32":
        raise Unbounded(f"a value of type {op.operands[0].dtype}")
    return Plain(op.result.shape, as_input(point(made[0]), op.result.dtype))


def is_counted(value: Value) -> bool:
    """Whether a value is such a number, which is read when it is converted."""
    return value.dtype in LONG and _counted(value, _DEEPEST) is not None


def _counted(value: Value, depth: int) -> _Counted | None:
    op = value.op
    if op is None or depth == 0 or value.dtype not in LONG:
        return None
    made = _made(op, depth)
    return made if made is not None and made[1] < _END else None


def _made(op: Op, depth: int) -> _Counted | None:
    shape, number = op.result.shape, op.constant()
    if number is not None:
        largest = int(number.max(initial=0))
        fits = int(number.min(initial=0)) >= 0 and largest < _END
        return (jnp.broadcast_to(jnp.asarray(number.astype("uint32")), shape), largest) if fits else None
    if op.name == "iota":
        dim = op.int("iota_dimension")
        return lax.broadcasted_iota(jnp.uint32, shape, dim), max(shape[dim] - 1, 0)
    found = [_counted(operand, depth - 1) for operand in op.operands]
    parts = [part for part in found if part is not None]
    if len(parts) != len(found):
        return None
    arrays, most = [part[0] for part in parts], [part[1] for part in parts]
    if op.name == "broadcast_in_dim":
        return lax.broadcast_in_dim(arrays[0], shape, op.ints("broadcast_dimensions")), most[0]
    if op.name == "reshape":
        return arrays[0].reshape(shape), most[0]
    if op.name == "add":
        return arrays[0] + arrays[1], most[0] + most[1]
    if op.name == "multiply":
        return arrays[0] * arrays[1], most[0] * most[1]
    if op.name == "shift_right_logical":
        return jnp.where(arrays[1] < 32, arrays[0] >> jnp.minimum(arrays[1], 31), 0), most[0]
    return None
