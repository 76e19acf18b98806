"""What happens to sites that no rule selects: only what never changes the answer, else nothing, and why not."""

from __future__ import annotations

from hire_compiler.config.predictors import Exact, Quantized
from hire_compiler.config.rules import Rule
from hire_compiler.graph.weight import bits
from hire_compiler.passes.plan.budgets import exact_budgets, used_experts, why_no_budget, worth_skipping
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.reports.findings import Site, megabytes

UNPROVEN = "its zeros do not follow from one product alone, so none can be skipped exactly"


def exact_rule(site: Site, facts: SiteFacts) -> Rule | None:
    """The rule for a site that the user's rules leave out: only what never changes the answer."""
    if facts.adapted is not None and not facts.adapted.budgets:
        return None
    if facts.experts:
        return Rule(kind="experts", predictor=Exact()) if not _no_experts(site, facts) else None
    if facts.neurons:
        return Rule(kind="ffn", predictor=Exact()) if _skips_exactly(facts) else None
    return _certified(site, facts) if facts.logits else None


def _certified(site: Site, facts: SiteFacts) -> Rule | None:
    """The rule that proves a head's winners, where that is possible and worth it."""
    candidates = _wanted(facts)
    provable = facts.winners_only or (facts.compared and not facts.seldom)
    if not provable or facts.uncertifiable or candidates * 4 > site.width:
        return None
    if not worth_choosing(site, facts) or _copied_too_often(site, facts):
        return None
    if facts.devices > 1:
        return None  # left to XLA's partitioner, the gathers may cost more than the product
    if _near_ties_decide(facts):
        return None
    strict = bool(facts.compared) or facts.top_k == 1 or facts.drawn is not None or bool(facts.read_on)
    predictor = Quantized(bits=8)
    return Rule(kind="head", predictor=predictor, candidates=candidates, certify="strict" if strict else True)


def _near_ties_decide(facts: SiteFacts) -> bool:
    """Whether code that is not followed reads values of the best few, which a proof knows up to a rounding only.

    Between shards these are proven up to a rounding all the same, as they always were.
    """
    return facts.read_on == "values" and facts.shards == 1


def _wanted(facts: SiteFacts) -> int:
    """How many candidates a proof gets by default."""
    return max(128 * max(facts.compared, 1), 4 * facts.top_k)


def _skips_exactly(facts: SiteFacts) -> bool:
    """Whether what the gate zeroes can be skipped, and is more than stays in the cache anyway."""
    if facts.devices > 1 or facts.unsure_cut:
        return False
    if facts.choice is not None:
        return facts.choice.by_gate
    return facts.exact_zeros and worth_skipping(facts)


def worth_choosing(site: Site, facts: SiteFacts) -> bool:
    """Whether reading an int8 copy instead of the head saves more than choosing costs, whatever the size."""
    saved = sum(facts.weight_bytes) * (1 - 8 / bits(site.dtype))
    return saved >= facts.costs.choice_bytes * site.batch


def _copied_too_often(site: Site, facts: SiteFacts) -> bool:
    """Whether the rows of a batch read an int8 copy of a float32 head more often than pays.

    Not where the author's code sorts the vocabulary, which costs more than the product.
    """
    most = facts.costs.copied_rows
    return most is not None and "sort" not in site.consumers and site.dtype == "float32" and site.batch > most


def why_no_rule(site: Site, facts: SiteFacts) -> str:
    """Why a site that no rule selects, and no default, is left as it is."""
    if facts.experts:
        known = _no_experts(site, facts)
    else:
        known = _no_logits(site, facts) if facts.logits else _no_neurons(site, facts) if facts.neurons else ""
    tried = facts.adapted.said if facts.adapted is not None else ""
    return tried or known or "no rule selects it, and nothing approximate is done unasked"


def _no_logits(site: Site, facts: SiteFacts) -> str:
    if not (facts.winners_only or facts.compared):
        if facts.blocked:
            return f"{facts.blocked}, and no rule asks to approximate it"
        read = ", ".join(site.consumers)
        return f"logits escape ({read}), so nothing about them can be proven, and no rule asks to approximate them"
    if _near_ties_decide(facts):
        blocked = f" ({facts.blocked})" if facts.blocked else ""
        return (
            f"what is made of its best {facts.top_k} cannot be followed{blocked}, so a rounding of their values could "
            "change it, and no rule asks to approximate it"
        )
    if facts.seldom:
        return (
            f"{facts.seldom} stands before its token, which is seldom proven then; no rule asks for it "
            '(Rule(kind="head", predictor=Quantized(bits=8), candidates=256, certify="strict") would)'
        )
    if facts.devices > 1:
        return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
    if facts.uncertifiable:
        return f"{facts.uncertifiable}, and no rule asks to approximate it"
    if facts.top_k * 4 > site.width:
        return (
            f"the best {facts.top_k} of its {site.width} rows are wanted: few can be left out, and no rule asks for it"
        )
    if _wanted(facts) * 4 > site.width:
        return f"its {site.width} rows are too few to choose {_wanted(facts)} candidates among, and no rule asks for it"
    if worth_choosing(site, facts) and _copied_too_often(site, facts):
        return (
            f"an int8 copy would be read once for each of {site.batch} rows, which takes longer than one float32 "
            "product on some CPUs, and no rule asks for it"
        )
    if worth_choosing(site, facts):
        return ""
    return (
        f"too small: reading all {megabytes(sum(facts.weight_bytes))} is faster than selecting candidates, and no "
        "rule asks for it"
    )


def _no_neurons(site: Site, facts: SiteFacts) -> str:
    if facts.choice is not None and facts.devices > 1:
        return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
    if facts.choice is not None and not facts.choice.by_gate:
        return f"its {site.selection} reads both products, so none can be skipped exactly, and no rule predicts it"
    if facts.unproven_zeros:
        return f"{UNPROVEN}, and no rule asks to approximate it"
    if facts.unsure_cut:
        return (
            f"a rounding may decide which of its neurons count ({site.selection or site.activation}), and XLA may "
            "drop roundings to bfloat16 of its input or of its gate, so other neurons might count "
            '(Rule(kind="ffn", predictor=Exact()) takes that risk)'
        )
    if not facts.exact_zeros and facts.seldom_zeros:
        return (
            f"{site.activation} is exactly zero far below zero only, which may be seldom, and no rule asks to skip it "
            '(Rule(kind="ffn", predictor=Exact()) would)'
        )
    if not facts.exact_zeros:
        return f"{site.activation} is not sparse (no neuron is exactly zero), and no rule asks to approximate it"
    if worth_skipping(facts):
        return ""
    skipped = sum(facts.weight_bytes[1:])
    return f"the {skipped} bytes that could be skipped {facts.costs.worth_reason}, and no rule asks to rewrite it"


def _no_experts(site: Site, facts: SiteFacts) -> str:
    """Why a layer of experts is left as it is, or ''."""
    if facts.devices > 1:
        return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
    if not exact_budgets(Rule(kind="experts", predictor=Exact()), site, facts, 1):
        return f"{why_no_budget(site, facts, 1)}, and no rule asks to rewrite it"
    skipped = round(sum(facts.weight_bytes) * (1 - used_experts(site, facts) / site.width))
    if skipped >= facts.costs.worth_bytes:
        return ""
    return f"the {skipped} bytes that could be skipped {facts.costs.worth_reason}, and no rule asks to rewrite it"
