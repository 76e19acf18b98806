"""JAX's private names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
from jax._src import source_info_util
from jax._src.interpreters import mlir as jax_mlir_internals
from jax.extend import core as jex_core
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler._mlir.attributes import make_tensor_type
from hire_compiler._mlir.modules import run_passes, to_bytecode


def is_tracer(value: Any) -> bool:
    """Whether a value is being traced by a JAX transformation."""
    return isinstance(value, jax.core.Tracer)


@dataclass(frozen=True)
class JitOptions:
    """The options of a ``jax.jit`` function that change how it is called."""

    static_argnums: frozenset[int] = frozenset()
    static_argnames: frozenset[str] = frozenset()
    donate_argnums: frozenset[int] = frozenset()
    donate_argnames: frozenset[str] = frozenset()


def jit_options(function: Any) -> JitOptions:
    """Static and donated arguments of a ``jax.jit`` function; none for any other callable."""
    info = getattr(function, "_jit_info", None)
    if info is None:
        return JitOptions()
    return JitOptions(**{name: frozenset(getattr(info, name) or ()) for name in JitOptions.__dataclass_fields__})


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation holds in its parameters."""
    return iter(jex_core.jaxprs_in_params(eqn.params))


def scan_arity(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and how many carries a ``scan`` equation has; JAX 0.12 says it in trees."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def forwarded(jaxpr: Any, var: Any) -> Any:
    """The input of a jaxpr that ``var`` is, looked up through nested ``jit`` calls; else ``var`` itself."""
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name not in ("jit", "pjit") or var not in eqn.outvars:
            continue
        inner = eqn.params["jaxpr"].jaxpr
        source = forwarded(inner, inner.outvars[eqn.outvars.index(var)])
        if source in inner.invars:
            var = eqn.invars[inner.invars.index(source)]
    return var


def refine_shapes(module: Any, types: Sequence[tuple[tuple[int, ...], str]]) -> bytes:
    """The module with every dynamic shape resolved from the static types that ``@main``'s arguments are given.

    Raises:
      ValueError: some shape does not follow from them, or a shape assertion fails.
    """
    hlo.register_stablehlo_passes()
    given = ",".join(str(make_tensor_type(*type_)) for type_ in types)
    run_passes(module, f"stablehlo-refine-arguments{{types={given}}}")
    return to_bytecode(jax_mlir_internals.refine_polymorphic_shapes(module))


def evaluate_dimension(dimension: Any, sizes: dict[str, int]) -> int:
    """The value of a dimension of an exported type, symbolic (``2*b + 1``) or not."""
    return int(dimension if isinstance(dimension, int) else dimension._evaluate(sizes))


def dimension_variables(dimension: Any) -> frozenset[str]:
    """The variables that a dimension of an exported type mentions."""
    return frozenset() if isinstance(dimension, int) else frozenset(dimension._get_vars())


def user_context(eqn: Any) -> Any:
    """The context in which an equation was traced, so that replaying it keeps its scope names."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)
