"""What stands around a product: short walks from it, along and against the flow of values.

Each walk visits a fixed number of operations at most, so that a long program is not walked from each of its products.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from math import prod

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.contractions import is_opaque, is_product
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.reducers import is_argmax

_STEPS = 160
_HANDED_ON = frozenset({*LAYOUT, "convert", "multiply", "divide", "select", "clamp"})


def is_attended(op: Op, has_weight: Callable[[Op], bool]) -> bool:
    """Whether the result of a product goes into a product of activations, or a kernel, with no weight before it."""
    for reader in _readers(op):
        if is_product(reader) and not has_weight(reader):
            return True
        if is_opaque(reader) and not has_weight(reader):
            return True
    return False


def is_from_attention(op: Op, has_weight: Callable[[Op], bool]) -> bool:
    """Whether an input of a product is, but for its layout and factors, the result of a product of activations."""
    return any((is_product(made) or is_opaque(made)) and not has_weight(made) for made in _behind(op))


def is_softmax_of(op: Op) -> bool:
    """Whether the result of a product goes into a softmax, before any other product."""
    return {"exponential", "reduce"} <= {reader.name for reader in _readers(op)}


def is_from_softmax(op: Op) -> bool:
    """Whether an input of a product is, but for its layout and factors, an exponential: probabilities."""
    return any(made.name == "exponential" for made in _behind(op))


def batched_over(op: Op, has_weight: Callable[[Op], bool]) -> int:
    """Over how many matrices the first product with a weight is batched that reads what becomes of a result; or 0."""
    for reader in _readers(op):
        if reader.name == "dot_general" and has_weight(reader):
            return prod(reader.operands[0].shape[i] for i in _mlir.dot_dimensions(reader.ir)[0] or (0,))
    return 0


def is_chosen_among(op: Op) -> bool:
    """Whether the program chooses among the results of a product: the best of them, some of them, in order."""
    for reader in _readers(op):
        if reader.name in ("chlo.top_k", "sort") or reader.name.startswith(("custom_call@ApproxTopK", "composite@")):
            return True
        if reader.name == "reduce" and len(reader.operands) == 4 and is_argmax(reader):
            return True
    return False


def is_behind_convolution(op: Op) -> bool:
    """Whether elementwise code alone stands between an input of a product and a convolution that makes it."""
    return any(made.name == "convolution" for made in _behind(op, OPERATIONS | LAYOUT.keys()))


def is_from_product(value: Value) -> bool:
    """Whether elementwise code alone stands between a value and a product that makes it."""
    made = value.op
    return made is not None and any(map(is_product, (made, *_behind(made, OPERATIONS | LAYOUT.keys()))))


def is_mixed(op: Op, count: int, matrix: list[int]) -> bool:
    """Whether a product sums ``count`` matrices of such a shape, and its result is then one of a product itself."""
    if len(matrix) < 2 or count >= min(matrix):
        return False
    value = op.result
    for _ in range(_STEPS):
        if len(value.uses) != 1:
            return False
        reader, position = value.uses[0]
        if reader.name == "dot_general":
            other = reader.operands[1 - position]
            return value.size >= min(matrix) * other.size  # a matrix for each row of the other
        if reader.name not in (*LAYOUT, "convert"):
            return False
        value = reader.result
    return False


def _behind(op: Op, through: Collection[str] = _HANDED_ON) -> Iterator[Op]:
    """What makes the inputs of a product, seen through operations of some names: of layout and factors."""
    queue, seen = deque(v.op for v in op.operands), set[Op]()
    while queue and len(seen) < _STEPS:
        made = queue.popleft()
        if made is None or made in seen:
            continue
        seen.add(made)
        yield made
        if made.name in through:
            queue += [v.op for v in made.operands]


def _readers(op: Op) -> list[Op]:
    """What reads a value or what becomes of it, up to the next products, which are among them."""
    queue, seen, found = deque([op.result]), {op}, list[Op]()
    while queue and len(found) < _STEPS:
        for reader, position in queue.popleft().uses:
            for value in _onwards(reader, position):
                queue.append(value)
            if reader not in seen:
                seen.add(reader)
                found.append(reader)
                queue += [] if is_product(reader) or is_opaque(reader) else reader.results
    return found


def _onwards(reader: Op, position: int) -> tuple[Value, ...]:
    """Where a value goes that enters a loop's or a branch's body, or leaves it."""
    if reader.name == "while":
        return (reader.blocks[1].args[position],)
    owner = reader.block.owner
    if reader.name in ("return", "sdy.return") and owner is not None and position < len(owner.results):
        return (owner.results[position],)
    return ()


__all__ = [
    "batched_over",
    "is_attended",
    "is_behind_convolution",
    "is_chosen_among",
    "is_from_attention",
    "is_from_product",
    "is_from_softmax",
    "is_mixed",
    "is_softmax_of",
]
