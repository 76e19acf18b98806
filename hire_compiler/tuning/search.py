"""The search behind ``tune``: which settings are tried on a head, and which of them is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np

from hire_compiler.calibration import Calibration
from hire_compiler.config import Config, Predictor, Rule
from hire_compiler.errors import CaptureError, ConfigError
from hire_compiler.offline.progress import Progress
from hire_compiler.passes.defaults import exact_rule
from hire_compiler.passes.head_ranks import meets, ranks_of, winners_of
from hire_compiler.passes.head_rows import Head
from hire_compiler.trial import rows_needed
from hire_compiler.tuning.settings import Family, candidate_counts, families, label
from hire_compiler.tuning.timed import DENSE, time_settings
from hire_compiler.tuning.tuned import Tried, Tuned
from hire_compiler.turns import machine

CERTIFIED = "certified, exact"
ENOUGH = 2  # times the rows that a recall needs; more say the same, and take longer
ESCAPING = 64  # best rows that count where the program reads all logits
WORTH = 0.97  # of the time of the exact setting: an approximation has to save at least the rest


class Interrupted(Exception):
    """Somebody wants no more than what is known."""


class Search:
    """What is tried, head by head."""

    def __init__(self, recall: float, memory: int | None, calibration: Calibration, told: Progress) -> None:
        self._recall, self._memory, self._calibration, self._told = recall, memory, calibration, told
        self._table: list[Tried] = []
        self._rows = 0
        self._notes: list[str] = []

    def head(self, head: Head, weight: jax.Array, inputs: dict[str, np.ndarray]) -> None:
        """Try everything on one head.

        Raises:
          Interrupted: after what was known so far has been taken.
        """
        rows = self._enough(head, inputs)
        moment = self._calibration.moment(head.key)
        stopped, found = False, [*self._lossless(head)]
        certified, mean = len(found) > 1, None if moment is None else moment.mean
        try:
            for tried in self._predicted(head, weight, rows, mean, certified):
                found.append(tried)
        except KeyboardInterrupt:
            stopped = True
            self._notes.append(f"interrupted: {head.site.id} was not tried with all predictors")
        fitting = [t for t in found if not t.why]
        try:
            timed = time_settings(head, weight, rows, moment, fitting, self._told)
        except KeyboardInterrupt:
            stopped, timed = True, fitting
            self._notes.append(f"interrupted: {head.site.id} was not timed, so it stays as it is")
        self._table += _choose(timed, self._memory) + [t for t in found if t.why]
        if stopped:
            raise Interrupted

    def _enough(self, head: Head, inputs: dict[str, np.ndarray]) -> np.ndarray:
        rows = inputs.get(head.key)
        if rows is None:
            raise CaptureError(
                f"forward has no head that reads {head.key.rpartition('[')[0]}, as {head.site.id} of the step does: "
                f"its heads read {', '.join(key.rpartition('[')[0] for key in inputs) or 'nothing'}; take the weights "
                "as an argument of the same name in both"
            )
        needed = rows_needed(self._recall)
        if len(rows) < needed:
            raise ConfigError(
                f"{len(rows)} held-out rows cannot show a recall of {self._recall:g}: it takes {needed}, and half of "
                f"the batches are held out, so give {2 * needed} rows or more in all, or ask for less"
            )
        self._rows = min(len(rows), ENOUGH * max(needed, 256))
        order = np.random.default_rng(0).permutation(len(rows))
        return rows[np.sort(order[: self._rows])]

    def _lossless(self, head: Head) -> Iterator[Tried]:
        yield Tried(site=head.site.id, name=DENSE, rule=None)
        rule = exact_rule(head.site, head.facts)
        if rule is not None:
            yield Tried(site=head.site.id, name=CERTIFIED, rule=_for(head, rule), candidates=rule.candidates or 0)

    def _predicted(
        self, head: Head, weight: jax.Array, rows: np.ndarray, moment: np.ndarray | None, certified: bool
    ) -> Iterator[Tried]:
        top = head.facts.top_k if head.facts.winners_only else ESCAPING
        counts, tried = candidate_counts(head.site, top), families(head.site, head.facts, certified)
        if not counts:
            return
        self._told(f"{head.site.id}: dense winners", 0, len(tried))
        winners = winners_of(weight, rows, top)
        least: dict[str, int] = {}  # of each family, how many predictors from the cheapest on fall short
        for done, (name, family) in enumerate(tried.items()):
            most = least.get(family.beside, len(family.predictors))
            judged: dict[int, Tried] = {}

            def judge(i: int, name: str = name, family: Family = family, done: int = done) -> Tried:
                predictor = family.predictors[i]
                self._told(f"{head.site.id}: {label(predictor)}", done, len(tried))
                ranks = ranks_of(weight, predictor, moment, rows, winners)
                return self._judged(head, name, predictor, ranks, counts)

            low, high = 0, most
            while low < high:  # they find more the larger they are
                middle = (low + high) // 2
                judged[middle] = judge(middle)
                yield judged[middle]
                low, high = (middle + 1, high) if judged[middle].why else (low, middle)
            least[name] = low
            if low + 1 < most and low + 1 not in judged:  # with fewer candidates the next one may be faster
                yield judge(low + 1)

    def _judged(self, head: Head, family: str, predictor: Predictor, ranks: np.ndarray, counts: Sequence[int]) -> Tried:
        """A predictor with the fewest candidates that meet the recall; with a reason if none do."""
        missed = {k: float((ranks >= k).mean(axis=1).sum()) for k in counts}
        enough = next((k for k in counts if meets(missed[k], len(ranks), self._recall)), None)
        k = enough or counts[-1]
        rule = Rule(kind="head", path=f"^{head.site.id}$", predictor=predictor, candidates=k)
        short = "" if enough else f"its recall falls short with {k} candidates"
        recall = 1 - missed[k] / len(ranks)
        return Tried(
            site=head.site.id, name=label(predictor), family=family, rule=rule, candidates=k, recall=recall, why=short
        )

    def tuned(self) -> Tuned:
        """Everything so far."""
        chosen = [tried for tried in self._table if tried.chosen]
        rules = tuple(tried.rule or Rule(kind="head", path=f"^{tried.site}$", dense=True) for tried in chosen)
        return Tuned(
            config=Config(rules=rules),
            calibration=self._calibration,
            table=tuple(self._table),
            recall=self._recall,
            rows=self._rows,
            machine=machine(),
            notes=tuple(self._notes),
        )


def _for(head: Head, rule: Rule) -> Rule:
    return replace(rule, path=f"^{head.site.id}$")


def _choose(timed: Sequence[Tried], memory: int | None) -> list[Tried]:
    """The settings of a site with the fastest one chosen, and why the others were not."""
    timed = [
        replace(t, why=f"it adds {t.added_bytes} bytes, more than the {memory} allowed")
        if memory is not None and t.added_bytes > memory
        else t
        for t in timed
    ]
    fitting = [t for t in timed if t.ms is not None and not t.why]
    if not fitting:
        return list(timed)
    best = min(fitting, key=lambda t: t.ms or 0.0)
    lossless = [t for t in fitting if t.recall is None]
    safest = min(lossless, key=lambda t: t.ms or 0.0, default=best)
    fast, safe = best.ms or 0.0, safest.ms or 0.0
    winner = best if fast < WORTH * safe else safest
    return [_explained(t, winner) for t in timed]


def _explained(tried: Tried, winner: Tried) -> Tried:
    if tried is winner:
        return replace(tried, chosen=True)
    if tried.why or tried.ms is None or winner.ms is None:
        return tried
    if tried.ms < winner.ms:
        return replace(tried, why="not enough faster than what loses nothing")
    return replace(tried, why=f"{tried.ms / winner.ms:.2f} times as long")
