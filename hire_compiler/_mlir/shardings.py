"""Meshes and shardings: what the module says of where its values lie, and bodies of manual computations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from hire_compiler._mlir.functions import (
    add_argument,
    call,
    every_operation,
    main_function,
    merge_function,
    mesh_operations,
    set_main_signature,
    symbol,
)
from hire_compiler._mlir.modules import parse, run_passes, to_bytecode
from hire_compiler.errors import HireError

Mesh = tuple[tuple[str, int], ...]
DimensionAxes = tuple[tuple[str, ...], ...]


def meshes(module: Any) -> dict[str, Mesh]:
    """The meshes that a module declares, by symbol: names and sizes of their axes."""
    return {symbol(op): _mesh_axes(op.attributes["mesh"]) for op in mesh_operations(module)}


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
        found.append(dimension_axes(ir.DictAttr(attributes)["sdy.sharding"]) if named else None)
    return found


def take_shardings(module: Any) -> list[Any]:
    """The sharding of every argument of ``@main`` as its own attribute, None where there is none.

    Those of its results become constraints inside, which an edit of its signature does not lose.
    """
    function = main_function(module).operation
    block = function.regions[0].blocks[0]
    found = _shardings(function, "arg_attrs", len(block.arguments))
    terminator = list(block.operations)[-1].operation
    for i, sharding in enumerate(_shardings(function, "res_attrs", len(terminator.operands))):
        if sharding is not None:
            value = terminator.operands[i]
            with ir.InsertionPoint(terminator):
                pinned = ir.Operation.create(
                    "sdy.sharding_constraint",
                    results=[value.type],
                    operands=[value],
                    attributes={"sharding": sharding},
                    loc=terminator.location,
                )
            terminator.operands[i] = pinned.results[0]
    return found


def _shardings(function: Any, name: str, count: int) -> list[Any]:
    if name not in function.attributes:
        return [None] * count
    given = [ir.DictAttr(attributes) for attributes in ir.ArrayAttr(function.attributes[name])]
    return [attributes["sdy.sharding"] if "sdy.sharding" in attributes else None for attributes in given]  # noqa: SIM401


def put_shardings(module: Any, shardings: Sequence[Any]) -> None:
    """Say how the arguments of ``@main`` are split: attributes as :func:`take_shardings` gave them."""
    attributes = [ir.DictAttr.get({} if one is None else {"sdy.sharding": one}) for one in shardings]
    main_function(module).operation.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


def dimension_axes(attribute: Any) -> DimensionAxes:
    """The mesh axes that split each dimension, of a sharding.

    Raises:
      HireError: an axis is split further.
    """
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
    for op in every_operation(copy.operation):
        if _TAG in op.attributes and "sdy.sharding" in op.attributes:
            first = sdy.TensorShardingPerValueAttr(op.attributes["sdy.sharding"]).shardings[0]
            found[int(ir.StringAttr(op.attributes[_TAG]).value)] = dimension_axes(first)
    return [found.get(number) for number in range(len(ops))]


def manual_shardings(op: Any) -> tuple[str, list[DimensionAxes]]:
    """The mesh of a ``sdy.manual_computation``, and how its operands are split over the devices."""
    shardings = list(sdy.TensorShardingPerValueAttr(op.attributes["in_shardings"]).shardings)
    shardings += list(sdy.TensorShardingPerValueAttr(op.attributes["out_shardings"]).shardings)
    mesh = ir.FlatSymbolRefAttr(sdy.TensorShardingAttr(shardings[0]).mesh_or_ref).value
    return str(mesh), [dimension_axes(sharding) for sharding in shardings[: len(op.operands)]]


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
    """A module whose ``@main`` is the body of the ``number``-th such operation, those in others not counted."""
    copy = parse(module)
    main = main_function(copy).operation
    block = outermost(main, operation)[number].regions[0].blocks[0]
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


def outermost(function: Any, name: str) -> list[Any]:
    """Every operation of a name that stands in no other of that name, in program order."""
    found: list[Any] = []

    def note(op: Any) -> Any:
        if op.name != name:
            return ir.WalkResult.ADVANCE
        found.append(op)
        return ir.WalkResult.SKIP

    function.walk(note, ir.WalkOrder.PRE_ORDER)
    return found


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
        add_argument(block, shape, dtype)
    operands = [old.operands[i] for i in keep] + [block.arguments[i] for i, *_ in entering]
    shardings = list(sdy.TensorShardingPerValueAttr(old.attributes["in_shardings"]).shardings)
    mesh = sdy.TensorShardingAttr([*shardings, *_out_shardings(old)][0]).mesh_or_ref
    shardings = [shardings[i] for i in keep] + [tensor_sharding(mesh, axes) for *_, axes in entering]
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


def tensor_sharding(mesh: Any, axes: DimensionAxes) -> Any:
    """The attribute that says so."""
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
