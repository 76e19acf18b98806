"""Facts: what the plan must know of each site beyond its report line, read off its match."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hire_compiler.activity import Activity
from hire_compiler.calibration import Calibration
from hire_compiler.enclosure import why_unbounded
from hire_compiler.graph import Op
from hire_compiler.passes.detect import Match
from hire_compiler.passes.replacement import (
    copied_bytes,
    lies_by_columns,
    site_activity_key,
    site_hotness,
    site_matrices,
    site_moment_key,
)
from hire_compiler.passes.site_plan import Choice, SiteFacts
from hire_compiler.patterns.activations import sample
from hire_compiler.patterns.canonical import Region
from hire_compiler.patterns.elsewhere import read_elsewhere
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.patterns.logits import HeadMatch
from hire_compiler.patterns.sparsity import zero_where_negative
from hire_compiler.runtime.target import Target


def site_facts(
    matches: Sequence[Match], calibration: Calibration | None, target: Target, devices: int, fast_math: str = ""
) -> list[SiteFacts]:
    """The facts of every site of a program whose arguments are spread over so many devices.

    Args:
      fast_math: why nothing can be proven of the arithmetic that it is compiled to, or ''.
    """
    downs = {match.down.op for match in matches if isinstance(match, FfnMatch)}
    return [_facts(match, calibration, target, devices, downs, fast_math) for match in matches]


def _uncertifiable(match: Match, target: Target) -> str:
    """Why the winners of a head, or the zeros of a feed-forward block, cannot be proven; or ''."""
    if isinstance(match, FfnMatch):
        if match.givens and match.activation.gate_bias is None:
            return "an adapter adds to its gate, beside a bias or another adapter"
        if match.activation.selection or not zero_where_negative(match.negative_gate, len(match.products)):
            return f"no bound of a neuron proves {match.activation.selection or match.activation.name} to be zero"
        first_product = match.products[match.activation.gate]
        return "" if target.platform == "cpu" or first_product.precise else _rounds(target)
    unknown = next(filter(None, (why_unbounded(winner.compared) for winner in match.winners)), "")
    if unknown:
        return f"no bounds are known of {unknown}, which stands between the logits and what is compared"
    # Products of two bfloat16 numbers are exact in float32, so one pass of a matrix unit is enough.
    narrow = match.dot.weight.dtype == match.dot.x.dtype == "bfloat16"
    if target.platform != "cpu" and not match.dot.precise and not narrow:
        return _rounds(target)
    return ""


def _rounds(target: Target) -> str:
    return f"the product is not computed in full float32 on {target.platform}, so its rounding is not bounded"


def gives_zeros(match: FfnMatch) -> bool:
    """Whether a good part of random inputs gives zero: what is worth counting, and no proof of anything."""
    if match.activation.selection:
        return True
    samples = sample(match.region.expression, len(match.products), 320)
    return bool(np.mean(samples.result == 0) > 0.3)


def skips_exactly(match: FfnMatch) -> bool:
    """Whether one product alone is likely to prove enough neurons zero."""
    return max(match.zero_shares) > (0.05 if match.activation.selection else 0.3)


def _choice(match: Match) -> Choice | None:
    if not isinstance(match, FfnMatch) or not match.activation.selection:
        return None
    code, width = match.region.expression, match.down.d
    by_gate = skips_exactly(match) and not match.gate_stages.rowwise_late
    return Choice(code.kept(width), match.activation.share, code.kept_group, by_gate, code.sums_rows)


def _keeps_minus_infinity(region: Region) -> bool:
    below = [np.asarray(-np.inf), *(np.asarray(0.0) for _ in region.parameters)]
    return bool(np.all(region.expression.evaluate(below) == -np.inf))


def _facts(
    match: Match,
    calibration: Calibration | None,
    target: Target,
    devices: int,
    downs: Collection[Op],
    fast_math: str,
) -> SiteFacts:
    winners = match.winners if isinstance(match, HeadMatch) else ()
    provable = bool(winners) or isinstance(match, FfnMatch)
    return SiteFacts(
        weight_bytes=tuple(weight.nbytes for weight in site_matrices(match)),
        copied_bytes=copied_bytes(match),
        running_bytes=_running_bytes(match, downs),
        winners_only=bool(winners),
        uncertifiable=fast_math or _uncertifiable(match, target) if provable else "",
        top_k=max((winner.k for winner in winners), default=1),
        calibrated=calibration is not None and calibration.moment(site_moment_key(match)) is not None,
        counted=site_hotness(match, calibration, 1) is not None,
        devices=devices,
        by_columns=isinstance(match, HeadMatch) and lies_by_columns(match.dot),
        unpacked_by_row=target.rows_one_by_one and not target.has_int4,
        activity=_activity(match, calibration),
        trials=calibration.trials_of(site_activity_key(match)) if calibration and isinstance(match, FfnMatch) else {},
        exact_zeros=isinstance(match, FfnMatch) and skips_exactly(match),
        unproven_zeros=isinstance(match, FfnMatch) and gives_zeros(match) and not skips_exactly(match),
        choice=_choice(match),
        drops=not isinstance(match, HeadMatch) or all(_keeps_minus_infinity(r) for r in match.compared),
    )


def _activity(match: Match, calibration: Calibration | None) -> Activity | None:
    if calibration is None or not isinstance(match, FfnMatch):
        return None
    return calibration.activity(site_activity_key(match))


def _running_bytes(match: Match, downs: Collection[Op]) -> int:
    """Bytes of a block's first matrices whose products run on, because other code reads them."""
    if not isinstance(match, FfnMatch):
        return 0
    running = read_elsewhere(match, downs)
    return sum(weight.nbytes for weight, runs in zip(match.matrices, running, strict=True) if runs)
