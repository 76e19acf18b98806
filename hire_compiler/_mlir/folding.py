"""Evaluate operations on constants: as a module of their own, by XLA on this machine's CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import text
from hire_compiler._mlir.modules import to_bytecode
from hire_compiler._mlir.running import run_module
from hire_compiler._mlir.settings import own_settings


def module_of(operations: Sequence[Any], results: Sequence[Any]) -> bytes | None:
    """Copies of some operations as a module that takes nothing, bytecode; None if they read anything else.

    Args:
      operations: what a value is computed from before the value itself.
      results: what the module returns.
    """
    module = ir.Module.parse("func.func @main() { return }")
    function = module.body.operations[0]
    block = function.operation.regions[0].blocks[0]
    end = list(block.operations)[-1].operation
    copies: dict[Any, Any] = {}
    for op in operations:
        with ir.InsertionPoint(end):
            copy = _copy(op)
        own = set(op.results)
        for old, new in zip(_nested(op), _nested(copy), strict=True):
            own |= {*old.results, *(arg for region in old.regions for b in region.blocks for arg in b.arguments)}
            for i, operand in enumerate(map(_behind, old.operands)):
                if operand in copies:
                    new.operands[i] = copies[operand]
                elif operand not in own:
                    return None
        copies |= dict(zip(op.results, copy.results, strict=True))
    with ir.InsertionPoint(end):
        ir.Operation.create("func.return", operands=[copies[result] for result in results], loc=end.location)
    end.erase()
    signature = ir.FunctionType.get([], [result.type for result in results])
    function.operation.attributes["function_type"] = ir.TypeAttr.get(signature)
    return to_bytecode(module) if module.operation.verify() else None


def _copy(op: Any) -> Any:
    name = {"stablehlo.composite": text(op, "name"), "stablehlo.custom_call": text(op, "call_target_name")}.get(op.name)
    if name is None:
        return op.clone().operation
    # Under another name: mhlo.erf, or a composite whose decomposition is elsewhere.
    types = [result.type for result in op.results]
    return ir.Operation.create(name.replace("mhlo.", "chlo."), results=types, operands=op.operands, loc=op.location)


def _behind(value: Any) -> Any:
    """What an optimization barrier hands on."""
    while isinstance(value.owner, ir.Operation | ir.OpView) and value.owner.name == "stablehlo.optimization_barrier":
        value = value.owner.operands[ir.OpResult(value).result_number]
    return value


def _nested(op: Any) -> Iterator[Any]:
    yield op
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _nested(inner.operation)


def evaluate(module: bytes, types: Sequence[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
    """What a module that takes nothing returns, of these shapes and types."""
    results = tuple(jax.core.ShapedArray(shape, jax.numpy.dtype(dtype)) for shape, dtype in types)
    # Now, even while the caller's own function is being traced.
    with jax.core.eval_context(), own_settings(x64=True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        run = jax.jit(lambda: run_module(module, results, ())).lower().compile()
        return [np.asarray(result) for result in run()]


__all__ = ["evaluate", "module_of"]
