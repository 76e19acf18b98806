"""Replace an LM head of which only the winners are read: argmax, top_k, Gumbel-max sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.calibration import Calibration
from hire_compiler.passes.replacement import (
    Replacement,
    argument_views,
    canonical_input,
    held_matrices,
    make_preparation,
    predictor_arrays,
    site_matrices,
    take_batch_rows,
)
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.logits import HeadMatch, Winner
from hire_compiler.runtime.certify import (
    best_candidates,
    excluded_that_reach,
    finer_upper_bounds,
    rounding_slack,
    take_entries,
    upper_bounds,
)
from hire_compiler.runtime.collectives import NUMBERS, Numbering, on_every_shard, order_shards
from hire_compiler.runtime.fallback import repair
from hire_compiler.runtime.logits import candidate_logits, exact_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.target import Target, dot_of_few, unfused
from hire_compiler.runtime.topk import top_candidates


def replace_winners(match: HeadMatch, plan: SitePlan, calibration: Calibration | None, target: Target) -> Replacement:
    """The replacement of a head whose readers keep only the best of the same values."""
    dot, first = match.dot, match.winners[0]
    weights = site_matrices(match)
    vectors = [(origin.weight, index) for origin, index in first.region.parameters]
    preparation = make_preparation(match, plan, dot.weight, vectors, calibration, target)

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array, *noise: jax.Array) -> list[jax.Array]:
        (rows,) = held_matrices(weights, prepared, views, target)
        held = [prepared[f"vector{i}"] for i in range(len(vectors))]
        head = _Head(
            match=match,
            plan=plan,
            target=target,
            rows=rows,
            everything=canonical_input(x, dot),
            vectors=(*held, *(array.reshape(len(match.rows), dot.rows) for array in noise)),
        )
        results, measured = head.proven(prepared) if plan.certify else (head.likely(prepared), None)
        outputs = [
            array.reshape(output.shape).astype(jnp.dtype(output.dtype))
            for array, output in zip(results, replaced, strict=True)
        ]
        return outputs if measured is None else [*outputs, measured]

    replaced = tuple(value for winner in match.winners for value in winner.op.results)
    return Replacement(
        preparation=preparation,
        values=(dot.x,) if first.noise is None else (dot.x, first.noise),
        views=argument_views(weights, target),
        step=step,
        results=replaced,
        before=min((winner.op for winner in match.winners), key=lambda op: op.position),
        signature=repr(("head", id(match))),
        measure="proof" if plan.certify else "",
    )


@dataclass(frozen=True)
class _Head:
    """One head at work.

    Attributes:
      rows: the output matrix, ``[n, d]``.
      everything: the inputs of all batch rows of the product; only ``match.rows`` of them are read.
      vectors: parameters ``[n]``, then the noise ``[b, n]`` if there is any.
    """

    match: HeadMatch
    plan: SitePlan
    target: Target
    rows: jax.Array
    everything: jax.Array
    vectors: tuple[jax.Array, ...]

    @property
    def inputs(self) -> jax.Array:
        """``[b, d]``, of the batch rows that are read."""
        return take_batch_rows(self.everything, self.match.rows)

    def likely(self, prepared: Arrays) -> list[jax.Array]:
        """The winners among the candidates."""

        def compare(scores: jax.Array, ids: jax.Array | None) -> jax.Array:
            return self.ranked(scores, [take_entries(vector, ids) for vector in self.vectors])

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
        x, strict = self.inputs, self.plan.certify == "strict"
        scores = predict(x, predictor_arrays(prepared), self.target)
        upper = upper_bounds(scores, prepared["bound"], x)
        ids = top_candidates(self.ranked(upper, self.vectors), self.plan.candidates, self.target)
        exact = exact_logits(x, self.rows, ids, self.target, precise=self.match.dot.precise)
        # Two roundings lie between what is computed here and what dense computes: each side's own.
        slack = 2 * rounding_slack(prepared["norm"][ids], x)
        values = self.rounded if strict else self.ranked
        k = max(winner.k for winner in self.match.winners)
        best = best_candidates(exact, slack, ids, values, self.vectors, k, strict=strict)
        axes = self.plan.axes
        if axes:
            numbering = Numbering(self.match.dot.rows, axes, prepared.get(NUMBERS))
            best = order_shards(best, ids, numbering, strict=strict)

        def doubts(bound: jax.Array) -> jax.Array:
            return excluded_that_reach(bound, ids, best, values, self.vectors)

        by_norms = doubts(upper)
        excluded = lax.cond(
            (~best.sure | (by_norms == 0)).all(),
            lambda: by_norms,
            lambda: doubts(finer_upper_bounds(scores, prepared, x, self.target)),
        )
        proven = best.sure & (excluded == 0)
        if axes:
            proven = on_every_shard(proven, axes)

        def some(at: jax.Array) -> tuple[list[jax.Array], jax.Array]:
            own = [vector if vector.ndim == 1 else vector[at] for vector in self.vectors]
            logits = unfused(dot_of_few(x[at], self.rows, self.target), self.target)
            if not strict:
                return self.pick(logits, None, own), jnp.ones(len(at), bool)
            room = 2 * rounding_slack(prepared["norm"][None], x[at])
            again = best_candidates(logits, room, None, values, own, k, strict=True)
            return self.pick(logits, None, own), again.sure

        # Between shards nothing but the author's own product settles an order.
        hopeless = ~(proven if axes else best.sure) & strict
        results = repair(self.pick(exact, ids, self.vectors), proven, hopeless, some, self._dense)
        storage = jnp.finfo(self.match.dot.result.dtype).eps if self.match.dot.result.dtype != "float32" else 0
        largest = jnp.max(jnp.take_along_axis(slack + storage * jnp.abs(exact), best.at, axis=1))
        return results, jnp.stack([jnp.sum(proven, dtype=jnp.float32), largest])

    def _dense(self) -> list[jax.Array]:
        logits = dense_logits(self.everything, self.rows, self.match.dot)
        return self.pick(take_batch_rows(logits, self.match.rows), None, self.vectors)

    def rounded(self, logits: jax.Array, own: Sequence[jax.Array]) -> jax.Array:
        """What the program compares, rounded as it rounds."""
        narrow = logits.astype(jnp.dtype(self.match.dot.result.dtype))
        return self._evaluate(narrow, own, widened=False).astype(jnp.float32)

    def ranked(self, logits: jax.Array, own: Sequence[jax.Array]) -> jax.Array:
        """The same in float32 throughout, where rounding makes no ties."""
        floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in own]
        return self._evaluate(logits, floats, widened=True).astype(jnp.float32)

    def _evaluate(self, logits: jax.Array, own: Sequence[jax.Array], *, widened: bool) -> jax.Array:
        first = self.match.winners[0]
        expression = first.region.expression.widened if widened else first.region.expression
        parameters = len(first.region.parameters)
        values: jax.Array = expression.evaluate([logits, *own[:parameters]], exact=True)
        return values if first.noise is None else values + own[parameters]

    def pick(self, logits: jax.Array, ids: jax.Array | None, vectors: Sequence[jax.Array]) -> list[jax.Array]:
        """The results of every reader ``[b, k]``, from the logits of candidates ``ids`` or (None) of all rows."""
        own = [take_entries(vector, ids) for vector in vectors]
        values = self._evaluate(logits.astype(jnp.dtype(self.match.dot.result.dtype)), own, widened=False)
        return [part for winner in self.match.winners for part in _winners_of(winner, values, ids)]


def _winners_of(winner: Winner, values: jax.Array, ids: jax.Array | None) -> tuple[jax.Array, ...]:
    if winner.kind == "max":
        return (jnp.max(values, axis=-1, keepdims=True),)
    if winner.kind == "argmax":
        at = jnp.argmax(values, axis=-1, keepdims=True)
        best = jnp.take_along_axis(values, at, axis=-1)
    else:
        best, at = lax.top_k(values, winner.k)
    return best, at if ids is None else jnp.take_along_axis(ids, at, axis=-1)


def dense_logits(x: jax.Array, rows: jax.Array, dot: WeightDot) -> jax.Array:
    """The author's own product, on the prepared layout: ``[batch, rows]`` in the type it had."""
    precision = lax.Precision.HIGHEST if dot.precise else None
    dtype = jnp.dtype(dot.result.dtype)
    if dot.rows_first:
        return lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=dtype).T
    # XLA:CPU reads narrow rows as they are in this form alone; contracted (1, 1) they are first converted, whole.
    return lax.dot_general(x, rows.T, (((1,), (0,)), ((), ())), precision=precision, preferred_element_type=dtype)
