"""What happens to sites that no rule selects: only what never changes the answer, else nothing, and why not."""

from __future__ import annotations

from math import ceil

from hire_compiler.config import Exact, Quantized, Rule
from hire_compiler.passes.site_plan import SiteFacts
from hire_compiler.report import Site


def exact_rule(site: Site, facts: SiteFacts) -> Rule | None:
    """The rule for a site that the user's rules leave out: only what never changes the answer."""
    if site.kind == "ffn":
        return _exact_choice_rule(site, facts)
    candidates = max(128, 4 * facts.top_k)
    if site.kind != "head" or not facts.winners_only or facts.uncertifiable or candidates * 4 > site.width:
        return None
    if facts.devices > 1:
        return None  # left to XLA's partitioner, the gathers may cost more than the product
    strict = set(site.consumers) <= {"argmax", "sampling", "max"}
    predictor = Quantized(bits=8)
    return Rule(kind="head", predictor=predictor, candidates=candidates, certify="strict" if strict else True)


def _exact_choice_rule(site: Site, facts: SiteFacts) -> Rule | None:
    """``Exact()`` for a block that chooses neurons itself, with room for more than it is likely to keep."""
    choice = facts.choice
    if choice is None or not choice.by_gate or facts.devices > 1:
        return None
    share = choice.kept / site.width if choice.kept else 1.25 * choice.share
    union = site.width * (1 - (1 - min(share, 1.0)) ** site.batch)  # of the rows of a batch, were they independent
    room = ceil((union + 4 * union**0.5 if site.batch > 1 or not choice.kept else union) / choice.group) * choice.group
    if 4 * room > 3 * site.width:
        return None
    return Rule(kind="ffn", predictor=Exact(), candidates=room, group=choice.group)


def why_no_rule(site: Site, facts: SiteFacts) -> str:
    """Why a site that no rule selects, and no default, is left as it is."""
    if site.kind == "head" and not facts.winners_only:
        read = ", ".join(site.consumers)
        return f"logits escape ({read}), so nothing about them can be proven, and no rule asks to approximate them"
    if site.kind == "head" and facts.devices > 1:
        return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
    if site.kind == "head" and facts.uncertifiable:
        return f"{facts.uncertifiable}, and no rule asks to approximate it"
    if site.kind == "ffn" and facts.choice is not None:
        if facts.devices > 1:
            return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
        if not facts.choice.by_gate:
            return f"its {site.selection} reads both products, so none can be skipped exactly, and no rule predicts it"
        return (
            f"the {site.batch} rows of a call keep too many of the {site.width} neurons between them for a skip to pay"
        )
    if site.kind == "ffn" and not facts.exact_zeros:
        return f"{site.activation} is not sparse (no neuron is exactly zero), and no rule asks to approximate it"
    return "no rule selects it, and nothing approximate is done unasked"
