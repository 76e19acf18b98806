"""Which parameters the matrix products of a function read, found in its jaxpr, without anything of the compiler.

What the report says of a program is held against this: a parameter that a product reads and of which the report is
silent is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

import hire_compiler as hire
from hire_compiler._mlir import scan_arity

LEAST_BYTES = 1 << 16
PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")
Names = frozenset[str] | None  # the parameters behind a value; None for an activation


def silent(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """The weights of 64 KiB and more that a product reads, and of which the report says nothing."""

    def program(arguments: Any) -> Any:
        return function(*arguments)

    report = hire.inspect(program, arguments)
    said = {weight for site in report.sites for weight in site.weights} | {miss.weight for miss in report.misses}
    return weights_of_products(program, arguments) - said


def weights_of_products(program: Callable[[Any], Any], arguments: Any) -> set[str]:
    """For every operand of a matrix product behind which large arguments alone stand, the largest of them."""
    paths = jax.tree_util.tree_flatten_with_path(arguments)[0]
    nbytes = {f"arguments{jax.tree_util.keystr(path)}": _bytes(leaf) for path, leaf in paths}
    closed = jax.make_jaxpr(program)(arguments)
    reader = _Reader()
    reader.run(closed.jaxpr, [frozenset({name} if size >= LEAST_BYTES else ()) for name, size in nbytes.items()])
    return {max(names, key=lambda name: nbytes[name]) for names in reader.read if names}


def _bytes(leaf: Any) -> int:
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4}.get(str(leaf.dtype), np.dtype(leaf.dtype).itemsize * 8)
    return int(np.prod(leaf.shape)) * bits // 8


class _Reader:
    def __init__(self) -> None:
        self.read: set[frozenset[str]] = set()

    def run(self, jaxpr: core.Jaxpr, given: Sequence[Names]) -> list[Names]:
        known: dict[Any, Names] = dict(zip(jaxpr.invars, given, strict=True))
        known |= {v: frozenset() for v in jaxpr.constvars}

        def of(v: Any) -> Names:
            return frozenset() if isinstance(v, core.Literal) else known[v]

        for eqn in jaxpr.eqns:
            results = self._results(eqn, [of(v) for v in eqn.invars])
            known |= dict(zip(eqn.outvars, results, strict=True))
        return [of(v) for v in jaxpr.outvars]

    def _results(self, eqn: Any, given: list[Names]) -> list[Names]:
        name, inner = eqn.primitive.name, _bodies(eqn)
        if name in PRODUCTS:
            self.read |= {names for names in given[:2] if names is not None}
            return [None]
        if name == "scan":
            return self._loop(inner[0], given, *scan_arity(eqn.params))
        if name == "while":
            consts = eqn.params["cond_nconsts"]
            return self._loop(inner[1], given[consts:], eqn.params["body_nconsts"], len(eqn.outvars))
        if name == "cond":
            return [_join(options) for options in zip(*(self.run(b, given[1:]) for b in inner), strict=True)]
        if inner:
            return self.run(inner[0], given)
        if name in ("gather", "dynamic_slice"):
            rows = name == "gather" and sum(n > 1 for n in eqn.params["slice_sizes"]) < 2
            return [None if rows else given[0]]  # an embedding is an activation, an expert is not
        return [_join(given)] * len(eqn.outvars)

    def _loop(self, body: core.Jaxpr, given: list[Names], consts: int, carry: int) -> list[Names]:
        carried = given[consts : consts + carry]
        for _ in range(3):
            results = self.run(body, [*given[:consts], *carried, *given[consts + carry :]])
            carried = [_join(pair) for pair in zip(carried, results[:carry], strict=True)]
        return [*carried, *results[carry:]]


def _bodies(eqn: Any) -> list[Any]:
    found = []
    for value in eqn.params.values():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if hasattr(part, "jaxpr"):
                found.append(part.jaxpr)
            elif hasattr(part, "eqns"):
                found.append(part)
    if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return found[:1]
    return found if eqn.primitive.name not in ("reduce", "reduce_window", "sort", "scatter-add", "argmax") else []


def _join(parts: Sequence[Names]) -> Names:
    if any(names is None for names in parts):
        return None
    return frozenset().union(*(names for names in parts if names is not None))
