"""Replace: from a match and its plan to the JAX functions that take its place."""

from __future__ import annotations

from hire_compiler.calibration import Calibration
from hire_compiler.passes.detect import Match
from hire_compiler.passes.replace_ffn import replace_ffn
from hire_compiler.passes.replace_head import replace_head
from hire_compiler.passes.replacement import Replacement
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.runtime.target import Target


def replace_site(
    match: Match, plan: SitePlan, calibration: Calibration | None, target: Target, *, local: bool = False
) -> Replacement:
    """The replacement of a planned site; ``local``: the match is restated in the sizes of one shard."""
    if isinstance(match, FfnMatch):
        return replace_ffn(match, plan, calibration, target)
    return replace_head(match, plan, calibration, target, local=local)
