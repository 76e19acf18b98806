"""Look at a tail before it runs: can it be followed, and what does it read? Shapes say that; numbers are left out.

JAX traces some twenty operations for the bounds of one of the author's. Of one kind of step they are traced once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.expression import Instruction
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.tails.elementwise import Elementwise

Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Looking(Elementwise):
    """Elementwise operations of which only shapes and types are right.

    Attributes:
      seen: by kind of step what it made, or the reason why it cannot be followed.
    """

    seen: dict[Kind, Kind | str] = field(default_factory=dict)

    def _step(self, instruction: Instruction, args: Sequence[Bounded]) -> Bounded:
        step = (repr(instruction), *map(_kind, args))
        if step not in self.seen:
            try:
                made = super()._step(instruction, args)
            except Unbounded as no:
                self.seen[step] = str(no)
                raise
            self.seen[step] = _kind(made)
            return made
        found = self.seen[step]
        if isinstance(found, str):
            raise Unbounded(found)
        ends, dtype, rounds = found
        there = [end for arg in args for end in (arg.bounds.low, arg.bounds.high)]
        arrays = _arrays(ends, there)
        return Bounded(Enclosure(arrays[0], arrays[-1]), dtype, rounds)


def _kind(bounded: Bounded) -> Kind:
    """All that a step depends on, but for numbers: one end of a point, two of bounds."""
    low, high = bounded.bounds.low, bounded.bounds.high
    ends = (low,) if low is high else (low, high)
    return tuple((end.shape, end.dtype) for end in ends), bounded.dtype, bounded.rounds


def _arrays(ends: Kind, there: Sequence[Any]) -> list[Any]:
    """Different arrays of some shapes: whichever are there already, for they cost nothing."""
    made: list[Any] = []
    for shape, dtype in ends:
        fits = (a for a in there if (a.shape, a.dtype) == (shape, dtype) and not any(a is m for m in made))
        found = next(fits, None)
        made.append(jnp.zeros(shape, dtype) if found is None else found)
    return made


def first_columns(array: Any, ids: Any) -> Any:
    """Of an array ``[b, n]`` as many columns as there are candidates, whichever."""
    return lax.slice_in_dim(array, 0, ids.shape[1], axis=1)
