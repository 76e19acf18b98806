"""The kinds of sites: one row each, with what every stage does with it. A row that lacks a column is an error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from hire_compiler.graph.graph import Op
from hire_compiler.passes.kinds.experts_facts import experts_facts, experts_looks, no_experts_trial
from hire_compiler.passes.kinds.ffn_facts import ffn_facts, ffn_looks, tried_block
from hire_compiler.passes.kinds.head_facts import head_facts, head_looks, no_trial
from hire_compiler.passes.kinds.local_experts import EXPERTS_ON_MESH
from hire_compiler.passes.kinds.local_ffn import FFN_ON_MESH
from hire_compiler.passes.kinds.local_head import HEAD_ON_MESH
from hire_compiler.passes.kinds.local_match import OnMesh
from hire_compiler.passes.kinds.probes import Look
from hire_compiler.passes.plan.site_plan import SiteFacts, SitePlan
from hire_compiler.passes.replace.experts import replace_experts
from hire_compiler.passes.replace.ffn import replace_ffn
from hire_compiler.passes.replace.head import replace_head
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.patterns.experts.experts import ExpertsMatch, match_experts
from hire_compiler.patterns.ffn.ffn import FfnMatch, match_ffn
from hire_compiler.patterns.head.head import HeadMatch, match_head
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.runtime.target import Target

M = TypeVar("M", bound=SiteMatch)
M_contra = TypeVar("M_contra", bound=SiteMatch, contravariant=True)


class Replacer(Protocol[M_contra]):
    """From a match and its plan to the JAX functions that take its place."""

    def __call__(self, match: M_contra, plan: SitePlan, target: Target, *, local: bool = False) -> Replacement:
        """The replacement; ``local``: the match is restated in the sizes of one shard."""


@dataclass(frozen=True)
class Kind(Generic[M]):
    """One kind of site.

    Attributes:
      match: tries to match a product; raises ``NoMatch``.
      facts: what its plan must know, for all sites of the kind in a program.
      looks: what a calibration looks at; the second moment of its input, if predictors learn from it.
      tried: the feed-forward block on which calibration can try predictors, if it is one.
      replace: what takes its place.
      on_mesh: its shards.
    """

    match: Callable[[Op, Provenance, RegionReader], M]
    facts: Callable[[Sequence[M], Target], list[SiteFacts]]
    looks: Callable[[M, float, Collection[str]], list[Look]]
    tried: Callable[[M], FfnMatch | None]
    replace: Replacer[M]
    on_mesh: OnMesh[M]


# In this order they are tried on every product.
KINDS: dict[str, Kind[Any]] = {
    ExpertsMatch.kind: Kind[ExpertsMatch](
        match_experts, experts_facts, experts_looks, no_experts_trial, replace_experts, EXPERTS_ON_MESH
    ),
    FfnMatch.kind: Kind[FfnMatch](match_ffn, ffn_facts, ffn_looks, tried_block, replace_ffn, FFN_ON_MESH),
    HeadMatch.kind: Kind[HeadMatch](match_head, head_facts, head_looks, no_trial, replace_head, HEAD_ON_MESH),
}


def kind_of(match: SiteMatch) -> Kind[Any]:
    """The row of a match's kind."""
    return KINDS[match.kind]
