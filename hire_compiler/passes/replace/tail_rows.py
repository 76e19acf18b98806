"""The rows of a head as the proof of its tail reads them: predictions, bounds and exact logits of the whole vocabulary.

Where the vocabulary is split over devices, each function here runs on every shard by itself and says nothing to the
others: a shard predicts, chooses and computes its own rows. What stands between is code on ``[batch, vocabulary]`` as
the author's own is, split by XLA: so a tail means the same on one device and on many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.passes.replace.over_mesh import over_mesh
from hire_compiler.passes.replace.preparing import predictor_arrays
from hire_compiler.runtime.certify import between, finer_room, room, rounded_terms
from hire_compiler.runtime.checks import all_of
from hire_compiler.runtime.collectives import gather_columns
from hire_compiler.runtime.logits import exact_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import top_candidates
from hire_compiler.sharding.layout import Axes, MeshShape, Spec
from hire_compiler.tails.spaces import Rows, entries_of


@dataclass(frozen=True)
class Parts:
    """How a head lies on a mesh.

    Attributes:
      rows, batch: the axes that split its rows, and the rows of its input.
      prepared: how a prepared array is split, by name.
      views: how each argument is split that is read as it is.
    """

    mesh: MeshShape
    rows: Axes
    batch: Axes
    prepared: Callable[[str], Spec]
    views: tuple[Spec, ...]


@dataclass(frozen=True)
class TailRows:
    """A head's rows; arrays are ``[b, n]`` for all its rows, ids ``[b, c]`` count among all and ascend.

    Attributes:
      x: inputs of the batch rows that are read, ``[b, d]``.
      hold: from prepared arrays and views to the rows of one device.
      precise: the author asked for the platform's highest precision.
      result: type of the author's product.
      parts: how all this lies on a mesh; None on one device.
      heads: how many heads the matrix holds, one behind the other; where there are several, ``b`` counts a batch row
        with each of them, and ``n`` the rows of one.
      heads_first: of these, the batch rows of the first head come first.
    """

    x: jax.Array
    prepared: Arrays
    views: tuple[jax.Array, ...]
    hold: Callable[[Arrays, tuple[jax.Array, ...]], StoredRows]
    target: Target
    precise: bool
    result: str
    parts: Parts | None
    heads: int = 1
    heads_first: bool = False

    @property
    def count(self) -> int:
        """How many rows of logits there are."""
        return len(self.x) * self.heads

    def all_heads(self, proven: jax.Array) -> jax.Array:
        """Which batch rows are proven, from which rows of logits are."""
        if self.heads == 1:
            return proven
        by_head = proven.reshape(self.heads, -1).T if self.heads_first else proven.reshape(-1, self.heads)
        return all_of(by_head, 1)

    def _of_heads(self, array: jax.Array) -> jax.Array:
        """Numbers of all rows of the matrix, for each head by itself."""
        if self.heads == 1:
            return array
        apart = array.reshape(-1, self.heads, array.shape[1] // self.heads)
        return (apart.transpose(1, 0, 2) if self.heads_first else apart).reshape(self.count, -1)

    def _batch_and_head(self, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which batch row, and which head, rows of logits belong to."""
        if self.heads == 1:
            return at, jnp.zeros_like(at)
        return (at % len(self.x), at // len(self.x)) if self.heads_first else (at // self.heads, at % self.heads)

    def predicted(self) -> tuple[jax.Array, jax.Array]:
        """Logits as the copy predicts them, and how far they may be off."""

        def one(x: jax.Array, prepared: Arrays, views: Any) -> list[jax.Array]:
            scores = predict(x, predictor_arrays(prepared), self.target, precise=True)
            return [scores, room(prepared, x, self._terms(x))]

        scores, away = self._with_rows(one, 2)
        return self._of_heads(scores), self._of_heads(away)

    def finer(self) -> jax.Array:
        """How far the predictions may be off, by the better of two bounds."""

        def one(x: jax.Array, prepared: Arrays, views: Any) -> list[jax.Array]:
            return [finer_room(prepared, x, self.target, self._terms(x))]

        return self._of_heads(self._with_rows(one, 1)[0])

    def settled(self, proven: jax.Array, scores: jax.Array, away: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits and how far they may be off, with whole products for batch rows that are not proven, bool ``[b]``.

        For one of them or for half of the batch, whichever is enough; what is more stays as it was.
        """

        def one(
            x: jax.Array, prepared: Arrays, views: Any, scores: jax.Array, away: jax.Array, proven: jax.Array
        ) -> list[jax.Array]:
            held, norm, terms = self.hold(prepared, views), prepared["norm"], self._terms(x)
            order = jnp.argsort(proven[:, 0], stable=True)  # the unproven first

            def products(size: int) -> list[jax.Array]:
                at = order[:size]
                batch, head = self._batch_and_head(at)
                row = x[batch]
                whole, slack = held.products(row, precise=self.precise), between(norm[None], row, terms)
                if self.heads > 1:
                    own = jnp.arange(size), head
                    whole, slack = (a.reshape(size, self.heads, -1)[own] for a in (whole, slack))
                return [scores.at[at].set(whole), away.at[at].set(slack)]

            half = max(len(proven) // 2, 1)
            if half == 1:
                return products(1)
            return lax.cond(jnp.sum(~proven) <= 1, lambda: products(1), lambda: products(half))

        scores, away = self._with_rows(one, 2, scores, away, proven[:, None])
        return scores, away

    def choose(self, points: Sequence[jax.Array], count: int, width: int, *, shared: bool) -> Rows:
        """Candidates that hold the best of everything that is compared: ``count`` of every shard, none twice.

        Args:
          points: what is compared, ``[b or 1, n or 1]`` each.
          shared: all batch rows get the same ones, and points may be of fewer.
        """

        def one(*points: jax.Array) -> list[jax.Array]:
            ids = choose(list(points), min(count, points[0].shape[1]), self.target)
            chosen = jnp.zeros(points[0].shape, bool).at[jnp.arange(len(ids))[:, None], ids].set(True)
            return [ids + self._first(points[0].shape[1]), chosen]

        points = [row[None] for point in points for row in point] if shared else points
        full = [jnp.broadcast_to(p, (1 if shared else self.count, width)) for p in points]
        ids, chosen = self._apart(one, full, 2)
        return Rows(ids, chosen, width, width, pick=self._pick, shared=shared)

    def exact(self, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """Logits of the candidates, and how far those of dense may be off."""

        def one(x: jax.Array, prepared: Arrays, views: Any, ids: jax.Array) -> list[jax.Array]:
            held, norm = self.hold(prepared, views), prepared["norm"]
            own, terms = ids - self._first(len(norm)), self._terms(x)
            if self.heads > 1:
                batch, head = self._batch_and_head(jnp.arange(self.count, dtype=jnp.int32))
                x, own = x[batch], own + (head * rows.width)[:, None]
            return [exact_logits(x, held, own, precise=self.precise), between(norm[own], x, terms)]

        ids = jnp.broadcast_to(rows.ids, (self.count, rows.ids.shape[1]))
        exact, slack = self._with_rows(one, 2, ids)
        return exact, slack

    def _terms(self, x: jax.Array) -> float:
        """By how much dense may round the terms of its sums, for the inputs that one device holds."""
        return rounded_terms(len(x), self.result, self.target)

    def everywhere(self, rows: Rows, exact: jax.Array, slack: jax.Array) -> tuple[Rows, jax.Array, jax.Array]:
        """The candidates of all shards on each of them: one exchange of (value, id), and one slack for a batch row.

        What puts candidates in an order needs all of them, several times over; a reduction is better off without.
        """
        parts = self.parts
        if parts is None or not parts.rows:
            return rows, exact, slack
        axes = parts.rows

        def one(ids: jax.Array, exact: jax.Array, slack: jax.Array) -> list[jax.Array]:
            most = jnp.max(jnp.where(jnp.isnan(slack), jnp.inf, slack), axis=1, keepdims=True)
            return [*gather_columns(axes, ids, exact), lax.pmax(most, axes)]

        def pick(array: jax.Array, ids: jax.Array) -> jax.Array:
            picked = self._pick(array, rows.ids)
            return self._apart(lambda picked: gather_columns(axes, picked), [picked], 1, split=False)[0]

        def first(array: jax.Array, count: int) -> jax.Array:
            spec: Spec = (parts.batch if array.shape[0] > 1 else (), ())
            return over_mesh(lambda same: same, parts.mesh, [spec], spec)(array[:, :count])

        ids, exact, slack = self._apart(one, [rows.ids, exact, slack], 3, split=False)
        return replace(rows, ids=ids, pick=pick, first=first), exact, slack

    def _pick(self, array: jax.Array, ids: jax.Array) -> jax.Array:
        def one(array: jax.Array, ids: jax.Array) -> list[jax.Array]:
            return [entries_of(array, ids - self._first(array.shape[1]))]

        return self._apart(one, [array, ids], 1)[0]

    def _first(self, own: int) -> jax.Array | int:
        """The number of a shard's first row, where it holds so many."""
        if self.parts is None or not self.parts.rows:
            return 0
        return lax.axis_index(self.parts.rows).astype(jnp.int32) * own

    def _apart(
        self, function: Callable[..., list[jax.Array]], arrays: list[jax.Array], results: int, *, split: bool = True
    ) -> Any:
        """A function of arrays ``[b or 1, n]``, on every shard by itself; its results are split, or the same on all."""
        if self.parts is None:
            return function(*arrays)
        wide = [self._spec(array) for array in arrays]
        out: list[Spec] = [(self.parts.batch, self.parts.rows if split else ())] * results
        return over_mesh(function, self.parts.mesh, wide, out)(*arrays)

    def _with_rows(self, function: Callable[..., list[jax.Array]], results: int, *wide: jax.Array) -> list[jax.Array]:
        """A function of the inputs, the prepared arrays, the views, and arrays ``[b, n]``, on every shard by itself."""
        names = sorted(self.prepared)

        def flat(x: jax.Array, *given: jax.Array) -> list[jax.Array]:
            prepared, rest = dict(zip(names, given[: len(names)])), given[len(names) :]
            return function(x, prepared, rest[: len(self.views)], *rest[len(self.views) :])

        arrays = [self.x, *(self.prepared[name] for name in names), *self.views, *wide]
        if self.parts is None:
            return flat(*arrays)
        held = [*map(self.parts.prepared, names), *self.parts.views, *map(self._spec, wide)]
        out: list[Spec] = [(self.parts.batch, self.parts.rows)] * results
        made: list[jax.Array] = over_mesh(flat, self.parts.mesh, [(self.parts.batch,), *held], out)(*arrays)
        return made

    def _spec(self, array: jax.Array) -> Spec:
        assert self.parts is not None
        return (self.parts.batch if array.shape[0] > 1 else (), self.parts.rows if array.shape[1] > 1 else ())


def choose(points: list[jax.Array], count: int, target: Target) -> jax.Array:
    """The rows that hold the best of everything that is compared: int32 ``[b, count]``, ascending, none twice."""
    if len(points) == 1:
        return top_candidates(points[0], count, target)
    share = count // len(points)
    above = []
    for point in points:
        best = top_candidates(point, share, target)
        last = jnp.min(jnp.take_along_axis(point, best, axis=1), axis=1, keepdims=True)
        far = jnp.where(point > -jnp.inf, point, -jnp.inf)
        above.append(jnp.where(jnp.isfinite(last), point - last, far))
    return top_candidates(jnp.stack(above).max(axis=0), count, target)
