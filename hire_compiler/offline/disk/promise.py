"""How near to its original an artifact has to be, as it was planned; ``verify`` holds it to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt

import jax.numpy as jnp

from hire_compiler.comparison.difference import Difference
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.reports.report import Decision, Report

# What an approximate artifact has to reach where nothing was measured when it was planned.
AGREEMENT, RECALL, ERROR = 0.9, 0.9, 0.1
SLACK = 1.5  # other inputs than those of the calibration may be off by half as much again


@dataclass(frozen=True)
class Promise:
    """What the results of an artifact for one platform have to fulfil.

    Attributes:
      exact: it calls itself exact or certified: all integers are equal, and floats up to the rounding of sums.
      tolerance: the largest error of a float result, relative to its largest value, that rounding explains.
      agreement: the share of integers that are equal.
      recall: of logits that are predicted: the share of the original's best (1, 8 and 64) among the artifact's.
      error: of other floats of an approximate artifact: the error relative to the values (root mean squares).
      logits: widths of the vocabularies whose logits are predicted.
      up_to_rounding: a certificate that does not decide between values closer than rounding.
    """

    exact: bool
    tolerance: float
    agreement: float
    recall: float
    error: float
    logits: tuple[int, ...] = ()
    up_to_rounding: bool = False

    def broken_by(
        self, differences: Sequence[Difference], tolerance: float | None, agreement: float | None
    ) -> tuple[str, ...]:
        """Everything that an artifact did not keep, a sentence each.

        Args:
          differences: what was found, one a result.
          tolerance, agreement: what the user allows in the place of what was planned; None for that.
        """
        return tuple(filter(None, (self._broken(d, tolerance, agreement) for d in differences)))

    def _broken(self, found: Difference, tolerance: float | None, agreement: float | None) -> str:
        return self._integers(found, agreement) if found.total else self._floats(found, tolerance)

    def _integers(self, found: Difference, agreement: float | None) -> str:
        wanted = self.agreement if agreement is None else agreement
        if found.equal / found.total >= wanted:
            return ""
        why = self._calls if agreement is None else "--agreement"
        if self.exact and self.up_to_rounding:
            why += ", up to rounding: near ties may change places"
        return f"{found.name}: {found.equal} of {found.total} integers agree, and {wanted:.2%} must ({why})"

    def _floats(self, found: Difference, tolerance: float | None) -> str:
        if self.exact or tolerance is not None:
            wanted = self.tolerance if tolerance is None else tolerance
            if found.relative <= wanted:
                return ""
            why = f"{self._calls}, and rounding explains no more" if tolerance is None else "--tolerance"
            return f"{found.name}: off by {found.relative:.3g} of its largest value, allowed are {wanted:.3g} ({why})"
        if found.recall and found.width in self.logits:
            k, share = min(found.recall.items(), key=lambda item: item[1])
            return "" if share >= self.recall else f"{found.name}: recall@{k} is {share:.4f}, planned {self.recall:.2f}"
        if found.rms <= self.error:
            return ""
        return f"{found.name}: off by {found.rms:.2%} (root mean squares), planned were at most {self.error:.2%}"

    @property
    def _calls(self) -> str:
        return "the artifact calls itself exact or certified" if self.exact else "the artifact is approximate"


def promised(report: Report, results: Sequence[TensorSpec]) -> Promise:
    """What a plan promises.

    Args:
      report: of the rewrite.
      results: types of what the program returns.
    """
    sites = {site.id: site for site in report.sites}
    rough = [d for d in report.rewritten if not d.exactness.startswith(("exact", "certified"))]
    blocks = [d for d in rough if sites[d.site].kind == "ffn"]
    widest = max((max(site.d, site.width) for site in report.sites), default=1)
    floats = [spec.dtype for spec in results] + [site.dtype for site in report.sites]
    coarsest = max((_epsilon(dtype) for dtype in floats), default=0.0)
    changed = sum(sites[d.site].repeat for d in report.rewritten)
    # Each site rounds its result, and sums in another order; errors of many sites add up like a random walk.
    rounding = (4 * coarsest + 4 * _epsilon("float32") * sqrt(widest)) * sqrt(max(changed, 1))
    return Promise(
        exact=not rough,
        tolerance=rounding,
        agreement=AGREEMENT if rough else 1.0,
        recall=RECALL if rough else 1.0,
        logits=tuple(sorted({sites[d.site].width for d in rough if sites[d.site].kind == "head"})),
        up_to_rounding=any("up to rounding" in d.exactness for d in report.rewritten),
        error=max(_planned_error(blocks, {d.site: sites[d.site].repeat for d in blocks}), rounding),
    )


def _planned_error(blocks: Sequence[Decision], repeats: dict[str, int]) -> float:
    """Errors of blocks that follow each other are independent, so their squares add up."""
    if not blocks:
        return ERROR
    errors = [(ERROR if d.error is None else d.error, repeats[d.site]) for d in blocks]
    return SLACK * sqrt(sum(prod((error, error, count)) for error, count in errors))


def _epsilon(dtype: str) -> float:
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(jnp.dtype(dtype), jnp.floating) else 0.0
