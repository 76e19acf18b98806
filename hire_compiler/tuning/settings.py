"""What is tried on a head: predictors from the cheapest on, and numbers of candidates."""

from __future__ import annotations

from dataclasses import dataclass

from hire_compiler.config.predictors import Cascade, LowRank, Predictor, Quantized
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.reports.report import Site

CANDIDATES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
RANKS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)  # of the width of the input
SURVIVORS = 8192
DOMINATED = (
    1.5  # what reads so many times the bytes of another setting that meets the budget is not tried, or not timed
)


@dataclass(frozen=True)
class Family:
    """Predictors of one kind, from the cheapest, which finds least, to the dearest.

    Attributes:
      predictors: ascending in rank.
      beside: pays only at a smaller rank than this other family needs, since it reads more at the same; or ''.
    """

    predictors: tuple[Predictor, ...]
    beside: str = ""


INT8 = "LowRank, int8"


def families(site: Site, facts: SiteFacts, certified: bool) -> dict[str, Family]:
    """What is tried on a head; where it is certified, its int8 copy is read anyway."""
    ranks = sorted({max(16, round(share * site.d / 32) * 32) for share in RANKS})
    ranks = [rank for rank in ranks if rank < site.d]
    tried = {INT8: Family(tuple(LowRank(rank, dtype="int8") for rank in ranks))}
    if site.width >= 4 * SURVIVORS:
        fine, low = Quantized(8), [rank for rank in ranks if rank <= 0.4 * site.d]
        tried["Cascade"] = Family(
            tuple(Cascade(LowRank(rank, dtype="int8"), fine, survivors=SURVIVORS) for rank in low), beside=INT8
        )
    tried["LowRank, bfloat16"] = Family(tuple(LowRank(rank) for rank in ranks), beside=INT8)
    most = facts.costs.unpacked_rows
    if site.d % 64 == 0 and (most is None or site.batch <= most):
        tried["Quantized(4)"] = Family((Quantized(4, columns=64),))
    if not certified:
        tried["Quantized(8)"] = Family((Quantized(8),))
    return {name: family for name, family in tried.items() if family.predictors}


def label(predictor: Predictor) -> str:
    """A short name."""
    if isinstance(predictor, LowRank):
        return f"LowRank({predictor.rank}, {predictor.dtype})"
    if isinstance(predictor, Cascade):
        return f"{label(predictor.coarse)} → {predictor.fine.bits} bits, {predictor.survivors}"
    return str(predictor)


def candidate_counts(site: Site, top: int) -> tuple[int, ...]:
    """Numbers of candidates that are tried where the best ``top`` rows are read, ascending."""
    return tuple(count for count in CANDIDATES if 2 * top <= count <= site.width // 4)
