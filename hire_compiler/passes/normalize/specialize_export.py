"""Settle: what an exported module leaves open is decided, before anything reads it.

An export may serve several platforms (a ``case`` on a hidden index), hold dynamic shapes (``tensor<?x64>``) and
carry its weights as constants. For one platform and one set of argument types all of that is known: the shapes are
refined, the other platforms' branches go, and big constants become arguments of ``@main`` like any other weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.capture.hoist import hoistable


@dataclass(frozen=True)
class Specialized:
    """A module with static shapes, one platform, and its big constants as the first arguments of ``@main``.

    Attributes:
      module: bytecode.
      constants: values of the leading arguments.
      results: shape and dtype of every result.
    """

    module: bytes
    constants: tuple[np.ndarray, ...]
    results: tuple[tuple[tuple[int, ...], str], ...]


def specialize(module: bytes, types: Sequence[tuple[tuple[int, ...], str]], platform: int | None) -> Specialized:
    """Decide what an exported module leaves open.

    Args:
      module: bytecode.
      types: static shape and dtype of every argument of ``@main``, without the hidden platform.
      platform: which of the platforms it was exported for; None if ``@main`` has no such argument.

    Raises:
      ValueError: a dynamic shape does not follow from the types of the arguments.
    """
    with _mlir.fresh_context(), _mlir.silence():
        parsed = _mlir.parse(module)
        shardings = _mlir.take_shardings(parsed)
        if platform is not None:
            _set_platform(parsed, platform)
            del shardings[0]
        if any("?" in type_ for type_ in _types(parsed)):
            parsed = _mlir.parse(_mlir.refine_shapes(parsed, types))
        _mlir.inline_calls(parsed)
        fold_cases(parsed)
        constants = hoist_module_constants(parsed)
        if any(shardings):
            _mlir.put_shardings(parsed, [*[None] * len(constants), *shardings])
        results = tuple(_mlir.tensor_type(type_) for type_ in _mlir.main_function(parsed).type.results)
        return Specialized(_mlir.to_bytecode(parsed), tuple(constants), results)


def _set_platform(module: Any, index: int) -> None:
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    with _mlir.ir.InsertionPoint.at_block_begin(block):
        block.arguments[0].replace_all_uses_with(_mlir.filled(block.arguments[0].type, index))
    block.erase_argument(0)
    _mlir.set_main_signature(function)


def _types(module: Any) -> Iterator[str]:
    for op in _walk(module.operation):
        yield from (str(result.type) for result in op.results)
        if op.name == "func.func":
            yield str(op.attributes["function_type"])


# --------------------------------------------------------------------------- branches


def fold_cases(module: Any) -> int:
    """Put the chosen branch in the place of every ``case`` on a constant; how many there were."""
    folded = 0
    while True:
        chosen = [op for op in _walk(module.operation) if op.name == "stablehlo.case" and _index(op) is not None]
        if not chosen:
            return folded
        # The outermost first: what it holds moves with it and is found again.
        _take_branch(chosen[0])
        folded += 1


def _index(case: Any) -> int | None:
    source = getattr(case.operands[0].owner, "opview", None)
    if source is None or source.operation.name != "stablehlo.constant":
        return None
    value = _mlir.constant(source.operation)
    if value is None:
        return None
    # StableHLO: an index out of range means the last branch.
    index, last = int(value), len(case.regions) - 1
    return index if 0 <= index <= last else last


def _take_branch(case: Any) -> None:
    index = _index(case)
    assert index is not None
    *body, terminator = list(case.regions[index].blocks[0].operations)
    for op in body:
        op.operation.move_before(case)
    for result, value in zip(case.results, terminator.operation.operands, strict=True):
        result.replace_all_uses_with(value)
    case.erase()


# --------------------------------------------------------------------------- constants


def hoist_module_constants(module: Any) -> list[np.ndarray]:
    """Make the :func:`hoistable` constants of a flattened module its first arguments; their values."""
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    values, sources = [], []
    resources = _mlir.resources(module) if any(map(_resource, _constants(function.operation))) else {}
    for op in _walk(function.operation):
        if op.name == "stablehlo.constant" and hoistable(*_mlir.tensor_type(op.results[0].type)):
            value = _dense_value(op, resources)
            if value is not None:
                values.append(value)
                sources.append(op)
    if not values:
        return []
    own = list(block.arguments)
    unknown = _mlir.ir.Location.unknown()
    for op in sources:
        op.results[0].replace_all_uses_with(block.add_argument(op.results[0].type, unknown))
        op.erase()
    # Arguments can only be appended, so the program's own are appended again behind the constants.
    for argument in own:
        argument.replace_all_uses_with(block.add_argument(argument.type, argument.location))
    for index in reversed(range(len(own))):
        block.erase_argument(index)
    _mlir.set_main_signature(function)
    return values


def _constants(op: Any) -> Iterator[Any]:
    return (inner for inner in _walk(op) if inner.name == "stablehlo.constant")


def _resource(constant: Any) -> str:
    """The name of the resource that holds a constant's value, or ''."""
    value = constant.attributes["value"]
    if hasattr(value, "is_splat"):
        return ""
    found = re.match(r'dense_resource<"?([^">]+)"?>', str(value))
    return found[1] if found else ""


def _dense_value(op: Any, resources: Mapping[str, bytes]) -> np.ndarray | None:
    """The array of a constant; None for a splat, and for what the bindings cannot read."""
    value = op.attributes["value"]
    if name := _resource(op):
        return _resource_value(value, resources.get(name, b""))
    if getattr(value, "is_splat", True):
        return None
    shape, name = _mlir.tensor_type(value.type)
    dtype = np.dtype(jnp.dtype(name))
    try:
        return np.array(value).astype(dtype, copy=False)
    except (TypeError, ValueError, BufferError):
        pass
    digits = re.search(r'"0x([0-9A-Fa-f]+)"', str(value))  # bfloat16 has no Python buffer, but its bytes print
    return None if digits is None else np.frombuffer(bytes.fromhex(digits[1]), dtype).reshape(shape)


def _resource_value(value: Any, data: bytes) -> np.ndarray | None:
    shape, name = _mlir.tensor_type(value.type)
    dtype = np.dtype(jnp.dtype(name))
    whole = len(data) == int(np.prod(shape)) * dtype.itemsize and dtype != np.bool_  # booleans may be packed
    return np.frombuffer(data, dtype).reshape(shape) if whole else None


def _walk(op: Any) -> Iterator[Any]:
    """Every operation inside ``op``, outer before inner."""
    for region in op.regions:
        for block in region.blocks:
            for view in list(block.operations):
                yield view.operation
                yield from _walk(view.operation)
