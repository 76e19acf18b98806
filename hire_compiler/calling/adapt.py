"""A default that does not pay is given up: what it cannot know beforehand, a step counts, and is planned anew once.

Whether neurons are sparse, or winners stand out from the rest, no graph tells. The step counts how often its proofs
hold, so after some calls it is known. This is the decision; :class:`hire_compiler.calling.transformed.HireFunction`
carries it out, in the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from hire_compiler.reports.findings import THE_DEFAULT, Certificate, Decision, Findings

FIRST_CALLS = 64  # that are counted before anything is given up
_LOOKING = 0.08  # share of a dense block that it costs to look for zeros in vain, measured (docs/ffn.md)


def watches(found: Findings) -> bool:
    """Whether there is anything that may be given up: rules are obeyed, whatever they cost."""
    return any(_is_default(decision) for decision in found.decisions)


def given_up(found: Findings, held: Mapping[str, float]) -> dict[str, str]:
    """By site that cost more than it saved so far, why it is left dense from now on.

    Args:
      found: decisions and certificates.
      held: by site the share of its runs in which the proof of every row held.
    """
    proofs = {proof.site: proof for proof in found.certificates}
    kinds = {site.id: site.kind for site in found.sites}
    return {
        d.site: _reason(proofs[d.site])
        for d in found.decisions
        if _is_default(d) and d.site in held and held[d.site] < least_share(kinds[d.site], d)
    }


def least_share(kind: str, decision: Decision) -> float:
    """The share of runs whose proofs have to hold for a site to read no more bytes than dense.

    Where a proof fails, a head has read what it reads to choose, and a block has looked, in vain.
    """
    saved = max(decision.dense_bytes - decision.sparse_bytes, 1)
    lost = decision.sparse_bytes if kind == "head" else _LOOKING * decision.dense_bytes
    return lost / (lost + saved)


def type_of(value: Any) -> jax.ShapeDtypeStruct:
    """The type of an array as a compiled program is looked up by it."""
    aval = jax.typeof(value)
    placed = getattr(value, "sharding", None) if getattr(value, "committed", False) else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=placed, weak_type=aval.weak_type)


def _is_default(decision: Decision) -> bool:
    return decision.action == "rewritten" and decision.reason.startswith(THE_DEFAULT)


def _reason(proof: Certificate) -> str:
    return (
        f"{THE_DEFAULT} was tried: its proof held for {proof.proven} of {proof.rows} rows, which cost more than it "
        "saved; dense since"
    )
