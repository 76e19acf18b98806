"""A light, read-only picture of an inlined module: operations, values, uses.

The detector asks the same few questions very often (who made this value? who reads it? what shape?).
One walk over the MLIR answers them all in plain Python objects; the ``ir`` fields lead back to the
operations that ``splice`` edits later.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hire_compiler import _mlir


@dataclass(eq=False, slots=True, repr=False)
class Value:
    """A tensor in the graph: the result of an operation, or an argument of a block."""

    shape: tuple[int, ...]
    dtype: str
    op: Op | None
    block: Block | None
    index: int
    uses: list[tuple[Op, int]] = field(default_factory=list)

    def __repr__(self) -> str:
        made = self.op.name if self.op is not None else f"argument {self.index}"
        return f"<{self.dtype}{list(self.shape)} of {made}>"

    @property
    def ir(self) -> Any:
        """The MLIR value; made anew each time, because a hundred thousand handles would outweigh the module."""
        if self.op is not None:
            return self.op.ir.results[self.index]
        assert self.block is not None
        return self.block.ir.arguments[self.index]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(eq=False, slots=True, repr=False)
class Block:
    """A straight line of operations: the body of ``@main``, of a loop, of a reducer."""

    ir: Any
    owner: Op | None
    args: tuple[Value, ...]
    ops: list[Op]

    def __repr__(self) -> str:
        return f"<block of {len(self.ops)} operations>"

    @property
    def returned(self) -> tuple[Value, ...]:
        """The values that leave the block."""
        return self.ops[-1].operands


@dataclass(eq=False, slots=True, repr=False)
class Op:
    """One operation; ``name`` is without the dialect when that is ``stablehlo``.

    Of what is computed from constants alone ``folded`` may hold the value of its only result.
    """

    ir: Any
    name: str
    block: Block
    position: int
    operands: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    blocks: tuple[Block, ...] = ()
    folded: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<{self.name} at {self.position}>"

    @property
    def result(self) -> Value:
        """The only result."""
        return self.results[0]

    @property
    def scope(self) -> str:
        """The model's scope path of this operation."""
        return _mlir.scope(self.ir)

    def holder_in(self, block: Block) -> Op | None:
        """The operation of a block that is, or holds, this one; None where it stands elsewhere."""
        op = self
        while op.block is not block:
            if op.block.owner is None:
                return None
            op = op.block.owner
        return op

    @property
    def in_loop(self) -> bool:
        """Whether it stands in the body of a ``while``, or in a branch inside one."""
        owner = self.block.owner
        return owner is not None and (owner.name == "while" or owner.in_loop)

    def constant(self) -> np.ndarray | None:
        """Value of a constant, folded ones too (splats as 0-d arrays), or None for anything else."""
        if self.folded is not None:
            return self.folded
        return _mlir.constant(self.ir) if self.name == "constant" else None

    def ints(self, attribute: str) -> tuple[int, ...]:
        """An integer-array attribute."""
        return _mlir.integers(self.ir, attribute)

    def int(self, attribute: str) -> int:
        """An integer attribute."""
        return _mlir.integer(self.ir, attribute)

    def text(self, attribute: str) -> str:
        """A string or enum attribute."""
        return _mlir.text(self.ir, attribute)


@dataclass(eq=False, slots=True, repr=False)
class Graph:
    """The entry block of ``@main`` and everything below it."""

    main: Block

    def __repr__(self) -> str:
        return f"<graph of {self.main!r}>"

    def ops(self, closed: frozenset[str] = frozenset()) -> Iterator[Op]:
        """Every operation, in program order, bodies after the operation that holds them.

        Args:
          closed: names of operations whose bodies are left out.
        """
        yield from _walk(self.main, closed)


def _walk(block: Block, closed: frozenset[str]) -> Iterator[Op]:
    for op in block.ops:
        yield op
        for inner in op.blocks if op.name not in closed else ():
            yield from _walk(inner, closed)


def read_graph(module: Any) -> Graph:
    """Take the picture of a parsed, inlined module."""
    function = _mlir.main_function(module).operation
    return Graph(_GraphReader().block(function.regions[0].blocks[0], None))


def read_body(ir_block: Any) -> Block:
    """The picture of one body by itself; of what it takes from outside only the type is known."""
    reader = _GraphReader()
    for view in ir_block.operations:
        for operand in view.operation.operands:
            reader.outside(operand)
    return reader.block(ir_block, None)


class _GraphReader:
    """One walk over the module; what it needs only meanwhile goes with it."""

    def __init__(self) -> None:
        self._types: dict[Any, tuple[tuple[int, ...], str]] = {}
        self._values: dict[Any, Value] = {}
        self._names: dict[str, str] = {}

    def block(self, ir_block: Any, owner: Op | None) -> Block:
        block = Block(ir_block, owner, (), [])
        block.args = tuple(self._value(a, None, block, i) for i, a in enumerate(ir_block.arguments))
        for position, view in enumerate(ir_block.operations):  # positions of what is skipped stay free
            ir_op = view.operation
            name = _name(ir_op)
            if name in _TRANSPARENT:
                for result, operand in zip(ir_op.results, ir_op.operands, strict=True):
                    self._values[result] = self._values[operand]
                continue
            op = Op(ir_op, self._names.setdefault(name, name), block, position)
            block.ops.append(op)
            op.operands = tuple(self._values[operand] for operand in ir_op.operands)
            for i, operand in enumerate(op.operands):
                operand.uses.append((op, i))
            op.results = tuple(self._value(r, op, None, i) for i, r in enumerate(ir_op.results))
            op.blocks = tuple(self.block(b, op) for region in ir_op.regions for b in region.blocks)
        return block

    def outside(self, ir_value: Any) -> None:
        """Let a value be known that no block of this walk makes; one that does make it is put in its place."""
        self._value(ir_value, None, None, 0)

    def _value(self, ir_value: Any, op: Op | None, block: Block | None, index: int) -> Value:
        type_ = ir_value.type
        shape_dtype = self._types.get(type_)
        if shape_dtype is None:
            shape_dtype = self._types[type_] = _mlir.tensor_type(type_)
        made = self._values[ir_value] = Value(*shape_dtype, op, block, index)
        return made


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection while a graph is built and read.

    A large module is some hundred thousand objects of which none is garbage; every full collection walks them all,
    which at a hundred thousand operations takes longer than the detection itself.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


# Operations that hand their operands on unchanged: a value and what such an operation makes of it are one value here.
_TRANSPARENT = frozenset(
    {
        "optimization_barrier",
        "sdy.sharding_constraint",
        "sdy.reshard",
        "custom_call@Sharding",
        "custom_call@annotate_device_placement",
    }
)

# Custom calls by which producers spell an operation that has a name of its own.
_ALIASES = {
    "custom_call@mhlo.erf": "chlo.erf",
    "custom_call@mhlo.topk": "chlo.top_k",
    "custom_call@TopK": "chlo.top_k",
    "composite@chlo.erf": "chlo.erf",
    "composite@chlo.erfc": "chlo.erfc",
    "composite@chlo.square": "chlo.square",
    "composite@chlo.top_k": "chlo.top_k",
}


def _name(ir_op: Any) -> str:
    name = str(ir_op.name).removeprefix("stablehlo.")
    if name == "custom_call":
        name = f"custom_call@{_mlir.text(ir_op, 'call_target_name')}"
    elif name == "composite":
        name = f"composite@{_mlir.text(ir_op, 'name')}"
    return _ALIASES.get(name, name)
