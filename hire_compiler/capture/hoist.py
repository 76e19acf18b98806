"""Closed-over weights become arguments before anything is lowered.

``jax.jit(lambda x: x @ W + b)`` would write every number of ``W`` and ``b`` into the lowered module. Here such
constants are taken out of the *traced jaxpr*, wherever they hide: in the program itself, in a nested
``jit``, or in a ``jit`` called by a loop body. The jaxpr is then replayed with those constants as
ordinary arguments, so that a gigabyte of weights costs no text and can be prepared like any other weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from hire_compiler import _mlir

WEIGHT_BYTES = 64 * 1024  # so many bytes are a weight, whatever their type: quantized ones are integers
BIAS_ELEMENTS = 64  # so many floats or booleans are a bias, a scale or a mask, not a number of the program's own

_LIST_BYTES = 1024 * 1024


def hoistable(shape: Sequence[int], dtype: Any) -> bool:
    """Whether a constant is worth an argument: a weight of any type, or a vector that goes with one."""
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        return False  # a type that NumPy does not have: left as it is
    elements = math.prod(shape)
    small = jnp.issubdtype(kind, np.floating) or kind == np.bool_
    return elements * kind.itemsize >= WEIGHT_BYTES or (small and elements >= BIAS_ELEMENTS)


def hoist_constants(closed: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Take every :func:`hoistable` constant out of a closed jaxpr.

    Returns:
      ``(function, constants)``: ``function(*constants, *arguments)`` computes the list of outputs that
      the jaxpr computes on ``arguments``. With nothing to hoist, ``constants`` is empty.
    """
    found = {id(value): value for value in _weights(closed)}
    places: dict[Any, int] = {}
    position = {key: places.setdefault(_contents(value), len(places)) for key, value in found.items()}
    first = {place: found[key] for key, place in reversed(position.items())}

    def function(*args: Any) -> list[Any]:
        hoisted = {key: args[index] for key, index in position.items()}
        return _replay(closed, args[len(places) :], hoisted)

    return function, [_snapshot(first[place]) for place in places.values()]


def _contents(value: Any) -> Any:
    """By what a constant is recognised: short lists and masks, which JAX makes anew at each use, by their numbers."""
    kind = jnp.dtype(value.dtype)
    if jnp.issubdtype(kind, np.floating) or value.size * kind.itemsize > _LIST_BYTES:
        return id(value)
    with jax.core.eval_context():
        return kind, value.shape, np.asarray(value).tobytes()


def _snapshot(value: Any) -> Any:
    """As ``jit`` does: what happens to a closed-over NumPy array later does not reach the program."""
    if isinstance(value, jax.Array):
        return value
    with jax.core.eval_context():
        return jnp.array(value, copy=True)


def _weights(closed: Any) -> Iterator[Any]:
    for value in closed.consts:
        is_array = hasattr(value, "dtype") and not _mlir.is_tracer(value)
        if is_array and hoistable(value.shape, value.dtype) and not _is_one_truth(value):
            yield value
    for eqn in closed.jaxpr.eqns:
        for inner in _closed_jaxprs(eqn):
            yield from _weights(inner)


def _is_one_truth(value: Any) -> bool:
    """Whether a mask holds one truth value only, as those by which JAX checks a list of positions: left as it is."""
    if jnp.dtype(value.dtype) != np.bool_ or value.size > _LIST_BYTES:
        return False
    with jax.core.eval_context():
        mask = np.asarray(value)
    return bool(mask.all()) or not bool(mask.any())


def _closed_jaxprs(eqn: Any) -> Iterator[Any]:
    for param in eqn.params.values():
        for value in param if isinstance(param, (tuple, list)) else (param,):
            if isinstance(value, jex_core.ClosedJaxpr):
                yield value


def _replay(closed: Any, args: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    constants = [hoisted.get(id(value), value) for value in closed.consts]
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex_core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        with _mlir.user_context(eqn), eqn.ctx.manager:
            outputs = _replay_equation(eqn, operands, hoisted)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _replay_equation(eqn: Any, operands: list[Any], hoisted: dict[int, Any]) -> Sequence[Any]:
    # Only a call that closes over a hoisted constant is entered; everything else is bound as it was.
    if not any(_holds(inner, hoisted) for inner in _closed_jaxprs(eqn)):
        outputs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
        return outputs if eqn.primitive.multiple_results else [outputs]
    name = eqn.primitive.name
    if name == "scan":
        return _replay_scan(eqn.params, operands, hoisted)
    if name == "while":
        return _replay_while(eqn.params, operands, hoisted)
    if name == "cond":
        index, *rest = operands
        branches = [lambda *args, b=b: _replay(b, args, hoisted) for b in eqn.params["branches"]]
        return jax.lax.switch(index, branches, *rest)
    inner = next(_closed_jaxprs(eqn))  # jit, remat, custom_jvp_call …: one body, called with the operands
    return _replay(inner, operands, hoisted)


def _holds(closed: Any, hoisted: dict[int, Any]) -> bool:
    if any(id(value) in hoisted for value in closed.consts):
        return True
    return any(_holds(inner, hoisted) for eqn in closed.jaxpr.eqns for inner in _closed_jaxprs(eqn))


def _replay_scan(params: dict[str, Any], operands: list[Any], hoisted: dict[int, Any]) -> Sequence[Any]:
    n_consts, n_carry = _mlir.scan_arity(params)
    consts, carry, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]

    def body(carry: Any, x: Any) -> Any:
        outputs = _replay(params["jaxpr"], [*consts, *carry, *x], hoisted)
        return outputs[:n_carry], outputs[n_carry:]

    options = {key: params[key] for key in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, carry, xs, **options)
    return [*carry, *ys]


def _replay_while(params: dict[str, Any], operands: list[Any], hoisted: dict[int, Any]) -> Sequence[Any]:
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]

    def cond(carry: Any) -> Any:
        return _replay(params["cond_jaxpr"], [*cond_consts, *carry], hoisted)[0]

    def body(carry: Any) -> Any:
        return _replay(params["body_jaxpr"], [*body_consts, *carry], hoisted)

    return jax.lax.while_loop(cond, body, operands[n_cond + n_body :])
