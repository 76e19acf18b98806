"""The only file that touches jaxlib's MLIR bindings and JAX's private names.

Everything above works on the plain graph of ``graph.py``, on bytes, and on the few functions below, so
that an upgrade of JAX is repaired in one place. Facts behind this file: the bindings that matter come
inside jaxlib; ``lower().compiler_ir()`` is shared with JAX's lowering cache and must never be edited, so
modules cross this border as bytecode and are parsed into a context of our own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import numpy as np
from jax._src import source_info_util
from jax._src.interpreters import mlir as jax_mlir_internals
from jax.extend import core as jex_core
from jax.interpreters import ad, batching
from jax.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import func, sdy
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler.errors import HireError, TransformError

__all__ = ["ir"]

# --------------------------------------------------------------------------- contexts and modules


@contextmanager
def fresh_context() -> Iterator[Any]:
    """An MLIR context of our own with every dialect JAX knows, left again on exit (never leaked)."""
    ctx = jax_mlir.make_ir_context()
    with ctx, ir.Location.unknown(ctx):
        yield ctx


def parse(module: bytes | str) -> Any:
    """Parse bytecode or text in the current context."""
    try:
        return ir.Module.parse(module)
    except ir.MLIRError as error:
        first_line = str(error).strip().splitlines()[0]
        raise HireError(f"not a StableHLO module this jaxlib can read: {first_line}") from None


def parse_portable(artifact: bytes) -> Any:
    """Parse a VHLO portable artifact (what ``jax.export`` serializes) in the current context."""
    try:
        return hlo.deserialize_portable_artifact(ir.Context.current, artifact)
    except (ir.MLIRError, ValueError) as error:
        raise HireError(f"not a portable StableHLO artifact: {str(error).splitlines()[0]}") from None


def parse_any(data: bytes, name: str) -> Any:
    """Parse StableHLO text or bytecode, a VHLO portable artifact, or a serialized ``jax.export``."""
    # Each reader would print its own complaint about the others' formats.
    with silence():
        return _parse_any(data, name)


def check_strings(module: Any) -> None:
    """Refuse a module with names that are no UTF-8: reading one of them would abort the whole process.

    Raises:
      HireError: there is one; only a corrupted file has them.
    """
    printed = module.operation.get_asm(enable_debug_info=True, large_elements_limit=16, binary=True)
    for run in re.findall(rb"(?:\\[0-9A-F]{2})+", printed):  # the printer escapes whatever is not plain ASCII
        try:
            bytes.fromhex(run.replace(b"\\", b"").decode()).decode()
        except UnicodeDecodeError:
            raise HireError("it holds a name that is no text") from None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def silence() -> Iterator[None]:
    """Keep MLIR from printing what it finds wrong; the caller says it in a sentence."""
    handler = ir.Context.current.attach_diagnostic_handler(lambda _diagnostic: True)
    try:
        yield
    finally:
        handler.detach()


def _parse_any(data: bytes, name: str) -> Any:
    readers = (parse, parse_portable, lambda d: parse_portable(_exported_module(d)))
    for read in readers if data.startswith(BYTECODE) or _is_text(data) else readers[1:]:
        try:
            module = read(data)
        except Exception:  # each reader fails in its own way on the others' formats
            continue
        # Bytes that begin with a zero read as an empty text, and VHLO as a module of another dialect.
        if any(op.operation.name == "func.func" for op in module.body.operations):
            return module
    raise HireError(
        f"{name} is no StableHLO this jaxlib can read: expected MLIR text or bytecode, a VHLO portable artifact, "
        "or a serialized jax.export"
    )


BYTECODE = b"ML\xefR"  # how MLIR bytecode begins, of StableHLO and of VHLO


def deserialize_export(data: bytes) -> Any | None:
    """The ``jax.export.Exported`` that some bytes serialize, or None if they are something else.

    Raises:
      HireError: it is an export of a version that this JAX does not read, or ``flatbuffers`` is missing.
    """
    if data.startswith(BYTECODE):
        return None
    try:
        return jax.export.deserialize(bytearray(data))
    except ModuleNotFoundError:
        raise HireError("reading a serialized jax.export needs flatbuffers: pip install flatbuffers") from None
    except NotImplementedError as error:
        raise HireError(f"a serialized jax.export of a version this jax does not read: {error}") from None
    except Exception:  # flatbuffers fail in many ways on what is none
        return None


def _exported_module(data: bytes) -> bytes:
    return bytes(jax.export.deserialize(bytearray(data)).mlir_module_serialized)


def to_bytecode(module: Any) -> bytes:
    """The module as MLIR bytecode: an independent copy, locations included."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def to_text(module: bytes | str | Any, *, locations: bool = False) -> str:
    """The module as readable text."""
    if isinstance(module, (bytes, str)):
        with fresh_context():
            return to_text(parse(module), locations=locations)
    return str(module.operation.get_asm(enable_debug_info=locations, large_elements_limit=16))


