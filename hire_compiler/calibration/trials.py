"""Trials: run the predictors that rules name on calibration rows, beside the dense block, and compare.

A choice is made as the rewritten step makes it, for one row and for several that share it. Nothing is gathered: the
neurons that were not chosen are left out of the dense block's output, and what is missing then is the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler import _mlir
from hire_compiler.capture.placement import on_automatic_axes
from hire_compiler.config.rules import Config, Rule
from hire_compiler.learned.calibration import Calibration, trial_key
from hire_compiler.learned.trial import SHARES, Trial
from hire_compiler.passes.detect.facts import learned
from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.plan.choose_rule import first_rule
from hire_compiler.passes.plan.neurons import chosen_group
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.site_match import SiteMatch, moment_key
from hire_compiler.reports.report import Site
from hire_compiler.runtime.count_active import TOGETHER, active_neurons
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.predictors import kept_for, predict, prepare_copies
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import group_scores


@dataclass(frozen=True, eq=False)
class Candidate:
    """A block whose rule names a predictor that approximates."""

    site: Site
    facts: SiteFacts
    match: FfnMatch
    rule: Rule

    @property
    def key(self) -> str:
        """Of the input rows that are kept for it, and of its neurons."""
        return self.match.neuron_key


def candidates_for_trial(
    sites: Sequence[Site], matches: Sequence[SiteMatch], facts: Sequence[SiteFacts], config: Config
) -> tuple[Candidate, ...]:
    """The blocks whose rule asks for an approximation, once for each set of weights."""
    found: dict[str, Candidate] = {}
    for site, match, fact in zip(sites, matches, facts, strict=True):
        rule, block = first_rule(site, config), kind_of(match).tried(match)
        if rule is None or block is None:
            continue
        if rule.predictor is not None and len(rule.predictor.copies) == 1 and not rule.certify:
            found.setdefault(block.neuron_key, Candidate(site, fact, block, rule))
    return tuple(found.values())


def run_trials(
    candidates: Iterable[Candidate],
    inputs: Mapping[str, np.ndarray],
    values: Sequence[Any],
    calibration: Calibration,
    target: Target,
    together: Sequence[int] = TOGETHER,
) -> Calibration:
    """The calibration with what the predictors found.

    Args:
      together: of how many rows that share a choice.
      inputs: by key of a candidate, rows ``[n, d]`` of its input, or stacked ``[layers, n, d]``.
      values: arguments of ``@main``.
    """
    trials = dict(calibration.trials)
    values = [on_automatic_axes(value) for value in values]
    for candidate in candidates:
        known = learned([candidate.match], calibration)[candidate.match]
        facts = replace(candidate.facts, learned=known)
        batches = [replace(candidate.site, batch=batch) for batch in together]
        for group in sorted({chosen_group(candidate.rule, site, facts) for site in batches}):
            if candidate.site.width % group == 0:
                rule = replace(candidate.rule, group=group)
                own = replace(candidate, rule=rule)
                found = _try(own, inputs[candidate.key], values, calibration, target, together)
                trials[trial_key(candidate.key, rule)] = found
    return replace(calibration, trials=trials)


def _try(
    candidate: Candidate,
    inputs: np.ndarray,
    values: Sequence[Any],
    calibration: Calibration,
    target: Target,
    sizes: Sequence[int],
) -> Trial:
    match, rule = candidate.match, candidate.rule
    moment, activity = calibration.moment(moment_key(match)), calibration.activity(candidate.key)
    assert moment is not None
    assert activity is not None
    matrices = [_layers(w, materialize(w, values)) for w in (match.predicted, *match.weights)]
    vectors = [vector_of(origin.weight, index, values) for origin, index in match.biases]
    moments = np.broadcast_to(moment.mean, (len(matrices[0]), *moment.mean.shape[-2:]))
    samples = inputs if inputs.ndim == 3 else inputs[None]

    def one(x: jax.Array, matrices: list[jax.Array], vectors: list[jax.Array], moment: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        gate, *first, down = matrices
        products = [wide @ m.T.astype(jnp.float32) for m in first]
        h = match.region.expression.evaluate(
            [*(p.astype(match.products[0].result.dtype) for p in products), *vectors], exact=True
        ).astype(jnp.float32)
        assert rule.predictor is not None
        arrays = prepare_copies(gate, rule.predictor.copies, moment, stacked=False)
        z = predict(x, kept_for(arrays, gate.shape[1], target), target)
        if match.activation.gate_bias is not None:
            z = z + vectors[match.activation.gate_bias]
        scores = match.relevance(z, [vectors[i] for i in match.relevance.reads])
        active = active_neurons(h, activity.strongest)
        return _compare(h, active, scores, down.astype(jnp.float32), rule, sizes)

    run = jax.jit(one)
    with _mlir.own_settings():
        found = [
            np.asarray(run(jnp.asarray(samples[i]), [m[i] for m in matrices], [v[i] for v in vectors], moments[i]))
            for i in range(len(samples))
        ]
    worst = np.stack([np.min([f[..., 0] for f in found], axis=0), np.max([f[..., 1] for f in found], axis=0)], axis=-1)
    return Trial(worst.astype(np.float64), samples.shape[1])


def _compare(
    h: jax.Array, active: jax.Array, scores: jax.Array, down: jax.Array, rule: Rule, sizes: Sequence[int]
) -> jax.Array:
    """``Trial.found`` of one layer; NaN of numbers of rows that nobody asks for."""
    rows, width = h.shape
    group = rule.group or 1
    found = []
    for together in TOGETHER:
        sets = rows // together
        if not sets or together not in sizes:
            found.append(jnp.full((len(SHARES), 2), jnp.nan))
            continue
        own, wanted, rated = (
            a[: sets * together].reshape(together, sets, width).swapaxes(0, 1) for a in (h, active, scores)
        )
        order = jnp.argsort(-jax.vmap(lambda r: group_scores(r, group, rule.score))(rated), axis=1)
        rank = jnp.argsort(order, axis=1)
        size = jnp.sum(jnp.square(own @ down))
        loss = partial(_loss, own, wanted, rank, down, size, group)
        found.append(lax.map(loss, jnp.asarray([ceil(ceil(share * width) / group) for share in SHARES])))
    return jnp.stack(found)


def _loss(
    h: jax.Array, active: jax.Array, rank: jax.Array, down: jax.Array, size: jax.Array, group: int, kept: jax.Array
) -> jax.Array:
    """Recall and relative error where every set of rows ``[sets, rows, m]`` computes its ``kept`` best groups."""
    chosen = jnp.repeat(rank < kept, group, axis=1)[:, None]
    recall = 1 - jnp.sum(active & ~chosen) / jnp.maximum(jnp.sum(active), 1)  # 1 where nothing was active
    missing = jnp.sum(jnp.square(jnp.where(chosen, 0.0, h) @ down))
    return jnp.stack([recall, jnp.sqrt(missing / jnp.maximum(size, 1e-30))])


def _layers(weight: Any, rows: jax.Array) -> jax.Array:
    return rows if weight.layers is not None else rows[None]


def vector_of(vector: Any, index: np.ndarray, values: Sequence[Any]) -> jax.Array:
    """A parameter with one entry a neuron: ``[layers, m]``."""
    value = _layers(vector, materialize(vector, values))
    return value.reshape(len(value), -1)[:, index]
