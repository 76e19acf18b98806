"""Normalize: bring a private copy of the module into the one form the detector reads.

Calls are inlined (``relu``, ``silu``, scan bodies become plain operations), common subexpressions merged,
dead code dropped, and loop-invariant carries become direct uses of the value outside the loop, so that a
stacked weight is seen at its dot and a new operand can be used inside a body without threading it. Products that
are spelled otherwise become ``dot_general``; an argmax over products side by side becomes one over the best of each.
Noise that a branch draws is drawn in front of it, on the same condition. Meaning never changes here.
"""

from __future__ import annotations

from typing import Any

from hire_compiler import _mlir
from hire_compiler.passes.normalize.respell import respell
from hire_compiler.passes.normalize.split_winners import split_winners


def normalize(module: Any) -> None:
    """Normalize a parsed module in place."""
    _mlir.inline_calls(module)
    drop_invariant_carries(module)
    respell(module)
    split_winners(module)
    _mlir.draw_in_front(_mlir.main_function(module).operation)
    _mlir.run_passes(module, "trivial-dce,cse")


def drop_invariant_carries(module: Any) -> int:
    """Take every carry that its loop returns unchanged out of the loop; how many there were.

    StableHLO's regions may use values from outside, so the body reads the initial value itself.
    """
    loops = _mlir.operations_named(_mlir.main_function(module).operation, "stablehlo.while")
    # Innermost first: rebuilding a loop moves what is inside it, and would leave older handles to it behind.
    return sum(_drop_in_loop(loop) for loop in reversed(loops))


def _drop_in_loop(loop: Any) -> int:
    cond, body = (region.blocks[0] for region in loop.regions)
    returned = list(body.operations)[-1].operation.operands
    invariant = [i for i, argument in enumerate(body.arguments) if returned[i] == argument]
    if not invariant:
        return 0
    for i in invariant:
        initial = loop.operands[i]
        for user in (cond.arguments[i], body.arguments[i], loop.results[i]):
            user.replace_all_uses_with(initial)
    keep = [i for i in range(len(body.arguments)) if i not in set(invariant)]
    _mlir.rebuild_while(loop, keep)
    return len(invariant)
