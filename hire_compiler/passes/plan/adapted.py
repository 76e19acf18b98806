"""What counting says of a block's budgets: are they the right ones, would others be, or none? Pure.

A call reads the gate whole, looks for zeros, and reads as many other rows as its budget has room for, or all. To choose
rows and to gather them costs more than to stream them. So from how many groups were active in the calls that were
counted it follows what every choice of budgets would have cost in them, in bytes of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from hire_compiler.reports.findings import Decision, Site
from hire_compiler.runtime.costs import Costs
from hire_compiler.runtime.skip_zeros import SHARES

GAIN = 0.05  # of the bytes of a dense block: what other budgets have to save, to be worth compiling the step again
MOST_BUDGETS = 3  # each is a branch of the step


@dataclass(frozen=True)
class BlockCounts:
    """What an exact block counted while it ran.

    Attributes:
      held: batch rows of the runs in which a budget held and no order of sums had to decide.
      ran: see :class:`~hire_compiler.reports.findings.Certificate`.
      shares: how many runs touched which share of all groups, in steps
        (:data:`~hire_compiler.runtime.skip_zeros.SHARES`).
    """

    held: int
    ran: tuple[int, ...]
    shares: tuple[int, ...]


@dataclass(frozen=True)
class Adapted:
    """What is done from now on with a site whose default was counted.

    Attributes:
      said: what was tried and how often it held, in words.
      budgets: numbers of neurons to leave room for, ascending; () leaves the site dense.
    """

    said: str
    budgets: tuple[int, ...] = ()


def better_budgets(site: Site, decision: Decision, counts: BlockCounts, costs: Costs) -> tuple[int, ...] | None:
    """Budgets that would have been better in the calls that were counted; () if none would have paid; None to stay.

    Args:
      decision: with the budgets that were tried.
      counts: how often which of them held, and how many neurons were active.
    """
    runs = sum(counts.ran)
    if not runs or decision.candidates >= site.width or len(counts.ran) != len(decision.budgets) + 2:
        return None
    block = _Block(site, decision, costs)
    doubted = max(sum(counts.ran[:-1]) - counts.held / site.batch, 0.0) * block.written  # ran beside a budget
    each = [*(block.reads(neurons) for neurons, _ in decision.budgets), block.reads(decision.candidates), block.failed]
    now = (doubted + sum(times * cost for times, cost in zip(counts.ran, each, strict=True))) / runs
    best, cost = _cheapest(block, counts.shares, runs)
    cost, gain = cost + doubted / runs, GAIN * decision.dense_bytes
    if cost <= min(now, block.written) - gain:
        return tuple(block.neurons(step) for step in best)
    return None if now < block.written else ()


def written_bytes(site: Site, decision: Decision, costs: Costs) -> float:
    """What a site costs as the author wrote it, in bytes of a stream."""
    slow = {"ffn": site.batch == 1, "head": site.batch > 1}.get(site.kind, False)
    return decision.dense_bytes * (costs.written_bfloat16 if slow and site.dtype == "bfloat16" else 1)


@dataclass(frozen=True)
class _Block:
    """What runs of a block cost, in bytes of a stream."""

    site: Site
    decision: Decision
    costs: Costs

    @property
    def written(self) -> float:
        """As the author wrote it."""
        return written_bytes(self.site, self.decision, self.costs)

    @property
    def _neuron(self) -> float:
        """Bytes of the rows that are read only where a neuron is active."""
        return (self.decision.failed_bytes - self.decision.sparse_bytes) / (self.site.width - self.decision.candidates)

    @property
    def _always(self) -> float:
        """The gate and its limits, and looking for zeros."""
        gate = self.decision.sparse_bytes - self._neuron * self.decision.candidates
        return gate + self.costs.looked_bytes * self.site.width

    @property
    def failed(self) -> float:
        """Where no budget holds."""
        return self._always + self._neuron * self.site.width

    def reads(self, neurons: int) -> float:
        """Where a budget of so many holds."""
        choosing = self.costs.chosen_bytes * neurons / self.decision.group
        return self._always + self.costs.row_ratio * self._neuron * neurons + choosing

    def neurons(self, step: int) -> int:
        """A budget that holds up to a step of the shares, in whole groups."""
        groups = self.site.width // self.decision.group
        return min(ceil(step * groups / SHARES), groups) * self.decision.group


def _cheapest(block: _Block, shares: Sequence[int], runs: int) -> tuple[tuple[int, ...], float]:
    """The steps of the shares at which budgets are best placed, added one by one, and the mean cost of a run."""
    possible = range(1, SHARES)

    def cost(chosen: Sequence[int]) -> float:
        total, below = 0.0, 0
        for step in chosen:
            held = sum(shares[below : step + 1])
            total += held * block.reads(block.neurons(step))
            below = step + 1
        return (total + sum(shares[below:]) * block.failed) / runs

    chosen: tuple[int, ...] = ()
    while len(chosen) < MOST_BUDGETS:
        longer = min((tuple(sorted({*chosen, step})) for step in possible), key=cost)
        if chosen and cost(chosen) - cost(longer) < GAIN * block.decision.dense_bytes / 2:
            break
        chosen = longer
    return chosen, cost(chosen)