def run_passes(module: Any, pipeline: str) -> None:
    """Run an MLIR pass pipeline in place, such as ``"symbol-dce,cse"``."""
    passmanager.PassManager.parse(f"builtin.module({pipeline})").run(module.operation)


def inline_calls(module: Any) -> None:
    """Flatten every private function into its callers, scan bodies included, in linear time.

    MLIR's own inliner splits and joins the caller's block at every call, which is quadratic in a long block.
    Here callees come first, so that each is flat when it is copied to its callers.
    """
    functions = {_symbol(view): view.operation for view in module.body.operations if _is_flat_function(view.operation)}
    flattened: set[str] = set()
    for name in functions:
        _flatten(name, functions, flattened, ())
    run_passes(module, "symbol-dce,cse")


def _flatten(name: str, functions: dict[str, Any], flattened: set[str], callers: tuple[str, ...]) -> None:
    if name in callers:
        raise HireError(f"@{name} calls itself, through @{' -> @'.join(callers)}: StableHLO has no recursion")
    if name in flattened:
        return
    for op in operations_named(functions[name], "func.call"):
        callee = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
        if callee not in functions:
            continue
        _flatten(callee, functions, flattened, (*callers, name))
        with ir.InsertionPoint(op):
            copied = _jax_mlir_ext.inlined_func_call(functions[callee], list(op.operands), op.location)
        for old, new in zip(op.results, copied, strict=True):
            old.replace_all_uses_with(new)
        op.erase()
    flattened.add(name)


def operations_named(function: Any, name: str) -> list[Any]:
    """Every operation of a name inside a function, in program order, outer ones before those in their regions."""
    found: list[Any] = []

    def note(op: Any) -> Any:
        if op.name == name:
            found.append(op)
        return ir.WalkResult.ADVANCE

    function.walk(note, ir.WalkOrder.PRE_ORDER)
    return found


def _symbol(view: Any) -> str:
    return str(ir.StringAttr(view.operation.attributes["sym_name"]).value)


def _is_flat_function(op: Any) -> bool:
    return op.name == "func.func" and len(op.regions[0].blocks) == 1


def main_function(module: Any) -> Any:
    """The public entry function of a module."""
    found = find_function(module, "main")
    if found is None:
        raise HireError("the module has no function called @main: export it with jax.export or name the entry")
    return found


def find_function(module: Any, name: str) -> Any | None:
    """A function of a module by its name; None if there is none."""
    functions = [op for op in module.body.operations if op.operation.name == "func.func"]
    for op in functions:
        if ir.StringAttr(op.operation.attributes["sym_name"]).value == name:
            return op
    return None


def argument_names(function: Any) -> list[str]:
    """The names that the arguments of a function carry in their locations, ``params['embed']``; '' where none."""
    locations = [argument.location for argument in function.operation.regions[0].blocks[0].arguments]
    return [location.name_str if isinstance(location, ir.NameLoc) else "" for location in locations]


def argument_attribute(function: Any, index: int, name: str) -> str:
    """An attribute of one argument of a function as text (``jax.global_constant``); '' if absent."""
    if "arg_attrs" not in function.operation.attributes:
        return ""
    given = function.operation.attributes["arg_attrs"][index]
    return str(given[name]).strip('"') if name in given else ""


