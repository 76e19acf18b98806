"""The compiled steps of one function: several for a signature, where arguments lie or are kept otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hire_compiler import _mlir
from hire_compiler.calling.compiled import CompiledStep, Flat, Prepared
from hire_compiler.capture.placement import aval_of
from hire_compiler.passes.replace.prepared_key import PreparedKey


class Steps:
    """Safe across threads: a step is made once.

    Attributes:
      last: the step of the last call.
    """

    def __init__(self) -> None:
        self.last: CompiledStep | None = None
        self._lock = threading.RLock()
        self._steps: dict[Any, list[CompiledStep]] = {}

    def find(
        self, leaves: list[Any], tree: Any, make: Callable[[list[Any]], CompiledStep]
    ) -> tuple[CompiledStep, Flat | None]:
        """The step of some arguments, and its prepared arrays if the weights are those of the last call.

        Args:
          make: makes it, from the types of the leaves, if there is none.
        """
        key = _key(tree)
        for known in self._steps.get(key, ()):
            if known.is_for(leaves):
                self.last = known
                return known, known.current(leaves)
        with self._lock:
            for known in self._steps.get(key, ()):
                if known.is_for(leaves):
                    return known, None
            made = make([aval_of(leaf) for leaf in leaves])
            self._steps.setdefault(key, []).append(made)
            self.last = made
            return made, None

    def holding(self, step: CompiledStep, leaves: list[Any], tree: Any, prepared: Prepared) -> CompiledStep:
        """Of the steps that could stand for ``step``, the one for which arrays were prepared; else itself."""
        alike = self._alike(step, leaves, tree)
        return step if len(alike) < 2 else next((other for other in alike if other.takes(prepared)), step)

    def widened(
        self, step: CompiledStep, leaves: list[Any], tree: Any, make: Callable[[], CompiledStep]
    ) -> CompiledStep:
        """The step that keeps all weights as they are, in the place of one that keeps some as bfloat16.

        It goes first from now on, so weights that change to and fro do not compile to and fro. The other one is kept
        for those who hold arrays that were prepared for it.
        """
        with self._lock:
            wide = next((other for other in self._alike(step, leaves, tree) if not other.halved), None) or make()
            steps = self._steps[_key(tree)]
            steps[:] = [wide, *(other for other in steps if other is not wide)]
            self.last = wide
            return wide

    def put(self, old: CompiledStep, new: CompiledStep) -> set[PreparedKey]:
        """Let a step take the place of another; everything that is still prepared for some step."""
        with self._lock:
            for steps in self._steps.values():
                steps[:] = [new if step is old else step for step in steps]
            self.last = new if self.last is old else self.last
            kept = [step.spliced for steps in self._steps.values() for step in steps if step.spliced is not None]
            return {key for spliced in kept for key in spliced.preparations}

    def _alike(self, step: CompiledStep, leaves: list[Any], tree: Any) -> list[CompiledStep]:
        """The steps for arguments of these types."""
        steps = self._steps.get(_key(tree), ())
        return [other for other in steps if other.avals == step.avals and other.is_for(leaves)]


def _key(tree: Any) -> Any:
    return tree, _mlir.caller_settings()
