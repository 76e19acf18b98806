"""Our own primitive: run a module's ``@main`` as a part of a JAX computation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
from jax.extend import core as jex_core
from jax.interpreters import ad, batching
from jax.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir

from hire_compiler._mlir.functions import call, merge_function, number_channels
from hire_compiler.errors import TransformError

run_module_p = jex_core.Primitive("hire_program")
run_module_p.multiple_results = True


@run_module_p.def_abstract_eval
def _abstract_eval(*_args: Any, module: bytes, out_avals: tuple[Any, ...]) -> list[Any]:
    del module
    return list(out_avals)


def _lower_module(ctx: Any, *operands: Any, module: bytes, out_avals: tuple[Any, ...]) -> list[Any]:
    del out_avals
    owner = ctx.module_context
    source = ir.Module.parse(module, context=owner.context)
    first = owner.new_channel()
    for _ in range(first + 1, number_channels(source, first)):
        owner.new_channel()
    name, function_type = merge_function(owner.module, "hire_program", source, symbols=owner.symbol_table)
    return call(name, function_type, operands)


@lru_cache(maxsize=64)
def _compiled(module: bytes, out_avals: tuple[Any, ...]) -> Any:
    return jax.jit(lambda *operands: run_module(module, out_avals, operands))


@run_module_p.def_impl
def _run_now(*operands: Any, module: bytes, out_avals: tuple[Any, ...]) -> list[Any]:
    """Outside of any ``jit`` (``disable_jit``, a jaxpr evaluated by hand) it is compiled all the same."""
    with jax.disable_jit(False):
        return list(_compiled(module, out_avals)(*operands))


def _no_gradient(_primals: Any, _tangents: Any, **_params: Any) -> Any:
    raise TransformError(
        "a rewritten program has no derivative (its selection of rows is for inference): differentiate the "
        "original function, and give hire_compiler the decode step only"
    )


def _no_batching(_args: Any, _dims: Any, **_params: Any) -> Any:
    raise TransformError(
        "a rewritten program cannot be vmapped (its predictors and gathers were planned for one batch): "
        "batch inside the function, then transform it; jax.vmap first, hire_compiler.transform last"
    )


jax_mlir.register_lowering(run_module_p, _lower_module)
ad.primitive_jvps[run_module_p] = _no_gradient
batching.primitive_batchers[run_module_p] = _no_batching


def run_module(module: bytes, out_avals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """Bind a module's ``@main`` into the JAX computation being traced.

    An own primitive rather than ``Exported.call``: its gradient and batching rules refuse aloud (a patched
    ``Exported`` keeps the old gradient), and no field of a private dataclass has to agree with the module.
    """
    return list(run_module_p.bind(*operands, module=module, out_avals=tuple(out_avals)))
