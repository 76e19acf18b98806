"""Noise that a branch draws, drawn in front of it: in a branch of its own, so that it costs what it did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import tensor_type
from hire_compiler._mlir.functions import every_operation, filled, holder, operations_named
from hire_compiler._mlir.outline import copy_operation, read_by

_BRANCHES = ("stablehlo.case", "stablehlo.if")
_DRAWS = frozenset({"stablehlo.while", "stablehlo.rng_bit_generator"})  # what random bits are made by
# What must run as often as its author says, or with other devices.
_STAYS = frozenset(
    f"stablehlo.{name}"
    for name in (
        "custom_call", "rng", "infeed", "outfeed", "send", "recv", "all_gather", "all_reduce", "all_to_all",
        "collective_broadcast", "collective_permute", "reduce_scatter", "partition_id", "replica_id",
    )
)  # fmt: skip
_FLOATS = ("float32", "bfloat16", "float16")


def draw_in_front(function: Any) -> int:
    """Let branches read noise that other branches, on the same condition, make in front of them; how many do."""
    branching = [op for name in _BRANCHES for op in operations_named(function, name)]
    return sum(_draw(op, number) for op in branching if _may_draw(op) for number in range(len(op.regions)))


def _may_draw(op: Any) -> bool:
    return any(inner.name in _DRAWS for inner in every_operation(op))


def _draw(op: Any, number: int) -> bool:
    block = op.regions[number].blocks[0]
    *inner, _ = (each.operation for each in block.operations)
    own = {result for each in inner for result in each.results}
    drawn = _made_of_whole_numbers(inner, own)
    noise = [value for value in drawn if _is_noise(value, drawn, block)]
    needed = _leading_to(noise, drawn)
    if not noise:
        return False
    with ir.InsertionPoint(op), op.location:
        made = ir.Operation.create(
            op.name, results=[value.type for value in noise], operands=list(op.operands), regions=len(op.regions)
        )
    for position, region in enumerate(made.regions):
        copies: dict[Any, Any] = {}
        with ir.InsertionPoint(region.blocks.append()), op.location:
            for each in needed if position == number else ():
                copy_operation(each, copies)
            results = [copies[v] if position == number else filled(v.type, 0) for v in noise]
            ir.Operation.create("stablehlo.return", operands=results)
    for value, result in zip(noise, made.results, strict=True):
        value.replace_all_uses_with(result)
    return True


def _made_of_whole_numbers(inner: Iterable[Any], own: set[Any]) -> dict[Any, Any]:
    """The results of operations of a branch that read nothing but keys and constants, and what makes each."""
    drawn: dict[Any, Any] = {}
    for op in inner:
        if any(each.name in _STAYS for each in (op, *every_operation(op))):
            continue
        if all(value in drawn if value in own else _element(value) not in _FLOATS for value in read_by(op)):
            drawn |= dict.fromkeys(op.results, op)
    return drawn


def _is_noise(value: Any, drawn: dict[Any, Any], block: Any) -> bool:
    """Whether a float that is drawn at random goes into something that is not."""
    readers = (holder(use.owner.operation, block) for use in value.uses)
    if _element(value) not in _FLOATS or all(_is_drawn(reader, drawn) for reader in readers):
        return False
    return any(op.name in _DRAWS for op in _leading_to([value], drawn))


def _is_drawn(op: Any, drawn: dict[Any, Any]) -> bool:
    return len(op.results) > 0 and op.results[0] in drawn


def _leading_to(values: Iterable[Any], drawn: dict[Any, Any]) -> list[Any]:
    """The operations behind some values, in order."""
    wanted, stack = set(), list(values)
    while stack:
        value = stack.pop()
        if value in drawn and value not in wanted:
            wanted |= set(drawn[value].results)
            stack += read_by(drawn[value])
    found = {op.results[0]: op for value, op in drawn.items() if value in wanted}
    return list(found.values())


def _element(value: Any) -> str:
    return tensor_type(value.type)[1]
