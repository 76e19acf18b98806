"""Vectors that a step reads from their arguments: a bias, a mask, a scale, a temperature.

They are small, and may be others in the next call. What reads them where they lie prepares nothing for them, and
nothing anew when they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.weight import Weight
from hire_compiler.passes.replace.prepared_key import digest
from hire_compiler.runtime.ffn import PerRow
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.predictors import Arrays


@dataclass(frozen=True)
class Vectors:
    """The vectors of a block, some of which are read and the others prepared.

    Attributes:
      all: each with the position of every row's entry.
      read: the numbers of those that are read.
    """

    all: Sequence[tuple[Weight, np.ndarray]]
    read: frozenset[int]

    @property
    def prepared(self) -> list[tuple[Weight, np.ndarray]]:
        """Those that are prepared, as ``vector0`` and so on."""
        return [vector for i, vector in enumerate(self.all) if i not in self.read]

    @property
    def arguments(self) -> tuple[int, ...]:
        """The arguments of those that are read, in order."""
        return tuple(argument for i in sorted(self.read) for argument in self.all[i][0].arguments)

    @property
    def code(self) -> str:
        """What the code that reads them depends on."""
        return repr([_code(*vector) if i in self.read else "prepared" for i, vector in enumerate(self.all)])

    def values(
        self, prepared: Arrays, arguments: Sequence[jax.Array], layer: jax.Array | None, rows: int
    ) -> list[jax.Array | PerRow]:
        """All of them inside a step, ``[m]`` or stacked ``[layers, m]``; or one layer's for each batch row."""
        given, kept = iter(arguments), iter(prepared[f"vector{i}"] for i in range(len(self.prepared)))
        found: list[jax.Array | PerRow] = []
        for i, (vector, index) in enumerate(self.all):
            if i not in self.read:
                found.append(next(kept))
                continue
            value = _read(vector, index, {argument: next(given) for argument in vector.arguments}, layer)
            alone = layer is not None and value.ndim == 1
            found.append(PerRow(jnp.broadcast_to(value, (rows, len(value)))) if alone else value)
        return found


def vectors_of(vectors: Sequence[tuple[Weight, np.ndarray]], *, lie_as_written: bool) -> Vectors:
    """The vectors of a block.

    Args:
      lie_as_written: its rows are neither laid out anew nor dealt to devices; else all vectors are prepared.
    """
    return Vectors(vectors, frozenset(i for i, vector in enumerate(vectors) if lie_as_written and _is_read(*vector)))


def _is_read(vector: Weight, index: np.ndarray) -> bool:
    """Whether a vector is as good read as prepared: nothing is looked up, and no other layer is computed."""
    return _is_regular(index) and (vector.layers is None or (vector.is_view and not vector.is_computed))


def entries(vector: Weight, index: np.ndarray, argument: jax.Array) -> jax.Array:
    """The entry of every row, from the argument that holds a vector."""
    return _taken(materialize(vector, {vector.argument: argument}), index)


def _read(vector: Weight, index: np.ndarray, given: Mapping[int, jax.Array], layer: jax.Array | None) -> jax.Array:
    """The entry of every row: ``[m]``; of a stack that lies as its rows do, ``[layers, m]``."""
    value = materialize(vector, given)
    whole = np.array_equal(index, np.arange(vector.size))
    if vector.layers is not None and whole:
        return value.reshape(vector.layers, -1)
    one = value if vector.layers is None else lax.dynamic_index_in_dim(value, layer, keepdims=False)
    if whole and vector.is_view and not vector.is_computed:
        return one.reshape(-1)
    return lax.optimization_barrier(_taken(one, index))  # nothing that follows may be computed in another way for it


def _code(vector: Weight, index: np.ndarray) -> object:
    how = vector.key if vector.is_computed else (vector.steps, vector.shape, vector.dtype, vector.layers)
    return how, digest(index)


def _taken(value: jax.Array, index: np.ndarray) -> jax.Array:
    flat = value.reshape(-1)
    if np.array_equal(index, np.arange(flat.size)):
        return flat
    if (index == index[0]).all():
        return jnp.broadcast_to(flat[int(index[0])], index.shape)
    if not _is_regular(index):
        return flat[index]
    return lax.slice(flat, (int(index[0]),), (int(index[-1]) + 1,), (int(index[1] - index[0]),))


def _is_regular(index: np.ndarray) -> bool:
    """Whether all entries are one, or lie one behind the other at equal distances."""
    steps = np.diff(index)
    return steps.size == 0 or bool(steps[0] >= 0 and (steps == steps[0]).all())
