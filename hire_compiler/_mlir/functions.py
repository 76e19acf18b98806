"""Functions of a module: find, inline, merge, call, change their signature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jax.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler._mlir.attributes import make_tensor_type
from hire_compiler._mlir.modules import run_passes
from hire_compiler.errors import HireError


def inline_calls(module: Any) -> None:
    """Flatten every private function into its callers, scan bodies included, in linear time.

    MLIR's own inliner splits and joins the caller's block at every call, which is quadratic in a long block.
    Here callees come first, so that each is flat when it is copied to its callers.
    """
    functions = {symbol(view): view.operation for view in module.body.operations if _is_flat_function(view.operation)}
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


def symbol(view: Any) -> str:
    """The name of a function."""
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


def emit(name: str, type_: Any, operands: Sequence[Any], **attributes: Any) -> Any:
    """Emit an operation with one result at the current insertion point; the result."""
    return ir.Operation.create(name, results=[type_], operands=list(operands), attributes=attributes).results[0]


def holder(op: Any, block: Any) -> Any:
    """The operation of a block that is, or holds, an operation inside it."""
    while op.block != block:
        op = op.block.owner.operation
    return op


def filled(type_: Any, number: float) -> Any:
    """Emit an array of one number, of a tensor type, at the current insertion point."""
    element = ir.RankedTensorType(type_).element_type
    is_integer = isinstance(element, ir.IntegerType)
    one = ir.IntegerAttr.get(element, int(number)) if is_integer else ir.FloatAttr.get(element, float(number))
    return emit("stablehlo.constant", type_, [], value=ir.DenseElementsAttr.get_splat(type_, one))


def splat_again(op: Any, type_: Any) -> Any:
    """Emit the one number of a constant as an array of another tensor type, at the current insertion point."""
    number = ir.DenseElementsAttr(op.attributes["value"]).get_splat_value()
    return emit(op.name, type_, [], value=ir.DenseElementsAttr.get_splat(type_, number))


def erase_unread(block: Any, name: str) -> None:
    """Erase the operations of a name whose results nobody reads, in a block and in what it contains."""
    for view in reversed(list(block.operations)):
        op = view.operation
        if op.name == name and not any(next(iter(result.uses), None) is not None for result in op.results):
            op.erase()
            continue
        for region in op.regions:
            for inner in region.blocks:
                erase_unread(inner, name)


def add_argument(block: Any, shape: Sequence[int], dtype: str) -> Any:
    """Let a function, whose only block this is, take one more array; its signature is set apart."""
    return block.add_argument(make_tensor_type(shape, dtype), ir.Location.unknown())


def append_result(block: Any, result: Any) -> None:
    """Let a function or a branch, whose only block this is, return one more value."""
    terminator = list(block.operations)[-1].operation
    operands = [*terminator.operands, result]
    with ir.InsertionPoint(terminator):
        ir.Operation.create(terminator.name, operands=operands, loc=terminator.location)
    terminator.erase()


def return_nan(module: Any, positions: Sequence[int]) -> None:
    """Let ``@main`` return arrays of NaN (floats) at some positions."""
    terminator = list(main_function(module).operation.regions[0].blocks[0].operations)[-1].operation
    for position in positions:
        with ir.InsertionPoint(terminator), terminator.location:
            terminator.operands[position] = filled(terminator.operands[position].type, float("nan"))


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


def every_operation(op: Any) -> Iterator[Any]:
    """Every operation below one."""
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from every_operation(inner.operation)


def _share_meshes(module: Any, source: Any) -> None:
    """Move the meshes of ``source`` into ``module``, one of each kind, and let ``source`` refer to them there."""
    own = {str(op.attributes["mesh"]): symbol(op) for op in mesh_operations(module)}
    taken = set(own.values())
    names: dict[str, str] = {}
    for op in mesh_operations(source):
        name, kind = symbol(op), str(op.attributes["mesh"])
        if kind not in own:
            own[kind] = name if name not in taken else f"{name}_{len(taken)}"
            taken.add(own[kind])
            attributes = {**dict(op.attributes.items()), "sym_name": ir.StringAttr.get(own[kind])}
            with ir.InsertionPoint.at_block_begin(module.body):
                ir.Operation.create("sdy.mesh", attributes=attributes, loc=ir.Location.unknown(module.context))
        names[name] = own[kind]
    for op in mesh_operations(source):
        op.erase()
    # In two rounds, as one mesh may get the name that another had.
    for number, old in enumerate(names):
        ir.SymbolTable.replace_all_symbol_uses(old, f"hire_mesh_{number}", source.operation)
    for number, new in enumerate(names.values()):
        ir.SymbolTable.replace_all_symbol_uses(f"hire_mesh_{number}", new, source.operation)


def mesh_operations(module: Any) -> list[Any]:
    """The meshes that a module declares."""
    return [op.operation for op in module.body.operations if op.operation.name == "sdy.mesh"]


def number_channels(module: Any, first: int = 1) -> int:
    """Give every collective a channel of its own, as merged modules repeat theirs; the next free number."""
    for op in every_operation(module.operation):
        if "channel_handle" in op.attributes:
            kind = hlo.ChannelHandle(op.attributes["channel_handle"]).channel_type
            op.attributes["channel_handle"] = hlo.ChannelHandle.get(first, kind)
            first += 1
    return first
