"""How the neurons of a block are cut up, as calibration suggests: the size of a group, and the common path. Pure.

The numbers behind both are measured frequencies (:mod:`hire_compiler.learned.activity`); without a calibration there is
no common path, and groups have the size that a rule or the default says.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from hire_compiler.config.predictors import Exact
from hire_compiler.config.rules import Rule
from hire_compiler.errors import ConfigError
from hire_compiler.learned.activity import Activity
from hire_compiler.passes.plan.predictor_bytes import scanned_bytes
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.reports.report import Site

DEFAULT_GROUP = 8
LEAST_COMMON = 1 / 8  # of the candidates: a shorter common path is not worth a copy of the weights


def union_densities(site: Site, facts: SiteFacts) -> tuple[tuple[int, float], ...]:
    """By size of group, the share of all groups that one call touches; empty without a calibration.

    Only groups that do not cut those which the model itself keeps.
    """
    if facts.activity is None or not facts.neurons:
        return ()
    own = 1 if facts.choice is None else facts.choice.group
    sizes = [group for group in facts.activity.groups if group % own == 0 and site.width % group == 0]
    return tuple((group, facts.activity.union(group, site.batch)) for group in sizes)


def chosen_group(rule: Rule, site: Site, facts: SiteFacts) -> int:
    """How many adjacent neurons are chosen together: as the rule says, else what reads the fewest bytes.

    Without a calibration zeros are looked for one by one (nothing says that they come in groups), and everything else
    in groups of 8.
    """
    if not facts.neurons:
        return 1
    if rule.group is not None:
        return rule.group
    densities = union_densities(site, facts)
    if densities:
        neuron = sum(facts.weight_bytes) / site.width
        read = facts.costs.read_bytes
        return min(densities, key=lambda pair: pair[1] * site.width * (neuron + read / pair[0]))[0]
    own = 1 if facts.choice is None else facts.choice.group
    if isinstance(rule.predictor, Exact) or rule.certify:
        return own
    return next((g for g in (DEFAULT_GROUP, 4, 2) if g % own == 0 and site.width % g == 0), own)


def with_group(rule: Rule, site: Site, facts: SiteFacts) -> Rule:
    """The rule with its size of group decided."""
    return replace(rule, group=chosen_group(rule, site, facts))


def common_neurons(rule: Rule, site: Site, facts: SiteFacts, group: int, candidates: int, where: str) -> int:
    """How many of the candidates are neurons that every call computes.

    Left to calibration, those are taken that cost less when they are always read than when they are predicted first:
    a neuron that a call needs with probability F saves its row of the predictor and wastes 1 − F of its rows.

    Raises:
      ConfigError: the rule asks for what cannot be; begins with ``where``.
    """
    if not facts.neurons or rule.common == 0:
        return 0
    refusal = no_common_path(rule, facts)
    if rule.common is not None:
        if refusal:
            raise ConfigError(f"{where}: common={rule.common} is impossible: {refusal}")
        if rule.common > candidates:
            raise ConfigError(
                f"{where}: the common path of {rule.common} neurons does not fit in the {candidates} candidates, which "
                "include it"
            )
        common = ceil(rule.common / group) * group
        if common >= site.width:
            raise ConfigError(f"{where}: common={rule.common} leaves nothing to predict; use dense=True")
        return min(common, candidates)
    if refusal:
        return 0
    assert facts.activity is not None
    assert rule.predictor is not None
    needed = 1 - (1 - facts.activity.frequency(group)) ** site.batch
    neuron = sum(facts.weight_bytes) / site.width
    predicted = scanned_bytes(rule.predictor, site, where) / site.width
    always = (1 - needed) * neuron < predicted  # [… groups]
    common = int(always.sum(axis=-1).min()) * group
    common = min(common, candidates - group)
    return common if common >= LEAST_COMMON * candidates and candidates < site.width else 0


def no_common_path(rule: Rule, facts: SiteFacts) -> str:
    """Why there can be none; or ''."""
    if isinstance(rule.predictor, Exact) or rule.certify:
        return "nothing is predicted that it could save, zeros are known from the gate or proven"
    if facts.narrow:
        return "its rows are read as they are stored, so none are laid out anew"
    if facts.activity is None:
        return "which neurons are active most is not known; pass calibration=hire.calibrate(…) of feed-forward sites"
    if facts.shards > 1:
        return f"each of the {facts.shards} shards would need one of its own"
    return ""


def common_order(activity: Activity, group: int, common: int) -> np.ndarray:
    """The neurons, the common path first: int32 ``[…, width]``; both parts in the order of the model.

    The common path takes the groups that were active most often.
    """
    frequency = activity.frequency(group)
    first = np.argsort(-frequency, axis=-1, kind="stable")[..., : common // group]
    chosen = np.zeros(frequency.shape, bool)
    np.put_along_axis(chosen, first, True, axis=-1)
    groups = np.argsort(~chosen, axis=-1, kind="stable")
    neurons = groups[..., None] * group + np.arange(group)
    return neurons.reshape(*frequency.shape[:-1], activity.width).astype(np.int32)
