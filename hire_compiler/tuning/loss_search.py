"""The search behind ``tune`` for a loss: blocks compete for what the loss of the whole program may rise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from hire_compiler.comparison.turns import machine
from hire_compiler.config.predictors import LowRank, Predictor, Quantized
from hire_compiler.config.rules import Config, Rule
from hire_compiler.files.progress import Progress
from hire_compiler.learned.calibration import Calibration
from hire_compiler.tuning.batches import Batch
from hire_compiler.tuning.blocks import exact_settings, left_alone, rows_of, tried_rule, untried, with_neurons
from hire_compiler.tuning.choice import WORTH, choose
from hire_compiler.tuning.losses import Losses, Rise
from hire_compiler.tuning.search import Interrupted, exact_settings_of
from hire_compiler.tuning.settings import label
from hire_compiler.tuning.simulate import Knob, Simulated
from hire_compiler.tuning.timed import time_settings
from hire_compiler.tuning.timed_blocks import alike, time_blocks
from hire_compiler.tuning.tuned import DEFAULT, Tried, Tuned
from hire_compiler.tuning.tuned_sites import Block, Head

SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # of the neurons, from what costs least
RANKS = (1 / 8, 1 / 4)  # of the width of the input
FREE = 1e-6  # what a setting counts as if it costs nothing, as a share of the loss


@dataclass(frozen=True, eq=False)
class Move:
    """A setting that a block could change to: its knob, and what it costs alone."""

    tried: Tried
    key: str
    knob: Knob
    rise: Rise


class LossSearch:
    """What is tried on all sites, and what it costs."""

    def __init__(self, limit: float, memory: int | None, calibration: Calibration, told: Progress) -> None:
        self._limit, self._memory, self._calibration, self._told = limit, memory, calibration, told
        self._table: list[Tried] = []
        self._moves: list[Move] = []
        self._taken: dict[str, Move] = {}
        self._refused: dict[Any, str] = {}
        self._notes: list[str] = []
        self._tokens = 0

    def head(self, head: Head, weight: jax.Array, inputs: Mapping[str, np.ndarray]) -> None:
        """Time what changes no token of a head: what others cost is a matter of its recall.

        Raises:
          Interrupted: the head was not timed.
        """
        if head.key not in inputs:
            why = "forward gives no logits of its weight that could be looked at"
            self._table.append(Tried(site=head.site.id, name=DEFAULT, chosen=True, why=why))
            return
        rows, moment, settings = inputs[head.key], self._calibration.moment(head.key), [*exact_settings_of(head)]
        try:
            self._table += time_settings(head, weight, rows, moment, settings, self._told)
        except KeyboardInterrupt:
            self._table += settings
            self._notes.append(f"interrupted: {head.site.id} was not timed, so it stays as it is")
            raise Interrupted from None

    def blocks(
        self, some: Sequence[Block], inputs: Mapping[str, np.ndarray], values: Sequence[Any], batches: Sequence[Batch]
    ) -> None:
        """Try everything on all blocks. An interrupt keeps what is known: what was weighed is taken or refused."""
        known = [block.knowing(self._calibration) for block in some]
        self._table += [untried(block, why) for block in known if (why := left_alone(block, by_recall=False))]
        tuned = [block for block in known if not left_alone(block, by_recall=False)]
        if not tuned:
            return
        for block in tuned:
            rows_of(block, inputs)
        rules = {b.key: [tried_rule(b, predictor) for predictor in predictors(b)] for b in tuned}
        try:
            losses = self._measured(tuned, rules, batches)
        except KeyboardInterrupt:
            self._notes.append("interrupted: no block was weighed, so they stay as they are")
            raise Interrupted from None
        stopped = not self._weigh_all(tuned, rules, losses, inputs, values)
        try:
            self._spend(losses)
        except KeyboardInterrupt:
            stopped = True
        if stopped:
            self._notes.append("interrupted: what was not weighed yet stays as it is")
            raise Interrupted

    def _measured(
        self, tuned: Sequence[Block], rules: Mapping[str, Sequence[Rule]], batches: Sequence[Batch]
    ) -> Losses:
        self._told("measuring the loss as it is", 0, 1)
        simulated = {b.key: Simulated(tuple(rules[b.key]), b.site.batch) for b in tuned}
        losses = Losses(batches, simulated, self._calibration)
        self._tokens = losses.tokens
        return losses

    def _weigh_all(
        self,
        tuned: Sequence[Block],
        rules: Mapping[str, Sequence[Rule]],
        losses: Losses,
        inputs: Mapping[str, np.ndarray],
        values: Sequence[Any],
    ) -> bool:
        """Time and weigh every setting; whether nobody interrupted it."""
        try:
            for group in alike(tuned):
                found = [tried for b in group for tried in (*exact_settings(b), *_settings(b, rules[b.key]))]
                self._table += _paying(time_blocks(group, found, inputs, values, self._told, all_of_them=True))
            for done, block in enumerate(tuned):
                self._told(f"weighing {block.site.id}", done, len(tuned))
                self._weigh(block, rules[block.key], losses)
        except KeyboardInterrupt:
            return False
        return True

    def _weigh(self, block: Block, rules: Sequence[Rule], losses: Losses) -> None:
        """Measure what the settings of a block cost alone: from the most faithful predictor and most neurons on.

        Where so many neurons cost too much, neither fewer are tried, nor as many of a predictor that knows less.
        """
        own = [t for t in self._table if t.site == block.site.id and not (t.lossless or t.why)]
        dear = 0  # neurons that were not enough
        for number, rule in reversed([*enumerate(rules)]):
            mine = [t for t in own if t.rule is not None and t.rule.predictor == rule.predictor]
            for tried in sorted(mine, key=lambda t: -t.candidates):
                if tried.candidates <= dear:
                    self._put(replace(tried, why=f"not weighed: {dear} neurons cost too much already"))
                    continue
                knob = number, tried.candidates // (rule.group or 1)
                rise = losses.rise({block.key: knob}, self._limit)
                if rise.within(self._limit):
                    weighed = replace(tried, loss=rise.mean)
                    self._moves.append(Move(weighed, block.key, knob, rise))
                else:
                    dear, weighed = tried.candidates, replace(tried, loss=rise.mean, why=rise.why_not(self._limit))
                self._put(weighed)

    def _put(self, tried: Tried) -> None:
        """Put a setting into the table, in its place."""
        self._table = [tried if known.key == tried.key else known for known in self._table]

    def _spend(self, losses: Losses) -> None:
        """Make the moves that save most milliseconds for what they cost, as long as all together cost little enough."""
        exact = self._exact()
        while ranked := [(gain, move) for move in self._left() if (gain := self._gain(move, exact)) > 0]:
            _, best = max(ranked, key=lambda pair: pair[0])
            wanted = self._taken | {best.tried.site: best}
            self._told("spending the budget", len(self._taken), len(exact))
            if why := self._too_much(wanted, exact, losses):
                self._refused[best.tried.key] = why
            else:
                self._taken = wanted
        if self._taken:
            rise = losses.rise({move.key: move.knob for move in self._taken.values()})
            self._notes.append(
                f"all together the loss rises by {rise.mean:.2%} ± {rise.error:.2%}, from {losses.dense:.4f} nats"
            )

    def _left(self) -> Iterator[Move]:
        return (move for move in self._moves if move.tried.key not in self._refused)

    def _exact(self) -> dict[str, Tried]:
        """Of every site the fastest setting that changes nothing."""
        lossless = [tried for tried in self._table if tried.lossless and tried.name != DEFAULT]
        return {tried.site: tried for tried in choose(lossless, self._memory) if tried.chosen}

    def _gain(self, move: Move, exact: Mapping[str, Tried]) -> float:
        """Milliseconds that a move saves for each share of loss that it adds, from where its site is now."""
        now, before = exact.get(move.tried.site), 0.0
        if move.tried.site in self._taken:
            now, before = self._taken[move.tried.site].tried, self._taken[move.tried.site].rise.mean
        if now is None or now.ms is None or move.tried.ms is None:
            return 0.0
        return (now.ms - move.tried.ms) / max(move.rise.mean - before, FREE)

    def _too_much(self, wanted: Mapping[str, Move], exact: Mapping[str, Tried], losses: Losses) -> str:
        settings = [tried for site, tried in exact.items() if site not in wanted]
        added = sum(tried.added_bytes for tried in (*settings, *(move.tried for move in wanted.values())))
        if self._memory is not None and added > self._memory:
            return f"with the others it adds {added} bytes, more than the {self._memory} allowed"
        rise = losses.rise({move.key: move.knob for move in wanted.values()}, self._limit)
        return "" if rise.within(self._limit) else f"with the others {rise.why_not(self._limit)}"

    def tuned(self) -> Tuned:
        """Everything so far."""
        exact = self._exact()
        winners = exact | {site: move.tried for site, move in self._taken.items()}
        table = tuple(self._explained(tried, winners.get(tried.site)) for tried in self._table)
        chosen = [tried for tried in table if tried.chosen and tried.name != DEFAULT]
        notes = list(self._notes)
        if not self._taken and any(tried.site.startswith("ffn/") for tried in table):
            costs = [tried.loss for tried in table if tried.loss is not None]
            least = f"the least that one costs is {min(costs):.2%}" if costs else "none saves time here"
            notes.append(f"no approximation of a block meets the budget ({least}), so no answer changes")
        return Tuned(
            config=Config(rules=tuple(tried.decides for tried in chosen)),
            calibration=self._calibration,
            table=table,
            loss=self._limit,
            rows=self._tokens,
            machine=machine(),
            notes=tuple(notes),
        )

    def _explained(self, tried: Tried, winner: Tried | None) -> Tried:
        if tried.chosen or (winner is not None and tried.key == winner.key):
            return replace(tried, chosen=True)
        why = tried.why or self._refused.get(tried.key, "not weighed")
        if winner is not None and winner.ms and tried.ms and tried.ms >= winner.ms and not tried.why:
            why = f"{tried.ms / winner.ms:.2f} times as long"
        return replace(tried, why=why)


def predictors(block: Block) -> Iterator[Predictor]:
    """What is tried on a block, from the one that knows least on."""
    ranks = sorted({max(8, round(share * block.site.d / 8) * 8) for share in RANKS})
    yield from (LowRank(rank, dtype="int8") for rank in ranks if rank < block.site.d)
    yield Quantized(8)


def _settings(block: Block, rules: Sequence[Rule]) -> Iterator[Tried]:
    for rule in rules:
        assert rule.predictor is not None
        name = label(rule.predictor)
        for own in dict.fromkeys(with_neurons(block, rule, share) for share in SHARES):
            yield Tried(site=block.site.id, name=name, family=name, rule=own, candidates=own.candidates or 0)


def _paying(timed: Sequence[Tried]) -> list[Tried]:
    """The same, with a reason for those that save too little to be weighed."""
    exact: dict[str, float] = {}
    for tried in timed:
        if tried.lossless and tried.ms is not None:
            exact[tried.site] = min(exact.get(tried.site, float("inf")), tried.ms)
    return [_slow(tried, exact[tried.site]) for tried in timed]


def _slow(tried: Tried, exact: float) -> Tried:
    if tried.lossless or tried.why or tried.ms is None or tried.ms < WORTH * exact:
        return tried
    return replace(tried, why=f"not weighed: it takes {tried.ms / exact:.2f} times as long as what changes nothing")
