"""How often a step was prepared anew, and for which arguments: a sentence of its report."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hire_compiler._mlir import is_tracer
from hire_compiler.calling.writable import nobody_can_write

_NAMED = 3


class PreparedAnew:
    """Counts the calls of a step, and those for which its weights were prepared again.

    Attributes:
      calls: of the step.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._times = -1  # the first time is not anew
        self._last: dict[str, Callable[[], Any]] = {}
        self._changed: dict[str, None] = {}
        self._writable = False

    def look(self, arrays: Mapping[str, Any], *, built: bool) -> None:
        """Look at what a call brings.

        Args:
          arrays: everything that is prepared from, by name.
          built: something was prepared from it that was not known.
        """
        if built:
            self._times += 1
        if built and self._times:
            changed = [name for name, array in arrays.items() if self._last.get(name, _nothing)() is not array]
            writable = [name for name, array in arrays.items() if not nobody_can_write(array)]
            self._changed |= dict.fromkeys(changed or writable)
            self._writable = self._writable or not changed
        self._last = {name: _reference(array) for name, array in arrays.items()}

    def note(self) -> str:
        """The sentence; or '' where nothing was prepared more than twice."""
        if self._times < 2:
            return ""
        names = list(self._changed)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        which = ", ".join(names[:_NAMED]) + more
        why = "can be written" if self._writable else "changes" if len(names) == 1 else "change"
        return f"prepared anew in {self._times} of {max(self.calls, self._times + 1)} calls, because {which} {why}"


def _reference(array: Any) -> Callable[[], Any]:
    return weakref.ref(array) if isinstance(array, (jax.Array, np.ndarray)) and not is_tracer(array) else _nothing


def _nothing() -> None:
    """Stands for a reference to an array that was not seen yet."""
