"""What counts as a matrix product: every operation that may contract an activation with a weight."""

from __future__ import annotations

from hire_compiler.graph.graph import Op, Value

_PRODUCTS = frozenset({"dot_general", "dot", "convolution", "chlo.ragged_dot", "composite@chlo.ragged_dot"})
# Custom calls that make numbers, move them or choose among them: none reads a weight as a product does.
_NO_PRODUCTS = frozenset({
    "custom_call@ApproxTopK", "custom_call@PartialReduce", "custom_call@approx_top_k", "custom_call@Sharding",
    "custom_call@SPMDFullToShardShape", "custom_call@SPMDShardToFullShape", "custom_call@MoveToHost",
    "custom_call@MoveToDevice", "custom_call@cu_threefry2x32_ffi", "custom_call@shape_assertion",
})  # fmt: skip


def is_product(op: Op) -> bool:
    """Whether an operation is a matrix product by its name, integers and convolutions included."""
    return op.name in _PRODUCTS


def is_contraction(op: Op) -> bool:
    """Whether an operation is a product, or one whose inside cannot be seen and may be one."""
    return op.name in _PRODUCTS or is_opaque(op)


def is_opaque(op: Op) -> bool:
    """Whether an operation is a custom call or a composite that this package does not look into."""
    return op.name.startswith(("custom_call@", "composite@")) and op.name not in _NO_PRODUCTS


def operands(op: Op) -> tuple[Value, ...]:
    """The operands that may be weights or inputs: of a ragged product not the sizes of its groups."""
    return op.operands if is_opaque(op) else op.operands[:2]
