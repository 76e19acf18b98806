"""Replace an LM head of which only the winners are read: argmax, top_k, Gumbel-max sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.calibration import Calibration
from hire_compiler.enclosure import Enclosure, arithmetic_for, around, enclose, point
from hire_compiler.passes.replacement import (
    AuthorsCode,
    Replacement,
    argument_views,
    canonical_input,
    held_matrices,
    lies_by_columns,
    make_preparation,
    predictor_arrays,
    take_batch_rows,
)
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.canonical import Outside
from hire_compiler.patterns.logits import HeadMatch, Winner
from hire_compiler.runtime.certify import (
    Winners,
    best_candidates,
    excluded_that_reach,
    finer_room,
    room,
    rounding_slack,
    take_batch,
    take_entries,
)
from hire_compiler.runtime.collectives import NUMBERS, Numbering, on_every_shard, order_shards
from hire_compiler.runtime.fallback import repair
from hire_compiler.runtime.logits import candidate_logits, exact_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.stored import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import top_candidates
from hire_compiler.runtime.weights import view

_NOISE = 2.0**-20  # how far noise may come out otherwise where the compiler fuses it with other code, beside its size


def replace_winners(
    match: HeadMatch, plan: SitePlan, calibration: Calibration | None, target: Target, *, local: bool = False
) -> Replacement:
    """The replacement of a head whose readers keep only the best of the same values.

    Args:
      local: the match is restated in the sizes of one shard, so the author's operations cannot be run as they are.
    """
    dot, first = match.dot, match.winners[0]
    strict = plan.certify == "strict"
    by_columns = strict and lies_by_columns(dot)
    weights = () if by_columns else (dot.weight,)
    vectors = [(origin.weight, index) for origin, index in first.region.parameters]
    preparation = make_preparation(match, plan, dot.weight, vectors, calibration, target, matrices=weights)
    noisy = 0 if first.noise is None else 1
    captured = first.region.captured
    replaced = tuple(value for winner in match.winners for value in winner.op.results)
    author = AuthorsCode(dot.op, tuple(w.op for w in match.winners), dot.x) if strict and not local else None

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        x: jax.Array,
        *more: jax.Array,
        run_author: Callable[[], list[jax.Array]] | None = None,
    ) -> list[jax.Array]:
        held = views[0] if by_columns else held_matrices(weights, prepared, views, target)[0]
        kept = view(dot.columns, held) if by_columns else held
        own = [prepared[f"vector{i}"] for i in range(len(vectors))]
        head = _Head(
            match=match,
            plan=plan,
            target=target,
            rows=StoredRows(kept, target, by_columns),
            everything=canonical_input(x, dot),
            vectors=(
                *own,
                *(_in_place(array, entry) for array, entry in zip(more[noisy:], captured, strict=True)),
                *(array.reshape(len(match.rows), first.width) for array in more[:noisy]),
            ),
            run_author=run_author,
        )
        results, measured = head.proven(prepared) if plan.certify else (head.likely(prepared), None)
        outputs = [
            array.reshape(output.shape).astype(jnp.dtype(output.dtype))
            for array, output in zip(results, replaced, strict=True)
        ]
        return outputs if measured is None else [*outputs, measured]

    return Replacement(
        preparation=preparation,
        values=(dot.x,) if first.noise is None else (dot.x, first.noise),
        views=(dot.columns.argument,) if by_columns else argument_views(weights, target),
        step=step,
        results=replaced,
        before=min((winner.op for winner in match.winners), key=lambda op: op.position),
        signature=repr(("head", id(match))),
        measure="proof" if plan.certify else "",
        captured=captured,
        author=author,
    )


def _in_place(array: jax.Array, entry: Outside) -> jax.Array:
    """A captured value as ``[b, n]``, where 1 stands for any length."""
    if np.array_equal(entry.index.ravel(), np.arange(array.size)):
        return array.reshape(entry.index.shape)
    return array.reshape(-1)[entry.index]


@dataclass(frozen=True)
class _Head:
    """One head at work.

    Attributes:
      rows: the output matrix.
      everything: the inputs of all batch rows of the product; only ``match.rows`` of them are read.
      vectors: parameters ``[n]``, captured values ``[b, n]`` (1 stands for any length), then the noise ``[b, n]``.
      run_author: the author's own code, from the product to the results of all readers; None where it is not at hand.
    """

    match: HeadMatch
    plan: SitePlan
    target: Target
    rows: StoredRows
    everything: jax.Array
    vectors: tuple[jax.Array, ...]
    run_author: Callable[[], list[jax.Array]] | None

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
        return max(winner.k for winner in self.match.winners)

    @property
    def width(self) -> int:
        """How many rows of the matrix are compared, from the first."""
        return self.match.winners[0].width

    def everyone(self, x: jax.Array) -> jax.Array:
        """The logits of all rows that are compared, ``[b, n]``."""
        return self.rows.products(x)[:, : self.width]

    def likely(self, prepared: Arrays) -> list[jax.Array]:
        """The winners among the candidates."""

        def compare(scores: jax.Array, ids: jax.Array | None) -> jax.Array:
            if ids is not None:
                values = self.ranked(scores, [take_entries(vector, ids) for vector in self.vectors])
                return jnp.where(ids < self.width, values, -jnp.inf)
            values = self.ranked(scores[:, : self.width], self.vectors)
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

    def proven(self, prepared: Arrays) -> tuple[list[jax.Array], jax.Array]:
        """The winners of dense, and ``[rows proven, the largest slack τ]``."""
        x = self.inputs
        scores = predict(x, predictor_arrays(prepared), self.target)[:, : self.width]
        bounds = {name: prepared[name][: self.width] for name in ("bound", "norm", "blocks")}

        def reached(away: jax.Array) -> jax.Array:
            """Upper bounds of what is compared, for logits so far from their predictions."""
            return self.bounds(around(scores, away), self.vectors, rounded=self.strict).high

        upper = reached(room(bounds["bound"], x))
        ids = top_candidates(upper, self.plan.candidates, self.target)
        exact = exact_logits(x, self.rows, ids, precise=self.match.dot.precise)
        # Two roundings lie between what is computed here and what dense computes: each side's own.
        slack = 2 * rounding_slack(bounds["norm"][ids], x)
        own = [take_entries(vector, ids) for vector in self.vectors]
        center, best, apart = self.best(exact, slack, own, ids)
        axes = self.plan.axes
        if axes:
            numbering = Numbering(self.match.dot.rows, axes, prepared.get(NUMBERS))
            best = order_shards(best, ids, numbering, strict=self.strict)
        by_norms = excluded_that_reach(upper, ids, best)
        excluded = lax.cond(
            (~best.sure | (by_norms == 0)).all(),
            lambda: by_norms,
            lambda: excluded_that_reach(reached(finer_room(bounds, x, self.target)), ids, best),
        )
        proven = best.sure & (excluded == 0)
        if axes:
            proven = on_every_shard(proven, axes)

        def some(at: jax.Array) -> tuple[list[jax.Array], jax.Array]:
            own = [take_batch(vector, at) for vector in self.vectors]
            logits = self.everyone(x[at])
            if not self.strict:
                return self.pick(logits, None, own), jnp.ones(len(at), bool)
            everyone = jnp.broadcast_to(jnp.arange(logits.shape[1], dtype=jnp.int32), logits.shape)
            center, again, _ = self.best(logits, 2 * rounding_slack(bounds["norm"][None], x[at]), own, everyone)
            return self.chosen(center, everyone, again.at), again.sure

        # Between shards nothing but the author's own product settles an order.
        hopeless = self.strict & ~(proven if axes else best.sure)
        results = repair(self.chosen(center, ids, best.at), proven, hopeless, some, self._dense)
        largest = jnp.max(jnp.take_along_axis(apart, best.at, axis=1))
        return results, jnp.stack([jnp.sum(proven, dtype=jnp.float32), largest])

    def best(
        self, exact: jax.Array, slack: jax.Array, own: Sequence[jax.Array], ids: jax.Array
    ) -> tuple[jax.Array, Winners, jax.Array]:
        """The winners among some rows, from their logits ``[b, c]`` and how far these are from dense's.

        Returns:
          What is compared ``[b, c]``, the winners, and how far that may be from the real numbers ``[b, c]``.
        """
        bounds = self.bounds(around(exact, slack), own, rounded=True)
        middle = (bounds.low + bounds.high) / 2
        center = jnp.where(jnp.isfinite(middle), middle, bounds.low) if self.strict else self.ranked(exact, own)
        best = best_candidates(center, bounds.low, bounds.high, ids, self.most, strict=self.strict)
        apart = bounds.high - bounds.low
        if self.match.dot.result.dtype != "float32":
            storage = jnp.finfo(self.match.dot.result.dtype)
            apart += float(storage.eps) * jnp.abs(center) + float(storage.tiny)
        sure = best.sure & jnp.isfinite(slack).all(axis=1) & jnp.isfinite(exact).all(axis=1)
        return center, Winners(best.at, best.threshold, best.last, sure, best.low, best.high), apart

    def _dense(self) -> list[jax.Array]:
        """The results of all batch rows: by the author's own code where strictness asks for it."""
        if not self.strict:
            return self.pick(self.everyone(self.inputs), None, self.vectors)
        if self.run_author is not None:
            like = jax.eval_shape(lambda: self.pick(self.everyone(self.inputs), None, self.vectors))
            return [a.reshape(b.shape).astype(b.dtype) for a, b in zip(self.run_author(), like, strict=True)]
        dot = self.match.dot
        logits = self.rows.as_written(
            self.everything,
            rows_first=dot.rows_first,
            by_columns=len(dot.columns.steps) < len(dot.weight.steps),
            precise=dot.precise,
            dtype=dot.result.dtype,
        )
        return self.pick(take_batch_rows(logits, self.match.rows), None, self.vectors)

    def bounds(self, logits: Enclosure, own: Sequence[jax.Array], *, rounded: bool) -> Enclosure:
        """Between what the program compares, for logits between bounds; as it rounds, or in float32 throughout."""
        code = self.match.winners[0].compared
        dtypes = [self.match.dot.result.dtype, *(str(vector.dtype) for vector in own)]
        if not rounded:
            dtypes = ["float32" if d in ("bfloat16", "float16") else d for d in dtypes]
        inputs = [logits, *(self._known(vector, i) for i, vector in enumerate(own))]
        return enclose(code if rounded else code.widened, inputs, dtypes, arithmetic_for(self.target))

    def _known(self, vector: jax.Array, number: int) -> Enclosure:
        region = self.match.winners[0].region
        outside = number - len(region.parameters)
        if outside < 0 or not jnp.issubdtype(vector.dtype, jnp.floating):
            return point(vector)
        if outside < len(region.captured) and not _computed(region.captured[outside]):
            return point(vector)
        wide = vector.astype(jnp.float32)
        return around(wide, (jnp.abs(wide) + 1) * _NOISE)

    def ranked(self, logits: jax.Array, own: Sequence[jax.Array]) -> jax.Array:
        """What the program compares, in float32 throughout, where rounding makes no ties."""
        floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in own]
        code = self.match.winners[0].compared.widened
        values: jax.Array = code.evaluate([logits, *floats], exact=True)
        return values.astype(jnp.float32)

    def chosen(self, center: jax.Array, ids: jax.Array, at: jax.Array) -> list[jax.Array]:
        """The results of every reader, from the proven places ``at [b, k]`` of the winners among ``ids``."""
        best, where = (jnp.take_along_axis(array, at, axis=1) for array in (center, ids))
        return [
            part.astype(jnp.dtype(value.dtype)) if part.dtype == jnp.float32 else part
            for winner in self.match.winners
            for part, value in zip((best[:, : winner.k], where[:, : winner.k]), winner.op.results, strict=False)
        ]

    def pick(self, logits: jax.Array, ids: jax.Array | None, vectors: Sequence[jax.Array]) -> list[jax.Array]:
        """The results of every reader ``[b, k]``, from the logits of candidates ``ids`` or (None) of all rows."""
        own = [take_entries(vector, ids) for vector in vectors]
        narrow = logits.astype(jnp.dtype(self.match.dot.result.dtype))
        values = self.match.winners[0].compared.evaluate([narrow, *own], exact=True)
        return [part for winner in self.match.winners for part in _winners_of(winner, values, ids)]


def _computed(entry: Outside) -> bool:
    """Whether a captured value may come out otherwise where the compiler fuses what makes it with other code."""
    return entry.value.op is not None and entry.base is None and entry.value.op.name != "constant"


def _winners_of(winner: Winner, values: jax.Array, ids: jax.Array | None) -> tuple[jax.Array, ...]:
    if winner.kind == "max":
        return (jnp.max(values, axis=-1, keepdims=True),)
    if winner.kind == "argmax":
        at = jnp.argmax(values, axis=-1, keepdims=True).astype(jnp.int32)
        best = jnp.take_along_axis(values, at, axis=-1)
    else:
        best, at = lax.top_k(values, winner.k)
    return best, at if ids is None else jnp.take_along_axis(ids, at, axis=-1)
