"""Replace, the fourth stage: a planned site becomes a replacement, on every shard by itself or whole."""

from __future__ import annotations

from dataclasses import replace

from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.mesh.replace_sharded import replace_sharded
from hire_compiler.passes.mesh.site_layouts import Placement
from hire_compiler.passes.plan.site_plan import LeftDense, SitePlan
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.target import Target
from hire_compiler.sharding.layout import SiteLayout


def replace_site(
    match: SiteMatch,
    plan: SitePlan,
    target: Target,
    placement: Placement | None = None,
    layout: SiteLayout | LeftDense | None = None,
) -> Replacement:
    """The replacement of a planned site.

    Args:
      placement: on several devices, where the arguments of the program lie.
      layout: how the site lies on them, or why its shards cannot work by themselves.
    """
    if placement is None:
        return kind_of(match).replace(match, plan, target)
    if not isinstance(layout, SiteLayout):
        # Every device would gather each piece of what is split over all of them.
        return kind_of(match).replace(match, plan, replace(target, piece_bytes=0))
    return replace_sharded(match, plan, layout, placement, target)
