"""Outline: a copy of the operations between some values and some others, as a function of its own.

So a replacement can run exactly what the author wrote, in a branch, where its own shortcut does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from hire_compiler._mlir.attributes import is_narrow
from hire_compiler._mlir.editing import held
from hire_compiler._mlir.functions import call, every_operation, filled

# Copied although they do not follow from the start: cheap operations, which the author's compiler would fuse.
_CHEAP = frozenset(
    f"stablehlo.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negate", "abs", "sign", "exponential",
        "exponential_minus_one", "log", "log_plus_one", "logistic", "tanh", "sqrt", "rsqrt", "cbrt", "floor", "ceil",
        "and", "or", "not", "clamp", "select", "compare", "convert", "constant", "iota", "is_finite", "remainder",
        "reduce_precision", "bitcast_convert", "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice",
        "concatenate", "pad", "reverse", "optimization_barrier",
    )
) | {"sdy.sharding_constraint", "sdy.reshard"}  # fmt: skip


@dataclass
class Outlined:
    """A function that was made.

    Attributes:
      name: of the private function.
      inputs: the values that it takes, in order.
      function: itself.
    """

    name: str
    inputs: tuple[Any, ...]
    type: Any
    function: Any

    @property
    def code(self) -> str:
        """The function as text, without its name."""
        return str(self.function).replace(f"@{self.name}", "", 1)


def outline(module: Any, name: str, results: Sequence[Any], following: Sequence[Any], stops: Sequence[Any]) -> Outlined:
    """Copy what leads to ``results`` into a private function.

    Args:
      module: gets the function.
      results: values of one block, which the function returns.
      following: operations that are copied whatever they are.
      stops: values that the function takes, whatever made them.
    """
    found = _Slice({op.results[0] for op in following}, set(stops))
    for value in results:
        found.visit(value)
    function_type = ir.FunctionType.get([value.type for value in found.inputs], [value.type for value in results])
    with ir.InsertionPoint(module.body), ir.Location.unknown(module.context):
        function = func.FuncOp(name, function_type, visibility="private")
        block = function.add_entry_block()
        copies = dict(zip(found.inputs, block.arguments, strict=True))
        with ir.InsertionPoint(block):
            for op in found.operations:
                copy_operation(op, copies, _as_it_came_in(op, copies, found.inputs))
            func.ReturnOp([copies[value] for value in results])
    return Outlined(name, tuple(found.inputs), function_type, function)


def _as_it_came_in(op: Any, copies: dict[Any, Any], inputs: Sequence[Any]) -> dict[Any, Any]:
    """Copies that an operation reads instead: narrow ones that were made outside of its branch or loop are held.

    They were rounded on the way in; side by side XLA would drop that.
    """
    return {
        value: held(copies[value])
        for value in op.operands
        if not isinstance(value.owner, ir.Block)
        and value.owner.operation.block != op.operation.block
        and value in copies
        and value not in inputs
        and is_narrow(value)
    }


def scatter_into(op: Any, base: float, before: Any) -> Any:
    """What a scatter writes into an array of one number, computed in front of an operation."""
    with ir.InsertionPoint(before), op.location:
        splat = filled(op.results[0].type, base)
        new = op.clone()
    new.operands[0] = splat
    return new.results[0]


def call_outlined(module: Any, target: str, outlined: Outlined) -> None:
    """Let every custom call of a name call the function instead."""
    for op in list(every_operation(module.operation)):
        if op.name != "stablehlo.custom_call" or ir.StringAttr(op.attributes["call_target_name"]).value != target:
            continue
        with ir.InsertionPoint(op), op.location:
            made = call(outlined.name, outlined.type, list(op.operands))
        for old, new in zip(op.results, made, strict=True):
            old.replace_all_uses_with(new)
        op.erase()


@dataclass
class _Slice:
    following: set[Any]
    stops: set[Any]
    inputs: list[Any] = field(default_factory=list)
    operations: list[Any] = field(default_factory=list)
    _seen: set[Any] = field(default_factory=set)

    def visit(self, value: Any) -> None:
        """Depth first, without recursion: a region may be thousands of operations long."""
        stack = [(value, False)]
        while stack:
            top, ready = stack.pop()
            owner = None if isinstance(top.owner, ir.Block) else top.owner
            key = top if owner is None else owner.results[0]
            if ready:
                self.operations.append(owner)
            elif top in self.stops or owner is None or not (key in self.following or owner.name in _CHEAP):
                if top not in self._seen:
                    self._seen.add(top)
                    self.inputs.append(top)
            elif key not in self._seen:
                self._seen.add(key)
                stack.append((top, True))
                stack += [(operand, False) for operand in reversed(list(read_by(owner)))]


def read_by(op: Any) -> Iterator[Any]:
    """The values from outside that an operation reads, in its regions too."""
    yield from op.operands
    inner = list(every_operation(op))
    own = {result for other in inner for result in other.results}
    own |= {argument for other in (op, *inner) for r in other.regions for b in r.blocks for argument in b.arguments}
    for other in inner:
        yield from (operand for operand in other.operands if operand not in own)


def copy_operation(op: Any, copies: dict[Any, Any], instead: Mapping[Any, Any] | None = None) -> None:
    """Emit an operation once more, of the copies of what it reads; its own results are noted among them.

    Args:
      instead: what this operation alone reads instead of copies.
    """
    read = {**copies, **instead} if instead else copies
    new = op.clone()
    for other in (new, *every_operation(new)):
        for position, operand in enumerate(other.operands):
            if operand in read:
                other.operands[position] = read[operand]
    for old, made in zip(op.results, new.results, strict=True):
        copies[old] = made
