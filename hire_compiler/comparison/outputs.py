"""The results of two programs, compared call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from hire_compiler.comparison.comparison import Output
from hire_compiler.comparison.difference import Difference, add_differences
from hire_compiler.errors import CaptureError


class Outputs:
    """Differences between the results of two programs, gathered over calls.

    Args:
      widths: of vocabularies; results as wide are logits.
      unread: results that one of the programs does not compute, so that nothing is said of them.
    """

    def __init__(self, widths: set[int], unread: Sequence[str] = ()) -> None:
        self._widths = widths
        self._unread = unread
        self._tree: Any = None
        self._differences: list[Difference] = []
        self._calls = 0

    def add(self, wanted: Any, got: Any, program: str) -> None:
        """Take the results of one call.

        Raises:
          CaptureError: they are not of one structure and shape.
        """
        named, tree = tree_flatten_with_path(wanted)
        found, other = jax.tree.flatten(got)
        shapes = [[np.shape(a) for a in side] for side in ([leaf for _, leaf in named], found)]
        if tree != other or shapes[0] != shapes[1]:
            raise CaptureError(f"{program} returns {other} {shapes[1]}, the author's program {tree} {shapes[0]}")
        if self._tree is None:
            self._tree = tree
            self._differences = [Difference(keystr(path) or "result", _type(leaf)) for path, leaf in named]
        self._calls += 1
        add_differences(
            self._differences, [_plain(leaf) for _, leaf in named], [_plain(leaf) for leaf in found], self._widths
        )

    def found(self) -> tuple[Output, ...]:
        """Everything so far."""
        return tuple(output_of(d, self._calls) for d in self._differences if d.name not in self._unread)

    @staticmethod
    def same_integers(wanted: Any, got: Any) -> bool:
        """Whether all integers of two results agree."""
        pairs = [(_plain(a), _plain(b)) for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(got), strict=True)]
        return all(np.array_equal(a, b) for a, b in pairs if not jax.numpy.issubdtype(a.dtype, np.inexact))


def _type(leaf: Any) -> str:
    aval = jax.typeof(leaf)
    return f"{aval.dtype}{list(aval.shape)}"


def _plain(leaf: Any) -> np.ndarray:
    """Numbers; of a random key, those that it is made of."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def output_of(difference: Difference, calls: int = 1) -> Output:
    """What was gathered of one result, frozen; recall is summed over ``calls``."""
    return Output(
        name=difference.name,
        type=difference.spec,
        largest=difference.largest,
        scale=difference.scale,
        equal=difference.equal,
        total=difference.total,
        recall=tuple((k, total / max(calls, 1)) for k, total in difference.recall.items()),
    )
