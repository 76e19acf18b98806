"""What is to be known of a feed-forward block: by its plan, and by a calibration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np

from hire_compiler.graph.graph import Op
from hire_compiler.passes.kinds.probes import ROWS_A_CALL, Look, Probe, count_neurons, moment_look, some_rows
from hire_compiler.passes.kinds.sums import may_lose_its_rounding, why_sums_are_unbounded
from hire_compiler.passes.plan.site_plan import Choice, SiteFacts
from hire_compiler.patterns.ffn.activations import sample
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.ffn.outside_readers import read_elsewhere
from hire_compiler.patterns.ffn.sparsity import zero_far_below, zero_where_negative
from hire_compiler.patterns.site_match import stack_of
from hire_compiler.runtime.count_active import counted_size
from hire_compiler.runtime.target import Target


def ffn_facts(matches: Sequence[FfnMatch], target: Target) -> list[SiteFacts]:
    """What the blocks of a program say of themselves."""
    downs = {dot.op for match in matches for dot in match.last}
    return [
        SiteFacts(
            target.costs,
            neurons=True,
            provable=True,
            uncertifiable=_uncertifiable(match, target),
            running_bytes=_running_bytes(match, downs),
            exact_zeros=skips_exactly(match),
            seldom_zeros=zero_far_below(match.region.expression, len(match.products)),
            unproven_zeros=gives_zeros(match) and not skips_exactly(match),
            unsure_cut=match.region.expression.cuts and _may_round_otherwise(match, target),
            choice=_choice(match),
            # Narrow rows are converted on the way to a matrix-vector product, and to no other.
            halvable=all(dot.batch == 1 and dot.d < target.fused_vector for dot in match.products),
        )
        for match in matches
    ]


def _may_round_otherwise(match: FfnMatch, target: Target) -> bool:
    """Whether XLA may drop a rounding to bfloat16 in dense, of what its products read or of what they are."""
    narrow = [i for i, dot in enumerate(match.products) if dot.result.dtype == "bfloat16"]
    return match.region.expression.widens(narrow) or any(may_lose_its_rounding(d, target) for d in match.products)


def _uncertifiable(match: FfnMatch, target: Target) -> str:
    """Why its zeros cannot be proven; or ''."""
    if match.is_adapted and match.activation.gate_bias is None:
        return "an adapter adds to its gate, beside a bias or another adapter"
    if match.activation.selection or not zero_where_negative(match.negative_gate, len(match.products)):
        return f"no bound of a neuron proves {match.activation.selection or match.activation.name} to be zero"
    return why_sums_are_unbounded(match.ranked, match.ranked.batch, target)


def gives_zeros(match: FfnMatch) -> bool:
    """Whether a good part of random inputs gives zero: what is worth counting, and no proof of anything."""
    if match.activation.selection:
        return True
    samples = sample(match.region.expression, len(match.products), 320)
    return bool(np.mean(samples.result == 0) > 0.3)


def skips_exactly(match: FfnMatch) -> bool:
    """Whether one product alone is likely to prove enough neurons zero."""
    return max(match.zero_shares) > (0.05 if match.activation.selection else 0.3)


def _choice(match: FfnMatch) -> Choice | None:
    if not match.activation.selection:
        return None
    code, width = match.region.expression, match.down.d
    by_gate = skips_exactly(match) and not match.gate_stages.rowwise_late
    return Choice(code.kept(width), match.activation.share, code.kept_group, by_gate, code.sums_rows)


def _running_bytes(match: FfnMatch, downs: Collection[Op]) -> int:
    """Bytes of a block's first matrices whose products run on, because other code reads them."""
    running = read_elsewhere(match, downs)
    return sum(weight.nbytes for weight, runs in zip(match.matrices, running, strict=True) if runs)


def ffn_looks(match: FfnMatch, strongest: float, wanted: Collection[str]) -> list[Look]:
    """The second moment of its input, how many of its neurons are active, and some rows to try predictors on."""
    share = None if gives_zeros(match) else strongest
    down, first, stack = match.down, match.products[0], stack_of(match)
    activity = Probe("activity", match.neuron_key, (*stack, counted_size(down.d)), down.batch, down.d, share)
    looks = [moment_look(match), Look(activity, down, partial(count_neurons, strongest=share))]
    if match.neuron_key in wanted:
        rows = min(first.batch, ROWS_A_CALL)
        inputs = Probe("inputs", match.neuron_key, (*stack, rows, first.d), rows)
        looks.append(Look(inputs, first, partial(some_rows, count=rows)))
    return looks


def tried_block(match: FfnMatch) -> FfnMatch | None:
    """The block, if predictors can be tried on rows of its input alone."""
    return None if match.givens or match.beside or match.region.expression.sums_rows else match
