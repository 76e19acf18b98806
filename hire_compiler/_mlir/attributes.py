"""Types and attributes of operations, as plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax import lax
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

_DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "f8E3M4": "float8_e3m4",
    "f8E4M3": "float8_e4m3",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E4M3FNUZ": "float8_e4m3fnuz",
    "f8E4M3B11FNUZ": "float8_e4m3b11fnuz",
    "f8E5M2": "float8_e5m2",
    "f8E5M2FNUZ": "float8_e5m2fnuz",
    "f8E8M0FNU": "float8_e8m0fnu",
    "f4E2M1FN": "float4_e2m1fn",
    "i1": "bool",
    "i2": "int2",
    "i4": "int4",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "ui2": "uint2",
    "ui4": "uint4",
    "ui8": "uint8",
    "ui16": "uint16",
    "ui32": "uint32",
    "ui64": "uint64",
}
_MLIR_DTYPES = {numpy: mlir for mlir, numpy in _DTYPES.items()}


def tensor_type(type_: Any) -> tuple[tuple[int, ...], str]:
    """Shape and NumPy dtype name of a ranked tensor type; ``((), str(type))`` for anything else."""
    try:
        ranked = ir.RankedTensorType(type_)
    except (ValueError, TypeError):
        return (), str(type_)
    element = str(ranked.element_type)
    return tuple(ranked.shape), _DTYPES.get(element, element)


def is_narrow(value: Any) -> bool:
    """Whether a value is of a float type that XLA may compute wider, and round or not."""
    return tensor_type(value.type)[1] in ("bfloat16", "float16")


def make_tensor_type(shape: Sequence[int], dtype: str) -> Any:
    """The MLIR type of an array."""
    dims = "".join(f"{n}x" for n in shape)
    return ir.Type.parse(f"tensor<{dims}{_MLIR_DTYPES[dtype]}>")


def dot_dimensions(op: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(lhs batch, rhs batch, lhs contracting, rhs contracting) dimensions of a ``dot_general``."""
    dims = hlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    return (
        tuple(dims.lhs_batching_dimensions),
        tuple(dims.rhs_batching_dimensions),
        tuple(dims.lhs_contracting_dimensions),
        tuple(dims.rhs_contracting_dimensions),
    )


def gathered_dimensions(op: Any) -> tuple[int, ...]:
    """The dimensions of its operand that a ``gather`` indexes (``start_index_map``)."""
    return tuple(hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"]).start_index_map)


def gather_result_axis(op: Any, axis: int) -> int | None:
    """The dimension of a ``gather``'s result that holds a dimension of its operand; None if that is collapsed."""
    dims = hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    dropped = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    if axis in dropped:
        return None
    kept = [i for i in range(len(ir.RankedTensorType(op.operands[0].type).shape)) if i not in dropped]
    return int(tuple(dims.offset_dims)[kept.index(axis)])


def integers(op: Any, attribute: str) -> tuple[int, ...]:
    """An integer-array attribute (``permutation``, ``start_indices`` …) of an operation."""
    return tuple(ir.DenseI64ArrayAttr(op.attributes[attribute]))


def integer(op: Any, attribute: str) -> int:
    """A single integer attribute of an operation."""
    return int(ir.IntegerAttr(op.attributes[attribute]).value)


def composite_integer(op: Any, attribute: str) -> int:
    """An integer attribute of a ``composite``; 0 if absent."""
    attributes = ir.DictAttr(op.attributes["composite_attributes"])
    return int(ir.IntegerAttr(attributes[attribute]).value) if attribute in attributes else 0


def text(op: Any, attribute: str) -> str:
    """A string or enum attribute as the word it prints (``GT``, ``Sharding`` …); '' if absent."""
    if attribute not in op.attributes:
        return ""
    printed = str(op.attributes[attribute])
    return printed.removeprefix("#stablehlo<").rstrip(">").split(" ")[-1].strip('"@')


def constant(op: Any, *, limit: int = 4096) -> np.ndarray | None:
    """The value of a ``stablehlo.constant`` as an array: a 0-d splat, or whole up to ``limit`` elements."""
    value = op.attributes["value"]
    shape, dtype = tensor_type(value.type)
    size = int(np.prod(shape, dtype=np.int64))
    splat = getattr(value, "is_splat", False)
    if not splat and size > limit:
        return None
    if dtype == "bool":
        raw = [bool(value.get_splat_value())] if splat else [bool(v) for v in value]
        return np.asarray(raw).reshape(() if splat else shape)
    try:
        if splat:
            return np.asarray(value.get_splat_value().value).astype(_numpy_dtype(dtype))
        return np.asarray(list(value)).astype(_numpy_dtype(dtype)).reshape(shape)
    except (AttributeError, TypeError, ValueError):
        return None


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(jax.numpy.dtype(name))


def scope(op: Any) -> str:
    """The model's own scope path of an operation, from its location: ``decoder/layer_3/mlp``."""
    parts = [part for name in _location_names(op.location) for part in name.split("/")]
    return "/".join(part for part in parts[:-1] if part and not _is_plumbing(part))


def _location_names(location: Any) -> list[str]:
    if isinstance(location, ir.CallSiteLoc):
        return _location_names(location.caller) + _location_names(location.callee)
    if isinstance(location, ir.NameLoc):
        return [] if location.name_str.endswith(".py") else [location.name_str]
    if isinstance(location, ir.FusedLoc):
        return _location_names(location.locations[0]) if location.locations else []
    return []


def _is_plumbing(part: str) -> bool:
    wrappers = ("jit(", "pjit", "while", "body", "cond", "closed_call", "checkpoint", "remat", "core_call")
    return part.startswith(wrappers) or part in ("main", "scan", "hire_program")


def gather_numbers(op: Any) -> lax.GatherDimensionNumbers:
    """How a ``gather`` picks its slices."""
    dims = hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    return lax.GatherDimensionNumbers(
        offset_dims=tuple(dims.offset_dims),
        collapsed_slice_dims=tuple(dims.collapsed_slice_dims),
        start_index_map=tuple(dims.start_index_map),
        operand_batching_dims=tuple(dims.operand_batching_dims),
        start_indices_batching_dims=tuple(dims.start_indices_batching_dims),
    )


def gather_vector(op: Any) -> int:
    """Which dimension of the indices of a ``gather`` holds their parts."""
    return int(hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"]).index_vector_dim)


def scatter_numbers(op: Any) -> tuple[lax.ScatterDimensionNumbers, int]:
    """How a ``scatter`` puts its updates, and which dimension of the indices holds their parts."""
    dims = hlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(dims.update_window_dims),
        inserted_window_dims=tuple(dims.inserted_window_dims),
        scatter_dims_to_operand_dims=tuple(dims.scattered_dims_to_operand_dims),
        operand_batching_dims=tuple(dims.input_batching_dims),
        scatter_indices_batching_dims=tuple(dims.scatter_indices_batching_dims),
    )
    return numbers, int(dims.index_vector_dim)


def pairs(op: Any, attribute: str) -> list[list[int]]:
    """An integer matrix (``padding``) of an operation."""
    return [[int(n) for n in row] for row in np.asarray(ir.DenseElementsAttr(op.attributes[attribute]))]
