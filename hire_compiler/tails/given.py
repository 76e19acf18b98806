"""What a tail reads that does not follow from the logits: constants, positions, arrays of the program."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from hire_compiler.graph.graph import Op, Value
from hire_compiler.proofs.enclosure import Bounded, as_input, computed_again
from hire_compiler.proofs.interval import point
from hire_compiler.tails.layout import LAYOUT
from hire_compiler.tails.values import Plain

_STORING = frozenset(
    {*LAYOUT, "select", "convert", "iota", "constant", "dynamic_slice", "gather", "concatenate", "pad"}
)


def captured(value: Value, array: Any) -> Plain:
    """What is known of an array of the program."""
    bounded = as_input(point(array), value.dtype)
    if jnp.issubdtype(array.dtype, jnp.floating) and not is_stored(value):
        bounded = Bounded(computed_again(array), value.dtype)
    return Plain(value.shape, bounded)


def constant(value: Value) -> Plain | None:
    """What is known of a constant, also of one that is only repeated; None if it is none."""
    found = _repeated(value)
    return None if found is None else _constant(found, value)


def iota(op: Op) -> Plain:
    """Positions along a dimension."""
    dim, shape = op.int("iota_dimension"), op.result.shape
    array = jnp.arange(shape[dim], dtype=op.result.dtype).reshape([-1 if i == dim else 1 for i in range(len(shape))])
    return Plain(shape, as_input(point(array), op.result.dtype))


def counts(value: Value, axis: int) -> bool:
    """Whether an array counts the positions along a dimension."""
    return value.op is not None and value.op.name == "iota" and value.op.int("iota_dimension") == axis


def counts_back(value: Value, axis: int) -> bool:
    """Whether an array counts them from the end."""
    return value.op is not None and value.op.name == "reverse" and counts(value.op.operands[0], axis)


def _repeated(value: Value) -> Any | None:
    """The value of a constant, also of one that is only repeated."""
    op, dtype = value.op, value.dtype
    constant = None if op is None else op.constant()
    while constant is None and op is not None and _repeats(op):
        op = op.operands[0].op
        constant = None if op is None else op.constant()
    return None if constant is None or str(constant.dtype) != dtype else constant


def _repeats(op: Op) -> bool:
    """Whether it gives one number, as it is."""
    if op.name == "convert":
        return op.operands[0].dtype == op.result.dtype
    return op.name in ("broadcast_in_dim", "reshape") and op.operands[0].size == 1


def _constant(constant: Any, value: Value) -> Plain:
    rank = len(value.shape)
    alike = (constant == constant.ravel()[0]) | (constant != constant)  # a NaN is not equal to itself
    splat = bool(alike.all()) and bool((constant != constant).all() or (constant == constant).all())
    if splat:
        first = constant.ravel()[0]
        array = jnp.full((1,) * rank, first, value.dtype)
        literal = float(first) if value.dtype in ("float32", "bfloat16", "float16") else None
        return Plain(value.shape, as_input(point(array), value.dtype), literal=literal)
    return Plain(value.shape, as_input(point(jnp.asarray(constant, value.dtype).reshape(value.shape)), value.dtype))


def is_stored(value: Value) -> bool:
    """Whether a value comes out the same bit for bit, whatever the compiler fuses: no arithmetic makes it."""
    stack, seen = [value], 0
    while stack and seen < 64:
        top = stack.pop()
        seen += 1
        if top.op is None or top.dtype in ("bool", "int32", "uint32", "int8", "uint8"):
            continue
        if top.op.name not in _STORING:
            return False
        stack += top.op.operands
    return not stack
