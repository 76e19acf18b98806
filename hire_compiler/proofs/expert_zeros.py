"""Which experts *certainly* add nothing but zeros: the rules of ``zeros.py`` on tensors, one answer an expert.

Of each value is known, for every expert, whether all of it is ±0 and between which numbers all of it lies. A router's
weight that is zero for all rows of a batch makes what it multiplies zero, as long as that is finite; whether it is
follows from the sizes of inputs and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from hire_compiler.graph.expert_code import ExpertCode, Piece
from hire_compiler.graph.expression import Instruction
from hire_compiler.proofs.zeros import Known, derive, exactly, rounded

_ROOM = 2.0  # for what a product rounds, of its operands too


def adds_nothing(code: ExpertCode, captured: Sequence[Known], sizes: Sequence[Any], xp: ModuleType = jnp) -> Any:
    """For which experts everything that they add is certainly ±0: bool ``[experts]``, or one answer for all.

    Args:
      captured: what is known of each captured value, :func:`seen` of it.
      sizes: of each weight the largest sum of absolute entries that one product sums, ``[experts]``.
    """
    known: list[Known] = []
    for piece in code.pieces:
        operands = [known[i] for i in piece.args]
        if piece.op == "captured":
            known.append(captured[piece.detail[0]])
        elif piece.op == "kernel":
            known.append(_product(operands[0], sizes[piece.detail[0].number], piece, xp))
        else:
            with np.errstate(all="ignore"):
                known.append(_derive(piece, operands, [code.pieces[i] for i in piece.args], xp))
    return known[-1].zero


def seen(value: Any, axis: int | None, xp: ModuleType = jnp) -> Known:
    """What is known of a value that is at hand: for every expert, or of the whole. NaN counts as without limits."""
    point = exactly(value, xp)
    others = tuple(i for i in range(value.ndim) if i != axis)
    return Known(point.zero.all(axis=others), xp.min(point.low, axis=others), xp.max(point.high, axis=others))


def _derive(piece: Piece, operands: list[Known], args: list[Piece], xp: ModuleType) -> Known:
    match piece.op:
        case "constant":
            return exactly(np.asarray(piece.detail[0]), xp)
        case "broadcast_in_dim" | "transpose" | "reshape" | "slice" | "reduce_maximum" | "reduce_minimum":
            return operands[0]
        case "concatenate":
            return _either(operands, xp)
        case "reduce_add":
            return _sum(operands[0], prod(args[0].shape) // max(prod(piece.shape), 1), piece, xp)
        case "dot_general":
            contracted = prod(args[0].shape[i] for i in piece.detail[0][0][0])
            one, other = operands
            whole = _product(other, contracted * _size(one, xp), piece, xp)
            return Known(whole.zero | (one.zero & xp.isfinite(_size(other, xp))), whole.low, whole.high)
    return derive(Instruction(piece.op, (), piece.dtype, *piece.detail), operands, xp)


def _either(operands: list[Known], xp: ModuleType) -> Known:
    first, *rest = operands
    for other in rest:
        low, high = xp.minimum(first.low, other.low), xp.maximum(first.high, other.high)
        first = Known(first.zero & other.zero, low, high)
    return first


def _sum(x: Known, count: int, piece: Piece, xp: ModuleType) -> Known:
    limit = _ROOM * count * _size(x, xp)
    return rounded(Known(x.zero, -limit, limit), Instruction("add", (), piece.dtype), xp)


def _product(x: Known, size: Any, piece: Piece, xp: ModuleType) -> Known:
    """A sum of products of x with entries whose absolute values sum up to no more than that."""
    limit = _ROOM * _size(x, xp) * size
    return rounded(Known(x.zero & xp.isfinite(size), -limit, limit), Instruction("multiply", (), piece.dtype), xp)


def _size(x: Known, xp: ModuleType) -> Any:
    """What no entry exceeds; NaN or infinite where anything may stand there."""
    return xp.maximum(abs(x.low), abs(x.high)) + 1e-30  # what is smaller may have been flushed to zero
