"""Which first products of a block other code reads, too.

::

    z = x · [w_attention | w_up]        one product; attention takes its part, the block the other
    h = act(x · w_up);  h · w_down, h   the neurons are returned, or counted

Such a product runs on, whatever is done with the block.
"""

from __future__ import annotations

from collections.abc import Collection

from hire_compiler.graph.graph import Op
from hire_compiler.patterns.ffn.ffn import FfnMatch


def read_elsewhere(match: FfnMatch, replaced: Collection[Op]) -> tuple[bool, ...]:
    """For every first product, whether something but the block reads it or what becomes of it.

    Args:
      replaced: the last products of all blocks; a block may share its neurons with another.
    """
    products = {dot.op for dot in match.products}
    made_anew = set() if match.quantiser is None else {value.op for value, _ in match.quantiser.scales}
    last, x = match.down.start
    inside, stack = set(products), [last.operands[x].op]
    while stack:
        op = stack.pop()
        if op is not None and op not in inside:
            inside.add(op)
            stack += [operand.op for operand in op.operands]
    return tuple(_leaves(dot.op, inside, replaced, made_anew) for dot in match.products)


def _leaves(product: Op, inside: set[Op], replaced: Collection[Op], made_anew: Collection[Op | None]) -> bool:
    stack, seen = [product], {product}
    while stack:
        top = stack.pop()
        for result in top.results:
            for op, _ in result.uses:
                if op in replaced or op in seen or (top in made_anew and op not in inside):
                    continue
                if op not in inside:
                    return True
                seen.add(op)
                stack.append(op)
    return False
