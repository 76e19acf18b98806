"""The winners of a head at run time: choose candidates, compute and prove them, or run what the author wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler import _mlir
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.preparing import predictor_arrays
from hire_compiler.passes.replace.shapes import take_batch_rows
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.head.winners import Winner
from hire_compiler.patterns.region.canonical import Outside
from hire_compiler.proofs.enclosure import arithmetic_for, computed_again, enclose
from hire_compiler.proofs.interval import Enclosure, around, point, widened
from hire_compiler.runtime.certify import (
    Winners,
    best_candidates,
    between,
    center_of,
    excluded_that_reach,
    finer_room,
    room,
    rounded_terms,
    take_batch,
    take_entries,
)
from hire_compiler.runtime.collectives import NUMBERS, Numbering, on_every_shard, order_shards
from hire_compiler.runtime.logits import candidate_logits, exact_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.repair import repair
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import top_candidates

_PACKS_TOP_K = _mlir.JAXLIB_VERSION >= (0, 11)
_BFLOAT16_STEP = 2.0**-7  # from one number to the next, as a share of it, at most
_REPAIRED = 8  # rows, one by one
_FEW = 4  # winners; of more, buckets would so often hold two that dense rows cost more than a sort


@dataclass(frozen=True)
class _Attempt:
    """What one group of winners came to.

    Attributes:
      results: of its readers.
      proven, hopeless: which batch rows are right, and which only the author's own code can settle: ``[b]``.
      one: from a position in the batch to dense results of that row, and whether they are settled.
      slack: the largest τ of a winner.
    """

    results: list[jax.Array]
    proven: jax.Array
    hopeless: jax.Array
    one: Callable[[jax.Array], tuple[list[jax.Array], jax.Array]]
    slack: jax.Array


def prove(
    heads: Sequence[HeadAtWork], prepared: Arrays, run_author: Callable[[], list[jax.Array]] | None
) -> tuple[list[jax.Array], jax.Array]:
    """The winners of dense, and ``[rows proven, the largest slack τ]``.

    Without ``run_author`` strict winners that are not proven are no more than a guess: on shards it is for the whole
    program to run the author's code.
    """
    scores = predict(heads[0].inputs, predictor_arrays(prepared), heads[0].target, precise=True)
    attempts = [head.attempt(prepared, scores) for head in heads]
    proven, hopeless = attempts[0].proven, attempts[0].hopeless
    for other in attempts[1:]:
        proven, hopeless = proven & other.proven, hopeless | other.hopeless

    slack = jnp.max(jnp.stack([attempt.slack for attempt in attempts]))
    measured = jnp.stack([jnp.sum(proven, dtype=jnp.float32), slack])
    likely = [part for a in attempts for part in a.results]
    if run_author is None and heads[0].strict:
        return likely, measured

    def one(at: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        done = [attempt.one(at) for attempt in attempts]
        return [part for parts, _ in done for part in parts], jnp.stack([settled for _, settled in done]).all()

    def whole() -> list[jax.Array]:
        if run_author is None:
            return [part for head in heads for part in head.quick()]
        like = jax.eval_shape(lambda: [part for head in heads for part in head.quick()])
        return [a.reshape(b.shape).astype(b.dtype) for a, b in zip(run_author(), like, strict=True)]

    return repair(likely, proven, hopeless, one, whole, heads[0].most_repaired), measured


@dataclass(frozen=True)
class HeadAtWork:
    """One group of winners of the same values at work.

    Attributes:
      winners: the group.
      rows: the output matrix.
      everything: the inputs of all batch rows of the product; only ``match.rows`` of them are read.
      vectors: parameters ``[n]``, captured values ``[b, n]`` (1 stands for any length), then the noise ``[b, n]``.
      real: which of a shard's rows are no padding, bool ``[n]``; None where all are compared.
    """

    match: HeadMatch
    winners: tuple[Winner, ...]
    plan: SitePlan
    target: Target
    rows: StoredRows
    everything: jax.Array
    vectors: tuple[jax.Array, ...]
    real: jax.Array | None = None

    @property
    def inputs(self) -> jax.Array:
        """``[b, d]``, of the batch rows that are read."""
        return take_batch_rows(self.everything, self.match.rows)

    @property
    def strict(self) -> bool:
        """Whether the order of dense itself has to be proven."""
        return self.plan.certify == "strict"

    @property
    def most(self) -> int:
        """The most winners that any reader asks for."""
        return max(winner.k for winner in self.winners)

    @property
    def width(self) -> int:
        """How many rows of the matrix are compared, from the first."""
        return min(self.winners[0].width, self.match.dot.rows)  # a shard's match says how many it holds

    @property
    def terms(self) -> float:
        """By how much dense may round the terms of its sums."""
        return rounded_terms(len(self.inputs), self.match.dot.result.dtype, self.target)

    @property
    def most_repaired(self) -> int:
        """How many rows that are not proven are worth a product each, before the product of all is run.

        None where it reads the matrix no slower, for one row or for many.
        """
        batch = len(self.inputs)
        slow = batch > 1 or (self.strict and self.match.dot.weight.dtype != "float32")
        return min(batch, _REPAIRED) if slow and self.target.rows_one_by_one else 0

    @property
    def is_cut(self) -> bool:
        """Whether dense may rank by bfloat16 numbers that are cut off instead of rounded.

        From 0.11 on XLA packs a bfloat16 and its row into one integer for ``top_k``, where the row fits into 16 bits,
        and then drops the rounding in front of it.
        """
        ranked = [winner for winner in self.winners if winner.kind == "top_k"]
        return _PACKS_TOP_K and self.width < 1 << 16 and any(_is_bfloat16(winner) for winner in ranked)

    def everyone(self, x: jax.Array) -> jax.Array:
        """The logits of all rows that are compared, ``[b, n]``."""
        return self.rows.products(x, precise=self.match.dot.precise)[:, : self.width]

    def likely(self, prepared: Arrays) -> list[jax.Array]:
        """The winners among the candidates."""

        def compare(scores: jax.Array, ids: jax.Array | None) -> jax.Array:
            if ids is not None:
                values = self.ranked(scores, [take_entries(vector, ids) for vector in self.vectors], ids)
                return jnp.where(ids < self.width, values, -jnp.inf)
            values = self.ranked(scores[:, : self.width], self.vectors, None)
            padding = scores.shape[1] - self.width
            return jnp.pad(values, ((0, 0), (0, padding)), constant_values=-jnp.inf) if padding else values

        ids, exact = candidate_logits(
            self.inputs,
            self.rows,
            predictor_arrays(prepared),
            self.plan.candidates,
            self.target,
            compared=[compare],
            survivors=self.plan.survivors,
            precise=self.match.dot.precise,
        )
        return self.pick(exact, ids, self.vectors)

    def attempt(self, prepared: Arrays, scores: jax.Array) -> _Attempt:
        """The winners by the candidates, from predictions ``[b, n]`` of all rows."""
        x, scores = self.inputs, scores[:, : self.width]
        bounds = {name: prepared[name][: self.width] for name in ("bound", "norm", "blocks")}

        def reached(away: jax.Array) -> jax.Array:
            """Upper bounds of what is compared, for logits so far from their predictions."""
            return self.bounds(around(scores, away), self.vectors, None, rounded=self.strict).high

        upper = reached(room(bounds, x, self.terms))
        whole_sort = self.most > _FEW and self.target.sorts_approximately
        sorts = replace(self.target, top_k_recall=1.0) if whole_sort else self.target
        ids = top_candidates(upper, self.plan.candidates, sorts)
        exact = exact_logits(x, self.rows, ids, precise=self.match.dot.precise)
        slack = between(bounds["norm"][ids], x, self.terms)
        own = [take_entries(vector, ids) for vector in self.vectors]
        center, best, apart = self.best(exact, slack, own, ids)
        likely = self.chosen(center, ids, best.at)
        axes = self.plan.axes
        if axes:
            numbering = Numbering(self.match.dot.rows, axes, prepared.get(NUMBERS))
            best, *everywhere = order_shards(best, ids, numbering, strict=self.strict)
            likely = self.shown(*everywhere) if self.strict else likely
        by_norms = excluded_that_reach(upper, ids, best)
        excluded = lax.cond(
            (~best.sure | (by_norms == 0)).all(),
            lambda: by_norms,
            lambda: excluded_that_reach(reached(finer_room(bounds, x, self.target, self.terms)), ids, best),
        )
        proven = best.sure & (excluded == 0)
        if axes:
            proven = on_every_shard(proven, axes)

        def one(at: jax.Array) -> tuple[list[jax.Array], jax.Array]:
            own = [take_batch(vector, at) for vector in self.vectors]
            row = lax.dynamic_slice_in_dim(x, at, 1)
            logits = self.everyone(row)
            if not self.strict:
                return self.pick(logits, None, own), jnp.ones((), bool)
            everyone = jnp.arange(logits.shape[1], dtype=jnp.int32)[None]
            center, again, _ = self.best(logits, between(bounds["norm"][None], row, self.terms), own, everyone)
            return self.chosen(center, everyone, again.at), again.sure[0]

        # Between shards nothing but the author's own product settles an order.
        hopeless = self.strict & ~(proven if axes else best.sure)
        apart = jnp.take_along_axis(apart, best.at, axis=1)
        largest = jnp.max(jnp.where(jnp.isfinite(apart), apart, 0))  # else nothing is proven, and dense runs
        return _Attempt(likely, proven, hopeless, one, largest)

    def best(
        self, exact: jax.Array, slack: jax.Array, own: Sequence[jax.Array], ids: jax.Array
    ) -> tuple[jax.Array, Winners, jax.Array]:
        """The winners among some rows, from their logits ``[b, c]`` and how far these are from dense's.

        Returns:
          What is compared ``[b, c]``, the winners, and how far that may be from the real numbers ``[b, c]``.
        """
        bounds = self.bounds(around(exact, slack), own, ids, rounded=True)
        center = center_of(bounds.low, bounds.high) if self.strict else self.ranked(exact, own, ids)
        known = jnp.isfinite(slack) & jnp.isfinite(exact)
        best = best_candidates(center, bounds.low, bounds.high, ids, self.most, strict=self.strict, known=known)
        apart = bounds.high - bounds.low
        if self.match.dot.result.dtype != "float32":
            storage = jnp.finfo(self.match.dot.result.dtype)
            apart += float(storage.eps) * jnp.abs(center) + float(storage.tiny)
        return center, best, apart

    def quick(self) -> list[jax.Array]:
        """The results of all batch rows, by the fast form of the product."""
        return self.pick(self.everyone(self.inputs), None, self.vectors)

    def bounds(self, logits: Enclosure, own: Sequence[jax.Array], ids: jax.Array | None, *, rounded: bool) -> Enclosure:
        """Between what the program compares, for logits between bounds; as it rounds, or in float32 throughout."""
        code = self.winners[0].compared
        dtypes = [self.match.dot.result.dtype, *(str(vector.dtype) for vector in own)]
        if not rounded:
            dtypes = ["float32" if d in ("bfloat16", "float16") else d for d in dtypes]
        inputs = [logits, *(self._known(vector, i) for i, vector in enumerate(own))]
        made = enclose(code if rounded else code.widened, inputs, dtypes, arithmetic_for(self.target))
        made = widened(made, _BFLOAT16_STEP) if rounded and self.is_cut else made
        return Enclosure(self._without_padding(made.low, ids), self._without_padding(made.high, ids))

    def _without_padding(self, values: jax.Array, ids: jax.Array | None) -> jax.Array:
        """What is compared of rows ``ids`` (None: all): padding never wins."""
        if self.real is None:
            return values
        return jnp.where(self.real if ids is None else self.real[ids], values, -jnp.inf)

    def _known(self, vector: jax.Array, number: int) -> Enclosure:
        region = self.winners[0].region
        outside = number - len(region.parameters)
        if outside < 0 or not jnp.issubdtype(vector.dtype, jnp.floating):
            return point(vector)
        if outside < len(region.captured) and not _computed(region.captured[outside]):
            return point(vector)
        return computed_again(vector)

    def ranked(self, logits: jax.Array, own: Sequence[jax.Array], ids: jax.Array | None) -> jax.Array:
        """What the program compares, in float32 throughout, where rounding makes no ties."""
        floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in own]
        code = self.winners[0].compared.widened
        values: jax.Array = code.evaluate([logits, *floats], exact=True)
        return self._without_padding(values.astype(jnp.float32), ids)

    def chosen(self, center: jax.Array, ids: jax.Array, at: jax.Array) -> list[jax.Array]:
        """The results of every reader, from the proven places ``at [b, k]`` of the winners among ``ids``."""
        return self.shown(*(jnp.take_along_axis(array, at, axis=1) for array in (center, ids)))

    def shown(self, best: jax.Array, where: jax.Array) -> list[jax.Array]:
        """The results of every reader, from the winners' values and rows ``[b, k]``."""
        return [
            part.astype(jnp.dtype(value.dtype)) if part.dtype == jnp.float32 else part
            for winner in self.winners
            for part, value in zip((best[:, : winner.k], where[:, : winner.k]), winner.op.results, strict=False)
        ]

    def pick(self, logits: jax.Array, ids: jax.Array | None, vectors: Sequence[jax.Array]) -> list[jax.Array]:
        """The results of every reader ``[b, k]``, from the logits of candidates ``ids`` or (None) of all rows."""
        own = [take_entries(vector, ids) for vector in vectors]
        narrow = logits.astype(jnp.dtype(self.match.dot.result.dtype))
        values = self._without_padding(self.winners[0].compared.evaluate([narrow, *own], exact=True), ids)
        return [part for winner in self.winners for part in _winners_of(winner, values, ids)]


def _is_bfloat16(winner: Winner) -> bool:
    return bool(winner.op.operands[0].dtype == "bfloat16")


def _computed(entry: Outside) -> bool:
    """Whether a captured value may come out otherwise where the compiler fuses what makes it with other code."""
    return entry.value.op is not None and entry.base is None and entry.value.op.name != "constant"


def _winners_of(winner: Winner, values: jax.Array, ids: jax.Array | None) -> tuple[jax.Array, ...]:
    best, at = winner.keeping.best(values, winner.k)
    if not winner.keeping.rows:
        return (best,)
    return best, at if ids is None else jnp.take_along_axis(ids, at, axis=-1)