def module_attribute(module: Any, name: str, default: int) -> int:
    """An integer attribute of a module, such as ``mhlo.num_partitions``."""
    given = module.operation.attributes
    return int(ir.IntegerAttr(given[name]).value) if name in given else default


def function_names(module: Any) -> list[str]:
    """The names of all functions of a module."""
    found = [op.operation for op in module.body.operations if op.operation.name == "func.func"]
    return [ir.StringAttr(op.attributes["sym_name"]).value for op in found]


def merge_function(module: Any, name: str, source: Any, *, symbols: Any = None) -> tuple[str, Any]:
    """Move ``source``'s ``@main`` into ``module`` as a private function; its new name and type."""
    _share_meshes(module, source)
    function_type = main_function(source).type
    table = ir.SymbolTable(module.operation) if symbols is None else symbols
    merged = jax_mlir.merge_mlir_modules(module, name, source, dst_symtab=table)
    return merged, function_type


def call(name: str, function_type: Any, operands: Sequence[Any]) -> list[Any]:
    """Emit ``func.call @name`` at the current insertion point; its results."""
    results = list(function_type.results)
    return list(func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(operands)).results)


def zeros(shape: Sequence[int]) -> Any:
    """Emit a float32 zero of a shape at the current insertion point."""
    type_ = make_tensor_type(shape, "float32")
    value = ir.DenseElementsAttr.get_splat(type_, ir.FloatAttr.get(ir.F32Type.get(), 0.0))
    return ir.Operation.create("stablehlo.constant", results=[type_], attributes={"value": value}).results[0]


def scalar(value: int, type_: Any) -> Any:
    """Emit an integer scalar of a 0-d tensor type at the current insertion point."""
    element = ir.RankedTensorType(type_).element_type
    dense = ir.DenseElementsAttr.get_splat(type_, ir.IntegerAttr.get(element, value))
    return ir.Operation.create("stablehlo.constant", results=[type_], attributes={"value": dense}).results[0]


# --------------------------------------------------------------------------- types and attributes

_DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "i1": "bool",
    "i4": "int4",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
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
    return part.startswith(wrappers) or part in ("main", "scan")


# --------------------------------------------------------------------------- editing loops


