"""Replay a weight's provenance as JAX code: from the caller's argument to the rows that a site reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.narrow import NarrowWeight
from hire_compiler.graph.parts import Constant
from hire_compiler.graph.storage import Form
from hire_compiler.graph.weight import Step, Weight


def materialize(weight: Weight, given: Mapping[int, Any] | Sequence[Any]) -> jax.Array:
    """The weight of a site, computed from its arguments.

    Args:
      given: the arguments, by their position.

    Returns:
      Shape ``weight.shape``, or ``[layers, *weight.shape]`` for a stacked weight.
    """
    if isinstance(weight, NarrowWeight):
        return _computed(weight.form, weight.layers, given)
    argument = given[weight.argument]
    before: list[Step] = []
    after: list[Step] = []
    axis: int | None = None
    for step in weight.steps:
        if step.op == "layer":
            axis = int(step.values[0])  # type: ignore[call-overload]
        else:
            (before if axis is None else after).append(step)
    value = _apply(before, argument)
    if axis is None:
        return value
    layers = jnp.expand_dims(jnp.moveaxis(value, axis, 0), axis + 1)
    return jax.vmap(lambda layer, number: _apply(after, layer, number))(layers, jnp.arange(len(layers)))


def _computed(form: Form, layers: int | None, given: Mapping[int, Any] | Sequence[Any]) -> jax.Array:
    """A matrix of narrow numbers, as its author computes it."""
    parts = []
    for part in form.parts:
        if isinstance(part, Constant):
            parts.append(jnp.asarray(part.array(), part.dtype))
        else:
            stored = materialize(part, given)
            parts.append(stored[None] if layers is not None and part.layers is None else stored)
    numbers = form.code.evaluate(parts, exact=True)
    front = () if layers is None else (layers,)
    return jnp.broadcast_to(numbers, (*front, *form.factors)).reshape(*front, *form.shape)


def view(weight: Weight, argument: jax.Array) -> jax.Array:
    """The rows of a weight that :attr:`Weight.is_view` says the argument already holds: a reshape only."""
    shape = weight.shape if weight.layers is None else (weight.layers, *weight.shape)
    return argument.reshape(shape)


def _apply(steps: list[Step], value: jax.Array, layer: jax.Array | int = 0) -> jax.Array:
    for step in steps:
        value = _deal(value, layer, *step.values) if step.op == "deal" else _STEPS[step.op](value, *step.values)  # type: ignore[arg-type]
    return value


def _slice(value: jax.Array, starts: Any, stops: Any, strides: Any) -> jax.Array:
    return value[tuple(slice(*bounds) for bounds in zip(starts, stops, strides, strict=True))]


def _scale(value: jax.Array, operation: str, factor: float) -> jax.Array:
    constant = jnp.asarray(factor, value.dtype)
    return value * constant if operation == "multiply" else value / constant


def _turn(value: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """From all rows of some columns to some rows of all columns: every device sends each other one its part."""
    return lax.all_to_all(value, axes, split_axis=0, concat_axis=1, tiled=True)


def _deal(value: jax.Array, layer: jax.Array | int, axis: int, dealing: Any, *axes: str) -> jax.Array:
    """Every device gives each other one an equal number of its rows, as a ``sharding.Dealing`` says."""
    rows = jnp.moveaxis(value, axis, 0)
    sends = jnp.asarray(dealing.sends)
    own = sends[layer if len(sends) > 1 else 0, lax.axis_index(axes)]
    dealt = lax.all_to_all(rows[own], axes, split_axis=0, concat_axis=0, tiled=True)
    return jnp.moveaxis(dealt, 0, axis)


_STEPS: dict[str, Callable[..., jax.Array]] = {
    "transpose": lambda value, *order: value.transpose(order),
    "reshape": lambda value, *shape: value.reshape(shape),
    "convert": lambda value, dtype: value.astype(dtype),
    "slice": _slice,
    "scale": _scale,
    "turn": lambda value, *axes: _turn(value, axes),
}
