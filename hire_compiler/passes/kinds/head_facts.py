"""What is to be known of an LM head: by its plan, and by a calibration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.passes.kinds.probes import Look, Probe, count_winners, moment_look, some_rows
from hire_compiler.passes.kinds.sums import may_lose_its_rounding, why_sums_are_unbounded
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.passes.replace.preparing import lies_by_columns
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.head.winners import Winner
from hire_compiler.patterns.operations.leaving import goes_on
from hire_compiler.patterns.region.canonical import Region
from hire_compiler.patterns.site_match import moment_key
from hire_compiler.proofs.enclosure import why_unbounded
from hire_compiler.runtime.target import Target

ROWS = 2048  # of input that are kept to try predictors on


def head_facts(matches: Sequence[HeadMatch], target: Target) -> list[SiteFacts]:
    """What the heads of a program say of themselves."""
    facts = [
        SiteFacts(
            target.costs,
            logits=True,
            provable=bool(match.winners) or match.tail_of("bounded") is not None,
            uncertifiable=_uncertifiable(match, target),
            reordered=target.picks_kernels,
            winners_only=bool(match.winners),
            aligned=any(map(_is_aligned, match.winners)),
            compared=0 if match.tail is None or match.winners else match.tail.points,
            drawn=(match.tail.points, match.tail.most) if match.tail is not None and match.winners else None,
            read_on=_read_on(match),
            blocked=match.blocked,
            bounded=None if match.bounded is None else (match.bounded.points, match.bounded.most),
            seldom="" if match.tail is None else match.tail.doubt,
            top_k=max((winner.k for winner in match.winners), default=1 if match.tail is None else match.tail.most),
            by_columns=lies_by_columns(match.dot),
            # A few rows are read: what is gained is the memory of the wide ones, where nothing else needs them.
            halvable=target.bf16_as_bits and _read_alone(match.dot.factor),
            drops=all(_keeps_minus_infinity(region) for region in match.compared),
        )
        for match in matches
    ]
    first: dict[int, int] = {}  # by what is replaced, the largest head that is proven by it
    for number in sorted(range(len(matches)), key=lambda i: -matches[i].dot.rows * matches[i].dot.d):
        if facts[number].provable and not facts[number].uncertifiable:
            for op in _replaced(matches[number]):
                first.setdefault(id(op), number)
    taken = [any(first.get(id(op), i) != i for op in _replaced(match)) for i, match in enumerate(matches)]
    return [replace(fact, beside=_BESIDE if other else "") for fact, other in zip(facts, taken, strict=True)]


_BESIDE = "the same winners are proven by another product, to whose logits this one adds its own"


def _replaced(match: HeadMatch) -> list[Op]:
    """The operations whose results a proof replaces."""
    tail = match.tail_of("bounded")
    return [*(winner.op for winner in match.winners), *([] if tail is None else tail.ends)]


def _uncertifiable(match: HeadMatch, target: Target) -> str:
    """Why its winners cannot be proven; or ''."""
    unknown = next(filter(None, (why_unbounded(winner.compared) for winner in match.winners)), "")
    if unknown:
        return f"no bounds are known of {unknown}, which stands between the logits and what is compared"
    if may_lose_its_rounding(match.dot, target):
        narrow = "bfloat16" in target.drops_roundings
        return (
            f"its input is computed in bfloat16{'' if narrow else ' and its result is float32'}, so XLA may multiply "
            "that input as it was before it was rounded (round it with astype behind float32 code"
            f"{'' if narrow else ', or let the result be bfloat16'})"
        )
    # Products of two bfloat16 numbers are exact in float32, so one pass of a matrix unit is enough.
    narrow = match.dot.weight.dtype == match.dot.x.dtype == "bfloat16"
    return why_sums_are_unbounded(match.dot, len(match.rows), target, exact_terms=narrow)


def _read_on(match: HeadMatch) -> str:
    """What of its best few goes on into code that is not followed: the numbers of rows, or values too; or ''."""
    if match.tail is not None:
        return ""
    several = [winner.op.results for winner in match.winners if winner.k > 1]
    if any(goes_on(values[0]) for values in several):
        return "values"
    return "rows" if any(goes_on(results[-1]) for results in several) else ""


def _read_alone(value: Value) -> bool:
    """Whether nothing else is computed from the argument behind a product's operand."""
    return len(value.uses) == 1 and (value.op is None or all(map(_read_alone, value.op.operands)))


def _is_aligned(winner: Winner) -> bool:
    """Whether something lies beside the rows that it compares, in their order."""
    wide = any(entry.index.shape[1] > 1 for entry in winner.region.captured)
    return wide or winner.noise is not None or winner.width != winner.region.products[0].rows


def _keeps_minus_infinity(region: Region) -> bool:
    below = [np.asarray(-np.inf), *(np.asarray(0.0) for _ in region.parameters)]
    return bool(np.all(region.expression.evaluate(below) == -np.inf))


def head_looks(match: HeadMatch, strongest: float, wanted: Collection[str]) -> list[Look]:
    """The second moment of its input, how often each of its rows wins, and some rows to try a predictor on."""
    dot = match.dot
    if dot.weight.layers is not None:
        return [moment_look(match)]
    looks = [moment_look(match), Look(Probe("winners", match.winner_key, (dot.rows,), dot.batch), dot, count_winners)]
    if moment_key(match) in wanted:
        inputs = Probe("inputs", moment_key(match), (dot.batch, dot.d), dot.batch, kept=ROWS)
        looks.append(Look(inputs, dot, partial(some_rows, count=dot.batch)))
    return looks


def no_trial(match: HeadMatch) -> None:
    """Predictors are not tried on heads: what they miss is measured against dense winners."""
