"""The search behind ``tune`` for a recall: which settings are tried on each site, and which of them are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from hire_compiler.calibration.head_ranks import meets, ranks_of, winners_of
from hire_compiler.calibration.what_is_compared import Compared, as_it_is
from hire_compiler.comparison.turns import machine
from hire_compiler.config.predictors import Predictor
from hire_compiler.config.rules import Config, Rule
from hire_compiler.errors import CaptureError, ConfigError
from hire_compiler.files.progress import Progress
from hire_compiler.learned.calibration import Calibration
from hire_compiler.learned.trial import Trial, rows_needed
from hire_compiler.passes.plan.exact_default import exact_rule
from hire_compiler.passes.plan.predictor_bytes import read_bytes
from hire_compiler.tuning.blocks import (
    exact_settings,
    judged,
    left_alone,
    predictors,
    rows_of,
    trial_of,
    tried_rule,
    untried,
)
from hire_compiler.tuning.choice import choose
from hire_compiler.tuning.settings import DOMINATED, candidate_counts, families, label
from hire_compiler.tuning.timed import DENSE, time_settings
from hire_compiler.tuning.timed_blocks import time_blocks
from hire_compiler.tuning.tuned import DEFAULT, Tried, Tuned
from hire_compiler.tuning.tuned_sites import Block, Head

CERTIFIED = "certified, exact"
ENOUGH = 2  # times the rows that a recall needs; more say the same, and take longer
ESCAPING = 64  # best rows that count where the program reads all logits


class Interrupted(Exception):
    """Somebody wants no more than what is known."""


class Search:
    """What is tried, site by site."""

    def __init__(self, recall: float, memory: int | None, calibration: Calibration, told: Progress) -> None:
        self._recall, self._memory, self._calibration, self._told = recall, memory, calibration, told
        self._table: list[Tried] = []
        self._rows = 0
        self._notes: list[str] = []
        self._trials: dict[tuple[str, str], tuple[str, Trial]] = {}

    def head(
        self, head: Head, weight: jax.Array, inputs: Mapping[str, np.ndarray], compared: Compared = as_it_is
    ) -> None:
        """Try everything on one head, by recall of the best of what it compares.

        Raises:
          Interrupted: after what was known so far has been taken.
        """
        rows = self._enough(head, inputs)
        moment = self._calibration.moment(head.key)
        stopped, found = False, [*exact_settings_of(head)]
        certified, mean = len(found) > 1, None if moment is None else moment.mean
        try:
            for tried in self._predicted(head, weight, rows, mean, compared, certified):
                found.append(tried)
        except KeyboardInterrupt:
            stopped = True
            self._notes.append(f"interrupted: {head.site.id} was not tried with all predictors")
        fitting = [t for t in found if not t.why]
        try:
            timed = time_settings(head, weight, rows, moment, fitting, self._told, memory=self._memory)
        except KeyboardInterrupt:
            stopped, timed = True, fitting
            self._notes.append(f"interrupted: {head.site.id} was not timed, so it stays as it is")
        self._table += timed + [t for t in found if t.why]
        if stopped:
            raise Interrupted

    def blocks(self, some: Sequence[Block], inputs: Mapping[str, np.ndarray], values: Sequence[Any]) -> None:
        """Try everything on blocks that are alike.

        Raises:
          Interrupted: after what was known so far has been taken.
        """
        known = [block.knowing(self._calibration) for block in some]
        self._table += [untried(block, why) for block in known if (why := left_alone(block, by_recall=True))]
        tuned = [block for block in known if not left_alone(block, by_recall=True)]
        if not tuned:
            return
        found = [tried for block in tuned for tried in exact_settings(block)]
        try:
            for block in tuned:
                found += self._recalled(block, inputs, values)
            timed = time_blocks(tuned, [t for t in found if not t.why], inputs, values, self._told)
        except KeyboardInterrupt:
            names = f"{tuned[0].site.id} … {tuned[-1].site.id}" if len(tuned) > 1 else tuned[0].site.id
            self._notes.append(f"interrupted: {names} was not timed, so it stays as it is")
            self._table += found
            raise Interrupted from None
        self._table += timed + [t for t in found if t.why]

    def _recalled(self, block: Block, inputs: Mapping[str, np.ndarray], values: Sequence[Any]) -> Iterator[Tried]:
        rows, some = rows_of(block, inputs), predictors(block)
        self._rows = max(self._rows, rows.shape[-2])
        for done, (family, predictor) in enumerate(some.items()):
            self._told(f"{block.site.id}: {label(predictor)}", done, len(some))
            rule = tried_rule(block, predictor)
            key, trial = trial_of(block, rule, rows, values, self._calibration)
            tried = judged(block, family, rule, trial, self._recall)
            self._trials[tried.site, tried.name] = key, trial
            yield tried

    def _enough(self, head: Head, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = rows_of_head(head, inputs)
        needed = rows_needed(self._recall)
        if len(rows) < needed:
            raise ConfigError(
                f"{len(rows)} held-out rows cannot show a recall of {self._recall:g}: it takes {needed}, and half of "
                f"the batches are held out, so give {2 * needed} rows or more in all, or ask for less"
            )
        self._rows = min(len(rows), ENOUGH * max(needed, 256))
        order = np.random.default_rng(0).permutation(len(rows))
        return rows[np.sort(order[: self._rows])]

    def _predicted(
        self,
        head: Head,
        weight: jax.Array,
        rows: np.ndarray,
        moment: np.ndarray | None,
        compared: Compared,
        certified: bool,
    ) -> Iterator[Tried]:
        top = head.facts.top_k if head.facts.winners_only else ESCAPING
        counts, tried = candidate_counts(head.site, top), families(head.site, head.facts, certified)
        if not counts:
            return
        self._told(f"{head.site.id}: dense winners", 0, len(tried))
        winners = winners_of(weight, rows, top, compared)
        least: dict[str, int] = {}  # of each family, how many predictors from the cheapest on fall short
        met: list[Tried] = []
        for done, (name, family) in enumerate(tried.items()):
            some = family.predictors[: least.get(family.beside)]
            # What reads less may not fit into the memory that is left: then everything is tried.
            cheap = some if self._memory is not None else _not_dominated(head, some, counts[0], met)
            if len(cheap) < len(some):
                yield _untried(head, name, some[len(cheap)], counts[0])
            judged: dict[int, Tried] = {}

            def judge(i: int, name: str = name, cheap: Sequence[Predictor] = cheap, done: int = done) -> Tried:
                self._told(f"{head.site.id}: {label(cheap[i])}", done, len(tried))
                ranks = ranks_of(weight, cheap[i], moment, rows, winners, compared)
                found = self._judged(head, name, cheap[i], ranks, counts)
                met.extend([] if found.why else [found])
                return found

            low, high = 0, len(cheap)
            while low < high:  # they find more the larger they are
                middle = (low + high) // 2
                judged[middle] = judge(middle)
                yield judged[middle]
                low, high = (middle + 1, high) if judged[middle].why else (low, middle)
            least[name] = low
            if low + 1 < len(cheap) and low + 1 not in judged:  # with fewer candidates the next one may be faster
                yield judge(low + 1)

    def _judged(self, head: Head, family: str, predictor: Predictor, ranks: np.ndarray, counts: Sequence[int]) -> Tried:
        """A predictor with the fewest candidates that meet the recall; with a reason if none do."""
        missed = {k: float((ranks >= k).mean(axis=1).sum()) for k in counts}
        enough = next((k for k in counts if meets(missed[k], len(ranks), self._recall)), None)
        k = enough or counts[-1]
        rule = Rule(kind="head", path=f"^{head.site.id}$", predictor=predictor, candidates=k)
        recall = 1 - missed[k] / len(ranks)
        short = "" if enough else f"its recall falls short with {k} candidates"
        if short and recall >= self._recall:
            short = f"{missed[k]:.2g} missed of {len(ranks)} do not show a recall of {self._recall:g}; more rows could"
        return Tried(
            site=head.site.id, name=label(predictor), family=family, rule=rule, candidates=k, recall=recall, why=short
        )

    def tuned(self) -> Tuned:
        """Everything so far."""
        table = choose(self._table, self._memory)
        chosen = [tried for tried in table if tried.chosen and tried.name != DEFAULT]
        trials = dict(self._trials[t.site, t.name] for t in chosen if (t.site, t.name) in self._trials)
        return Tuned(
            config=Config(rules=tuple(tried.decides for tried in chosen)),
            calibration=replace(self._calibration, trials=trials),
            table=tuple(table),
            recall=self._recall,
            rows=self._rows,
            machine=machine(),
            notes=(*self._notes, *self._unmet()),
        )

    def _unmet(self) -> Iterator[str]:
        """What is to be said of sites of which no approximation meets the recall."""
        tried = [t for t in self._table if not t.lossless and t.recall is not None]
        for site in dict.fromkeys(t.site for t in tried):
            own = [t for t in tried if t.site == site]
            if not any(t.recall is not None and t.recall >= self._recall for t in own):
                best = f"the best that was tried: {max(t.recall or 0.0 for t in own):.4f}"
                yield f"no approximation of {site} meets the recall ({best}), so it stays exact"


def exact_settings_of(head: Head) -> Iterator[Tried]:
    """What changes nothing."""
    yield Tried(site=head.site.id, name=DENSE)
    rule = exact_rule(head.site, head.facts)
    if rule is not None:
        own = replace(rule, path=f"^{head.site.id}$")
        yield Tried(site=head.site.id, name=CERTIFIED, rule=own, candidates=rule.candidates or 0)


def _not_dominated(head: Head, some: Sequence[Predictor], candidates: int, met: Sequence[Tried]) -> Sequence[Predictor]:
    """Those of ascending predictors that do not read far more than what is known to meet the recall."""
    least = min((_bytes(head, t.rule.predictor, t.candidates) for t in met if t.rule and t.rule.predictor), default=0)
    return [p for p in some if not least or _bytes(head, p, candidates) <= DOMINATED * least]


def _untried(head: Head, family: str, predictor: Predictor, candidates: int) -> Tried:
    why = f"not tried: it reads more than {DOMINATED:g} times as much as another that meets the recall"
    rule = Rule(kind="head", path=f"^{head.site.id}$", predictor=predictor, candidates=candidates)
    return Tried(site=head.site.id, name=label(predictor), family=family, rule=rule, why=why)


def _bytes(head: Head, predictor: Predictor, candidates: int) -> int:
    """What a call reads of a head with this predictor and so many candidates."""
    exact = sum(head.facts.weight_bytes) * candidates // head.site.width
    return read_bytes(predictor, candidates, head.site, head.site.id) + exact


def rows_of_head(head: Head, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Held-out rows of a head's input.

    Raises:
      CaptureError: ``forward`` does not read the head's weight.
    """
    rows = inputs.get(head.key)
    if rows is None:
        raise CaptureError(
            f"forward has no head that reads {head.key.rpartition('[')[0]}, as {head.site.id} of the step does "
            "(hire.inspect(forward, …) says what it has); take the weights as an argument of the same name in both"
        )
    return rows
