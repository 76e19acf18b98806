"""The author's code of experts, restated for one of them: a straight-line program over tensors.

Every value keeps its rank; along the axis that counts the experts it has length 1. What all experts share is taken
whole, what each has of its own is cut out by the number of the expert. A product with a weight of the experts is left
to the caller, who knows how its rows are read best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.expression import Instruction, evaluate_instruction


@dataclass(frozen=True)
class Piece:
    """One value of one expert.

    Attributes:
      op: ``captured``, ``constant``, ``kernel`` (a product with a weight of the experts), ``dot_general``, a layout
        operation, ``reduce_add`` and its like, or an elementwise operation of StableHLO.
      args: numbers of earlier pieces.
      shape: of one expert.
      dtype: the author's.
      detail: what else the operation needs: the number of what is captured and its axis; the value of a constant;
        dimensions; the direction of a comparison.
    """

    op: str
    args: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    detail: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a product with a weight of the experts is put: ``detail`` of a ``kernel``.

    Attributes:
      number: of the weight.
      order: brings the other operand to ``[free …, contracting …]``, the latter as the weight has them.
      batch: rows of that.
      weight_first: the weight is the left operand, so its own dimensions come first in the result.
    """

    number: int
    order: tuple[int, ...]
    batch: int
    weight_first: bool


@dataclass(frozen=True)
class ExpertCode:
    """A program that computes what one expert adds to the result: the last piece.

    Attributes:
      captured: for each value taken from the author's program the axis that counts the experts, None if all share it.
      experts: how many there are.
    """

    pieces: tuple[Piece, ...]
    captured: tuple[int | None, ...]
    experts: int

    def evaluate(
        self,
        captured: Sequence[jax.Array],
        expert: jax.Array,
        product: Callable[[int, jax.Array], jax.Array],
    ) -> jax.Array:
        """What one expert adds, in the type of the author's result.

        Args:
          captured: the values, whole.
          expert: its number, ``[]``.
          product: of a weight's number and ``x [b, k]``: ``x`` times that expert's own part of the weight, ``[b, n]``.
        """
        values: list[jax.Array] = []
        for piece in self.pieces:
            operands = [values[i] for i in piece.args]
            if piece.op == "captured":
                number, axis = piece.detail
                whole = captured[number]
                values.append(whole if axis is None else lax.dynamic_slice_in_dim(whole, expert, 1, axis))
            elif piece.op == "kernel":
                values.append(_kernel(piece, operands[0], product))
            else:
                values.append(_evaluate(piece, operands))
        return values[-1]


def _kernel(piece: Piece, x: jax.Array, product: Callable[[int, jax.Array], jax.Array]) -> jax.Array:
    (reading,) = piece.detail
    y = product(reading.number, x.transpose(reading.order).reshape(reading.batch, -1))
    return (y.T if reading.weight_first else y).astype(piece.dtype).reshape(piece.shape)


def _evaluate(piece: Piece, operands: list[jax.Array]) -> jax.Array:
    match piece.op:
        case "constant":
            return jnp.full(piece.shape, piece.detail[0], piece.dtype)
        case "dot_general":
            dimensions, precise = piece.detail
            precision = lax.Precision.HIGHEST if precise else None
            return lax.dot_general(
                *operands, dimensions, precision=precision, preferred_element_type=jnp.dtype(piece.dtype)
            )
        case "broadcast_in_dim":
            return lax.broadcast_in_dim(operands[0], piece.shape, piece.detail)
        case "transpose":
            return operands[0].transpose(piece.detail)
        case "reshape":
            return operands[0].reshape(piece.shape)
        case "slice":
            return lax.slice(operands[0], *piece.detail)
        case "concatenate":
            return lax.concatenate(operands, *piece.detail)
        case "reduce_add" | "reduce_maximum" | "reduce_minimum":
            reduced: jax.Array = _REDUCTIONS[piece.op](operands[0], axis=piece.detail)
            return reduced.astype(piece.dtype)
    instruction = Instruction(piece.op, (), piece.dtype, *piece.detail)
    computed: jax.Array = evaluate_instruction(instruction, operands)
    return jnp.broadcast_to(computed, piece.shape)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_add": jnp.sum,
    "reduce_maximum": jnp.max,
    "reduce_minimum": jnp.min,
}