def rebuild_while(loop: Any, keep: Sequence[int], added: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    """Replace a ``stablehlo.while`` by one that keeps only some carries and has new ones appended.

    Args:
      loop: the loop; erased. Uses of dropped carries must be gone from its body and its results.
      keep: indices of the carries that stay, in order.
      added: initial values of the appended carries, which the body for now returns unchanged.

    Returns:
      The new loop and the block arguments of the appended carries inside its body.
    """
    initial = [loop.operands[i] for i in keep] + list(added)
    types = [value.type for value in initial]
    with ir.InsertionPoint(loop):
        new = ir.Operation.create("stablehlo.while", results=types, operands=initial, regions=2, loc=loop.location)
    for old_region, new_region in zip(loop.regions, new.regions, strict=True):
        _move_block(old_region.blocks[0], new_region.blocks.append(*types), keep)
    body = new.regions[1].blocks[0]
    carried = [body.arguments[len(keep) + j] for j in range(len(added))]
    terminator = list(body.operations)[-1].operation
    returned = [terminator.operands[i] for i in keep] + carried
    with ir.InsertionPoint(terminator):
        ir.Operation.create("stablehlo.return", operands=returned, loc=terminator.location)
    terminator.erase()
    for position, index in enumerate(keep):
        loop.results[index].replace_all_uses_with(new.results[position])
    loop.erase()
    return new, carried


def _move_block(old: Any, new: Any, keep: Sequence[int]) -> None:
    for position, index in enumerate(keep):
        old.arguments[index].replace_all_uses_with(new.arguments[position])
    for op in list(old.operations):
        new.append(op)


# --------------------------------------------------------------------------- respelling products


@dataclass(frozen=True)
class PointwiseWindow:
    """The dimensions of a convolution that is a matrix product at every position.

    Attributes:
      input, output: a name for every dimension: ``b`` batch, ``f`` features, ``0``, ``1`` … positions.
      kernel: likewise, ``i`` and ``o`` for its features.
    """

    input: tuple[str, ...]
    kernel: tuple[str, ...]
    output: tuple[str, ...]


def pointwise_window(op: Any) -> PointwiseWindow | None:
    """The dimensions of a ``convolution`` whose window is one element; None for any other."""
    dims = hlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    kernel_shape, _ = tensor_type(op.operands[1].type)
    positions = tuple(dims.kernel_spatial_dimensions)
    groups = integer(op, "feature_group_count") * integer(op, "batch_group_count")
    if groups != 1 or any(kernel_shape[i] != 1 for i in positions):
        return None
    ones = ("window_strides", "lhs_dilation")
    if any(name in op.attributes and set(integers(op, name)) - {1} for name in ones):
        return None
    if "padding" in op.attributes and any(int(n) for n in ir.DenseIntElementsAttr(op.attributes["padding"])):
        return None
    given = (dims.input_batch_dimension, dims.input_feature_dimension, tuple(dims.input_spatial_dimensions))
    made = (dims.output_batch_dimension, dims.output_feature_dimension, tuple(dims.output_spatial_dimensions))
    return PointwiseWindow(
        _named(("b", "f"), *given),
        _named(("i", "o"), dims.kernel_input_feature_dimension, dims.kernel_output_feature_dimension, positions),
        _named(("b", "f"), *made),
    )


def _named(names: tuple[str, str], first: int, second: int, positions: tuple[int, ...]) -> tuple[str, ...]:
    named = {first: names[0], second: names[1]} | {at: str(i) for i, at in enumerate(positions)}
    return tuple(named[i] for i in range(len(named)))


def replace_by_dot(op: Any, left: Sequence[int], right: Sequence[int], order: Sequence[int] | None = None) -> None:
    """Replace a product by a ``dot_general`` over the contracting dimensions, reshaped to the result it had.

    Args:
      op: an operation with two operands; erased.
      left, right: contracting dimensions of the operands. What else the operands have is in the product, of which
        dimensions of size 1 may be dropped and added freely.
      order: how the product, its dimensions of size 1 that come from the right operand dropped, is transposed.
    """
    (left_shape, _), (right_shape, _) = (tensor_type(operand.type) for operand in op.operands)
    shape, dtype = tensor_type(op.results[0].type)
    numbers = hlo.DotDimensionNumbers.get([], [], list(left), list(right))
    product = [n for i, n in enumerate(left_shape) if i not in left]
    beside = [n for i, n in enumerate(right_shape) if i not in right]
    attributes = {"dot_dimension_numbers": numbers}
    if "precision_config" in op.attributes:
        attributes["precision_config"] = op.attributes["precision_config"]

    def emit(name: str, type_: Any, operands: list[Any], **more: Any) -> Any:
        return ir.Operation.create(name, results=[type_], operands=operands, attributes=more).results[0]

    with ir.InsertionPoint(op), op.location:
        types = make_tensor_type([*product, *beside], dtype)
        value = emit("stablehlo.dot_general", types, list(op.operands), **attributes)
        if order is not None:
            features = int(np.prod(beside))
            value = emit("stablehlo.reshape", make_tensor_type([*product, features], dtype), [value])
            turned = make_tensor_type([[*product, features][i] for i in order], dtype)
            permutation = ir.DenseI64ArrayAttr.get(list(order))
            value = emit("stablehlo.transpose", turned, [value], permutation=permutation)
        value = emit("stablehlo.reshape", op.results[0].type, [value])
    assert int(np.prod(shape)) == int(np.prod([*product, *beside]))
    op.results[0].replace_all_uses_with(value)
    op.erase()


# --------------------------------------------------------------------------- functions on main


def append_result(block: Any, result: Any) -> None:
    """Let the function of an entry block return one more value."""
    terminator = list(block.operations)[-1].operation
    operands = [*terminator.operands, result]
    with ir.InsertionPoint(terminator):
        ir.Operation.create("func.return", operands=operands, loc=terminator.location)
    terminator.erase()


def set_main_signature(function: Any) -> None:
    """Make ``function_type`` and the attributes of ``@main`` agree with its edited entry block."""
    block = function.regions[0].blocks[0]
    terminator = list(block.operations)[-1].operation
    inputs = [argument.type for argument in block.arguments]
    outputs = [operand.type for operand in terminator.operands]
    function_type = ir.FunctionType.get(inputs, outputs)
    function.operation.attributes["function_type"] = ir.TypeAttr.get(function_type)
    for name, count in (("arg_attrs", len(inputs)), ("res_attrs", len(outputs))):
        if name in function.operation.attributes:
            function.operation.attributes[name] = ir.ArrayAttr.get([ir.DictAttr.get({})] * count)


# --------------------------------------------------------------------------- shardings

Mesh = tuple[tuple[str, int], ...]
DimensionAxes = tuple[tuple[str, ...], ...]


def meshes(module: Any) -> dict[str, Mesh]:
    """The meshes that a module declares, by symbol: names and sizes of their axes."""
    return {_symbol(op): _mesh_axes(op.attributes["mesh"]) for op in _mesh_operations(module)}


def _mesh_axes(attribute: Any) -> Mesh:
    axes = (sdy.MeshAxisAttr(axis) for axis in sdy.MeshAttr(attribute).axes)
    return tuple((axis.name, axis.size) for axis in axes)


def argument_shardings(module: Any) -> list[DimensionAxes | None]:
    """For every argument of ``@main``, the mesh axes that split each dimension; None where nothing is said.

    Raises:
      HireError: an axis is split further (a sub-axis), or the module speaks an older language of shardings.
    """
    function = main_function(module).operation
    count = len(function.regions[0].blocks[0].arguments)
    if "arg_attrs" not in function.attributes:
        return [None] * count
    found: list[DimensionAxes | None] = []
    for attributes in ir.ArrayAttr(function.attributes["arg_attrs"]):
        if "mhlo.sharding" in ir.DictAttr(attributes):
            raise HireError("its shardings are of the older kind (mhlo.sharding): export it again with Shardy on")
        named = "sdy.sharding" in ir.DictAttr(attributes)
        found.append(_dimension_axes(ir.DictAttr(attributes)["sdy.sharding"]) if named else None)
    return found


def _dimension_axes(attribute: Any) -> DimensionAxes:
    dims = []
    for dim in sdy.TensorShardingAttr(attribute).dimension_shardings:
        axes = [sdy.AxisRefAttr(axis) for axis in sdy.DimensionShardingAttr(dim).axes]
        if any(axis.sub_axis_info is not None for axis in axes):
            raise HireError("a part of a mesh axis splits one of its arrays")
        dims.append(tuple(axis.name for axis in axes))
    return tuple(dims)


_TAG = "hire.tag"


def propagated_shardings(module: Any, ops: Sequence[Any]) -> list[DimensionAxes | None]:
    """How XLA would split the first result of each of some operations, by Shardy's own propagation.

    On a copy, because propagation leaves operations of its own behind.
    """
    for number, op in enumerate(ops):
        op.attributes[_TAG] = ir.StringAttr.get(str(number))
    copy = ir.Module.parse(to_bytecode(module))
    for op in ops:
        del op.attributes[_TAG]
    run_passes(copy, "sdy-propagation-pipeline")
    found: dict[int, DimensionAxes] = {}
    for op in _every_operation(copy.operation):
        if _TAG in op.attributes and "sdy.sharding" in op.attributes:
            first = sdy.TensorShardingPerValueAttr(op.attributes["sdy.sharding"]).shardings[0]
            found[int(ir.StringAttr(op.attributes[_TAG]).value)] = _dimension_axes(first)
    return [found.get(number) for number in range(len(ops))]


def _every_operation(op: Any) -> Iterator[Any]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _every_operation(inner.operation)


def _share_meshes(module: Any, source: Any) -> None:
    """Move the meshes of ``source`` into ``module``, one of each kind, and let ``source`` refer to them there."""
    own = {str(op.attributes["mesh"]): _symbol(op) for op in _mesh_operations(module)}
    taken = set(own.values())
    names: dict[str, str] = {}
    for op in _mesh_operations(source):
        name, kind = _symbol(op), str(op.attributes["mesh"])
        if kind not in own:
            own[kind] = name if name not in taken else f"{name}_{len(taken)}"
            taken.add(own[kind])
            attributes = {**dict(op.attributes.items()), "sym_name": ir.StringAttr.get(own[kind])}
            with ir.InsertionPoint.at_block_begin(module.body):
                ir.Operation.create("sdy.mesh", attributes=attributes, loc=ir.Location.unknown(module.context))
        names[name] = own[kind]
    for op in _mesh_operations(source):
        op.erase()
    # In two rounds, as one mesh may get the name that another had.
    for number, old in enumerate(names):
        ir.SymbolTable.replace_all_symbol_uses(old, f"hire_mesh_{number}", source.operation)
    for number, new in enumerate(names.values()):
        ir.SymbolTable.replace_all_symbol_uses(f"hire_mesh_{number}", new, source.operation)


def _mesh_operations(module: Any) -> list[Any]:
    return [op.operation for op in module.body.operations if op.operation.name == "sdy.mesh"]


def manual_shardings(op: Any) -> tuple[str, list[DimensionAxes]]:
    """The mesh of a ``sdy.manual_computation``, and how its operands are split over the devices."""
    shardings = list(sdy.TensorShardingPerValueAttr(op.attributes["in_shardings"]).shardings)
    shardings += list(sdy.TensorShardingPerValueAttr(op.attributes["out_shardings"]).shardings)
    mesh = ir.FlatSymbolRefAttr(sdy.TensorShardingAttr(shardings[0]).mesh_or_ref).value
    return str(mesh), [_dimension_axes(sharding) for sharding in shardings[: len(op.operands)]]


def collective_groups(op: Any) -> tuple[tuple[int, ...], ...]:
    """The devices that a collective brings together, as numbers; () where it does not list them."""
    named = "replica_groups" if "replica_groups" in op.attributes else "source_target_pairs"
    groups = np.asarray(ir.DenseIntElementsAttr(op.attributes[named]))
    return tuple(tuple(int(device) for device in group) for group in groups.reshape(groups.shape[0], -1))


def collective_axes(op: Any) -> tuple[str, tuple[str, ...]] | None:
    """The mesh and its axes over which a collective goes, where it names axes (JAX 0.12); else None."""
    printed = str(op.attributes["replica_groups"]) if "replica_groups" in op.attributes else ""
    mesh = re.search(r"mesh = @([\w.$-]+)", printed)
    return None if mesh is None else (mesh[1], tuple(re.findall(r'name = "([^"]+)"', printed)))


def manual_axes(op: Any) -> tuple[str, ...]:
    """The mesh axes over which a ``sdy.manual_computation`` is one device's program."""
    return tuple(str(axis) for axis in sdy.ManualAxesAttr(op.attributes["manual_axes"]))


def argument_number(value: Any) -> int | None:
    """Which argument of ``@main`` a value is, seen through constraints of its sharding; None for any other."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner
        if op.name not in ("sdy.sharding_constraint", "sdy.reshard"):
            return None
        value = op.operands[0]
    in_main = value.owner.owner.operation.name == "func.func"
    return int(ir.BlockArgument(value).arg_number) if in_main else None


def body_module(module: bytes, operation: str, number: int) -> bytes:
    """A module whose ``@main`` is the body of the ``number``-th such operation in ``@main``."""
    copy = parse(module)
    main = main_function(copy).operation
    found = [op.operation for op in main.regions[0].blocks[0].operations if op.operation.name == operation]
    block = found[number].regions[0].blocks[0]
    terminator = list(block.operations)[-1].operation
    inputs = [argument.type for argument in block.arguments]
    outputs = [operand.type for operand in terminator.operands]
    with ir.InsertionPoint(terminator):
        ir.Operation.create("func.return", operands=list(terminator.operands), loc=terminator.location)
    terminator.erase()
    attributes = {
        "sym_name": ir.StringAttr.get("main"),
        "function_type": ir.TypeAttr.get(ir.FunctionType.get(inputs, outputs)),
    }
    with ir.InsertionPoint(copy.body):
        function = ir.Operation.create("func.func", attributes=attributes, regions=1, loc=main.location)
    block.append_to(function.regions[0])
    main.erase()
    run_passes(copy, "symbol-dce")
    return to_bytecode(copy)


def replace_body(
    module: Any,
    old: Any,
    body: bytes,
    *,
    keep: Sequence[int],
    new_arguments: Sequence[tuple[tuple[int, ...], str]],
    entering: Sequence[tuple[int, tuple[int, ...], str, DimensionAxes]],
) -> None:
    """Let a ``sdy.manual_computation`` run another module's ``@main`` as its body.

    Args:
      old: the operation; erased.
      body: takes the operands ``keep`` of ``old``, then what enters; its first results are those of the old body.
      new_arguments: types of arguments to append to the ``@main`` of ``module``.
      entering: further operands: which argument of ``@main``, its local type, and the axes that split it.
    """
    name, function_type = merge_function(module, "hire_body", parse(body))
    function = main_function(module)
    block = function.operation.regions[0].blocks[0]
    for shape, dtype in new_arguments:
        block.add_argument(make_tensor_type(shape, dtype), ir.Location.unknown())
    operands = [old.operands[i] for i in keep] + [block.arguments[i] for i, *_ in entering]
    shardings = list(sdy.TensorShardingPerValueAttr(old.attributes["in_shardings"]).shardings)
    mesh = sdy.TensorShardingAttr([*shardings, *_out_shardings(old)][0]).mesh_or_ref
    shardings = [shardings[i] for i in keep] + [_tensor_sharding(mesh, axes) for *_, axes in entering]
    attributes = {**dict(old.attributes.items()), "in_shardings": sdy.TensorShardingPerValueAttr.get(shardings)}
    results = [result.type for result in old.results]
    with ir.InsertionPoint(old):
        new = ir.Operation.create(
            old.name, results=results, operands=operands, attributes=attributes, regions=1, loc=old.location
        )
    inner = new.regions[0].blocks.append(*function_type.inputs, arg_locs=[old.location] * len(function_type.inputs))
    with ir.InsertionPoint(inner), old.location:
        values = call(name, function_type, list(inner.arguments))
        ir.Operation.create("sdy.return", operands=values[: len(results)])
    for before, after in zip(old.results, new.results, strict=True):
        before.replace_all_uses_with(after)
    old.erase()
    set_main_signature(function)


def _out_shardings(op: Any) -> list[Any]:
    return list(sdy.TensorShardingPerValueAttr(op.attributes["out_shardings"]).shardings)


def _tensor_sharding(mesh: Any, axes: DimensionAxes) -> Any:
    dims = ", ".join("{" + ", ".join(f'"{axis}"' for axis in names) + "}" for names in axes)
    return ir.Attribute.parse(f"#sdy.sharding<{mesh}, [{dims}]>")


def drop_unused_arguments(module: Any, count: int) -> set[int]:
    """Take those of the first ``count`` arguments out of ``@main`` that nothing reads; which they were."""
    function = main_function(module)
    block = function.operation.regions[0].blocks[0]
    unused = {i for i in range(count) if next(iter(block.arguments[i].uses), None) is None}
    for i in sorted(unused, reverse=True):
        block.erase_argument(i)
    set_main_signature(function)
    return unused


def number_channels(module: Any, first: int = 1) -> int:
    """Give every collective a channel of its own, as merged modules repeat theirs; the next free number."""
    for op in _every_operation(module.operation):
        if "channel_handle" in op.attributes:
            kind = hlo.ChannelHandle(op.attributes["channel_handle"]).channel_type
            op.attributes["channel_handle"] = hlo.ChannelHandle.get(first, kind)
            first += 1
    return first


# --------------------------------------------------------------------------- running a module in JAX

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


# --------------------------------------------------------------------------- JAX's private names


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
