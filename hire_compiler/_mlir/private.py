"""JAX's private names."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.export
import jaxlib.version
from jax._src import pjit, source_info_util
from jax._src.interpreters import mlir as jax_mlir_internals
from jax.extend import core as jex_core
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler._mlir.attributes import make_tensor_type
from hire_compiler._mlir.modules import run_passes, to_bytecode

JAXLIB_VERSION: tuple[int, ...] = jaxlib.version.__version_info__


def is_tracer(value: Any) -> bool:
    """Whether a value is being traced by a JAX transformation."""
    return isinstance(value, jax.core.Tracer)


@dataclass(frozen=True)
class JitOptions:
    """The options of a ``jax.jit`` function that change how it is called or compiled."""

    static_argnums: frozenset[int] = frozenset()
    static_argnames: frozenset[str] = frozenset()
    donate_argnums: frozenset[int] = frozenset()
    donate_argnames: frozenset[str] = frozenset()
    compiler_options: tuple[tuple[str, Any], ...] = ()

    def after(self, bound: int) -> JitOptions:
        """The options with the first ``bound`` arguments given; negative numbers count from the end."""
        static, donated = (
            frozenset(i - bound if i >= bound else i for i in numbers if i >= bound or i < 0)
            for numbers in (self.static_argnums, self.donate_argnums)
        )
        return replace(self, static_argnums=static, donate_argnums=donated)


def jit_options(function: Any) -> JitOptions:
    """The options of a ``jax.jit`` function, of a partial or a bound method of one; none for any other callable."""
    if isinstance(function, functools.partial):
        return jit_options(function.func).after(len(function.args))
    if isinstance(function, types.MethodType):
        return jit_options(function.__func__).after(1)
    info = getattr(function, "_jit_info", None)
    if info is None:
        return JitOptions()
    names = [field.name for field in fields(JitOptions) if field.name != "compiler_options"]
    sets = {name: frozenset(getattr(info, name) or ()) for name in names}
    return JitOptions(**sets, compiler_options=tuple(info.compiler_options_kvs))


def without_compiler_options(function: Any) -> Any:
    """The same function without ``compiler_options``, which JAX takes at the top only; shardings and layouts stay."""
    if not jit_options(function).compiler_options:
        return function
    if isinstance(function, functools.partial):
        return type(function)(without_compiler_options(function.func), *function.args, **function.keywords)
    if isinstance(function, types.MethodType):
        return types.MethodType(without_compiler_options(function.__func__), function.__self__)
    return pjit._cpp_pjit(function.__wrapped__, function._jit_info._replace(compiler_options_kvs=()))


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
