"""Plan, the third stage: sites, facts and rules become one decision a site. Pure, without IR."""

from __future__ import annotations

from collections.abc import Sequence

from hire_compiler.config.rules import Config
from hire_compiler.passes.plan.decide import decide_whole
from hire_compiler.passes.plan.plan_shards import plan_on_mesh
from hire_compiler.passes.plan.replay import replay
from hire_compiler.passes.plan.saved_plan import plan_of
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts, SitePlan
from hire_compiler.reports.report import Site
from hire_compiler.sharding.layout import SiteLayout


def plan(
    sites: Sequence[Site],
    facts: Sequence[SiteFacts],
    config: Config,
    platform: str,
    layouts: Sequence[SiteLayout | LeftDense] = (),
    *,
    anew: bool = False,
) -> tuple[SitePlan, ...]:
    """Decide every site: as a kept plan says, by rules for shards, or by rules.

    Args:
      layouts: on a mesh, how each site lies on it, or why its shards cannot work by themselves.
      anew: decide by rules, although the configuration keeps a plan.

    Raises:
      ConfigError: a rule, or the kept plan, asks a site for something impossible; names both.
    """
    kept = None if anew else plan_of(config)
    if kept is not None:
        return replay(kept, platform, sites, facts, layouts)
    if layouts:
        return plan_on_mesh(sites, facts, layouts, config)
    return tuple(decide_whole(site, fact, config) for site, fact in zip(sites, facts, strict=True))
