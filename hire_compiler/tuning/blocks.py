"""What is tried on feed-forward blocks: which predictors, and how many neurons they need for a recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import jax
import numpy as np

from hire_compiler.calibration.trials import Candidate, run_trials
from hire_compiler.config.predictors import LowRank, Predictor, Quantized
from hire_compiler.config.rules import Rule
from hire_compiler.errors import CaptureError, ConfigError
from hire_compiler.learned.calibration import FEW_ROWS, Calibration, trial_key
from hire_compiler.learned.trial import SHARES, Trial
from hire_compiler.passes.plan.exact_default import exact_rule
from hire_compiler.passes.plan.neurons import chosen_group
from hire_compiler.runtime.count_active import TOGETHER
from hire_compiler.runtime.target import target_for
from hire_compiler.tuning.settings import label
from hire_compiler.tuning.timed import DENSE
from hire_compiler.tuning.tuned import DEFAULT, Tried
from hire_compiler.tuning.tuned_sites import Block

RANKS = (1 / 16, 1 / 8, 3 / 16, 1 / 4)  # of the width of the input
EXACT = "exact, only zeros skipped"


def never_tried(block: Block, *, by_recall: bool) -> str:
    """Why nothing is tried on a block, whatever calibration would say; or ''."""
    most = Rule(kind="ffn", dense=True).max_batch
    if block.facts.narrow or block.match.quantiser is not None:
        return "blocks stored in few bits are not tuned yet"
    if block.site.batch > most:
        return f"a call gives it {block.site.batch} rows, more than the {most} that are worth a choice"
    if by_recall and not (block.facts.exact_zeros or block.facts.unproven_zeros):
        return "no neuron is exactly zero, so all of them are read; what fewer cost is a matter of tune(loss=…)"
    return ""


def left_alone(block: Block, *, by_recall: bool) -> str:
    """Why nothing is tried on a block, which keeps the exact default; or ''."""
    if why := never_tried(block, by_recall=by_recall):
        return why
    if block.facts.activity is None:
        return f"calibration did not look at it: {block.facts.learned.skipped or 'forward does not reach it'}"
    return ""


def untried(block: Block, why: str) -> Tried:
    """The line of a block that is left alone."""
    return Tried(site=block.site.id, name=DEFAULT, chosen=True, why=why)


def exact_settings(block: Block) -> Iterator[Tried]:
    """What changes nothing."""
    yield Tried(site=block.site.id, name=DENSE)
    rule = exact_rule(block.site, block.facts)
    if rule is not None:
        yield Tried(site=block.site.id, name=EXACT, rule=replace(rule, path=_path(block)))


def predictors(block: Block) -> dict[str, Predictor]:
    """What is tried on a block, by family and rank."""
    ranks = sorted({max(8, round(share * block.site.d / 8) * 8) for share in RANKS})
    tried: list[tuple[str, Predictor]] = [
        ("LowRank, int8", LowRank(r, dtype="int8")) for r in ranks if r < block.site.d
    ]
    if block.site.d % 64 == 0:
        tried.append(("Quantized(4)", Quantized(4, columns=64)))
    tried.append(("Quantized(8)", Quantized(8)))
    return {f"{family}|{number}": predictor for number, (family, predictor) in enumerate(tried)}


def rows_of(block: Block, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Held-out rows of a block's input.

    Raises:
      CaptureError: ``forward`` does not read the block's weights.
      ConfigError: there are too few.
    """
    rows = inputs.get(block.key)
    if rows is None:
        raise CaptureError(
            f"forward has no block that reads {block.key.partition('|')[0]}, as {block.site.id} of the step does; take "
            "the weights as an argument of the same name in both"
        )
    if rows.shape[-2] < FEW_ROWS:
        raise ConfigError(
            f"{rows.shape[-2]} held-out rows reach {block.site.id}, too few to measure: half of the batches are held "
            f"out, so give {2 * FEW_ROWS} rows or more in all"
        )
    return rows


def tried_rule(block: Block, predictor: Predictor) -> Rule:
    """A rule for a predictor on one block, whose size of group is settled; of the number of neurons nothing is said.

    Without a common path, because what is measured is a choice among all neurons.
    """
    rule = Rule(kind="ffn", path=_path(block), predictor=predictor, density=1.0, common=0)
    return replace(rule, group=chosen_group(rule, block.site, block.facts))


def trial_of(
    block: Block, rule: Rule, rows: np.ndarray, values: Sequence[Any], calibration: Calibration
) -> tuple[str, Trial]:
    """What a rule's predictor finds on held-out rows, and under which name a calibration keeps it."""
    together = next(n for n in TOGETHER if n >= block.site.batch)
    candidate, key = Candidate(block.site, block.facts, block.match, rule), trial_key(block.key, rule)
    target = target_for(jax.default_backend())
    learned = run_trials([candidate], {block.key: rows}, values, calibration, target, (together,))
    return key, learned.trials[key]


def with_neurons(block: Block, rule: Rule, share: float) -> Rule:
    """The rule with a share of the neurons, in whole groups: no fewer than the author keeps."""
    group, kept = rule.group or 1, 0 if block.facts.choice is None else block.facts.choice.kept
    neurons = min(ceil(max(ceil(share * block.site.width), kept) / group) * group, block.site.width)
    return replace(rule, density=None, candidates=neurons)


def judged(block: Block, family: str, rule: Rule, trial: Trial, recall: float) -> Tried:
    """A predictor with the fewest neurons that meet the recall; with a reason if none do."""
    assert rule.predictor is not None
    enough = trial.enough(recall, block.site.batch)
    share = enough or SHARES[-1]
    found, settled = trial.at(share, block.site.batch), with_neurons(block, rule, share)
    return Tried(
        site=block.site.id,
        name=label(rule.predictor),
        family=family.partition("|")[0],
        rule=settled,
        candidates=settled.candidates or 0,
        recall=found[0] if found else 0.0,
        why="" if enough else f"its recall falls short with {settled.candidates} neurons",
    )


def _path(block: Block) -> str:
    return f"^{block.site.id}$"
