"""What is known of a site, and what is planned for it: plain data between the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hire_compiler.config.predictors import Cascade, Predictor
from hire_compiler.config.rules import Rule
from hire_compiler.learned.activity import Activity
from hire_compiler.learned.calibration import Moment
from hire_compiler.learned.trial import HeadTrial, Trial
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.reports.report import Decision, Site
from hire_compiler.runtime.costs import Costs


@dataclass(frozen=True)
class Choice:
    """How the author of a block chooses neurons.

    Attributes:
      kept: neurons kept of each row by rank; 0 where a statistical cut decides.
      share: what is kept of normally distributed neurons.
      group: adjacent neurons kept together.
      by_gate: the gate alone (or the only product) decides.
      whole_rows: numbers enter that only a whole row can give, such as a mean.
    """

    kept: int
    share: float
    group: int
    by_gate: bool
    whole_rows: bool


@dataclass(frozen=True, eq=False)
class Learned:
    """What a calibration knows of a site.

    Attributes:
      moment: of its input.
      winners: how often each of its rows won, ``[rows]``.
      activity: of its neurons.
      trials: what predictors found on calibration rows, by :func:`hire_compiler.learned.calibration.tried`.
      head_trials: what predictors found of a head's winners, by how they are printed.
      digest: the calibration's fingerprint, when somebody asks.
      skipped: why the calibration did not look at it, or ''.
    """

    moment: Moment | None = None
    winners: np.ndarray | None = None
    activity: Activity | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    head_trials: Mapping[str, HeadTrial] = field(default_factory=dict)
    digest: Callable[[], str] = str
    skipped: str = ""

    def hotness(self, group: int) -> np.ndarray | None:
        """How often each row of a vocabulary won, or each group of neurons was active: ``[…, rows / group]``.

        None if no calibration counted it.
        """
        if self.winners is not None or self.activity is None:
            return self.winners
        if group in self.activity.groups:
            return self.activity.frequency(group)
        each = self.activity.frequency(1)
        return each.reshape(*each.shape[:-1], -1, group).max(axis=-1)


NOTHING = Learned()


@dataclass(frozen=True)
class SiteFacts:
    """What the plan must know of a site beyond its report line.

    Attributes:
      costs: of the platform.
      neurons: its rows are neurons: they can be chosen in groups, and what is left out counts as zero.
      logits: its rows are logits, of which the best are wanted, or all.
      experts: its rows are experts, and the program itself chooses among them.
      routed: of how many experts each row of a batch makes use; 0 where it is not known.
      provable: there is something to prove: winners, or zeros.
      weight_bytes: bytes of each matrix of the site (one layer): up, [gate,] down; or the head.
      copied_bytes: bytes of the rows that have to be laid out anew (all layers).
      by_columns: an argument holds a head's matrix by columns.
      running_bytes: bytes of a block's matrices whose products run on for other readers.
      winners_only: a head of which only argmax and top_k are read.
      aligned: values of the request (a mask, noise) or padding lie beside its vocabulary, in its order.
      compared: of a head whose tokens can be proven behind a tail: how many different values are compared on the way.
      seldom: what stands before a head's token and seldom lets it be proven, or ''.
      blocked: why no proof is possible of what is read of a head, or ''.
      bounded: ``compared`` and ``top_k`` of such a head where what blocks the proof are numbers that can be bounded.
      drawn: ``compared`` and ``top_k`` of a head of which only tokens go on that are drawn from the best few: these can
        be proven by themselves, whatever their order is.
      read_on: what of a head's best few goes on into code that is not followed: ``"rows"``, ``"values"``, or ''.
      top_k: the most winners that any reader asks for.
      uncertifiable: why a head's winners cannot be proven, or ''.
      beside: why they are not proven although they could be, or ''.
      reordered: the platform may sum the author's own product otherwise where a proof fails.
      exact_zeros: one product alone proves neurons exactly zero.
      seldom_zeros: one product alone proves neurons exactly zero where it is far below zero.
      unproven_zeros: neurons are often zero, but no product alone proves it.
      unsure_cut: a rounding of a product may decide whether a neuron counts, and dense may drop one to bfloat16.
      drops: a logit of −inf is −inf still where it is read.
      choice: how a block chooses its own neurons, if it does.
      narrow: its weights are stored narrow, and read as they are stored.
      halvable: a float32 matrix would be read sooner, or kept in less memory, were it kept as bfloat16.
      halved: every entry of its float32 matrices is a bfloat16 number: they are kept and read as such.
      adapted: what counting said of the exact default here, if it was tried before.
      devices: over how many devices the program's arguments are spread.
      shards: into how many parts the rows are split, each choosing by itself.
      learned: what a calibration knows of it.
    """

    costs: Costs
    weight_bytes: tuple[int, ...] = ()
    copied_bytes: int = 0
    neurons: bool = False
    logits: bool = False
    experts: bool = False
    routed: int = 0
    provable: bool = False
    winners_only: bool = False
    aligned: bool = False
    compared: int = 0
    blocked: str = ""
    bounded: tuple[int, int] | None = None
    seldom: str = ""
    drawn: tuple[int, int] | None = None
    read_on: str = ""
    top_k: int = 1
    uncertifiable: str = ""
    beside: str = ""
    reordered: bool = False
    narrow: bool = False
    halvable: bool = False
    halved: bool = False
    adapted: Adapted | None = None
    devices: int = 1
    exact_zeros: bool = False
    seldom_zeros: bool = False
    unproven_zeros: bool = False
    unsure_cut: bool = False
    drops: bool = True
    choice: Choice | None = None
    running_bytes: int = 0
    by_columns: bool = False
    shards: int = 1
    learned: Learned = NOTHING

    def asked(self, rule: Rule) -> SiteFacts:
        """These facts under a rule: may numbers of a head be bounded, have tokens to be dense's own."""
        if self.drawn is not None and rule.certify == "strict":
            compared, top_k = self.drawn
            return replace(self, winners_only=False, compared=compared, top_k=top_k)
        if self.bounded is None or rule.logprobs != "bounded":
            return self
        compared, top_k = self.bounded
        return replace(self, compared=compared, top_k=top_k, blocked="")

    @property
    def activity(self) -> Activity | None:
        """What a calibration knows of a block's neurons."""
        return self.learned.activity

    @property
    def counted(self) -> bool:
        """Whether a calibration counted how often each of its rows won, or was active."""
        return self.learned.hotness(1) is not None


@dataclass(frozen=True)
class LeftDense:
    """Why a site stays as it is."""

    reason: str


@dataclass(frozen=True)
class SitePlan:
    """A decision with the objects that carry it out; ``predictor`` is None for a site left dense.

    On several devices it is the plan of one shard, ``axes`` the mesh axes that split the rows,
    ``spread`` whether the rows are dealt out to them anew. Of the candidates of a block, ``common`` are neurons that
    every call computes; ``budgets`` are smaller numbers of neurons that an exact skip tries first; groups count with
    their ``score``; ``learned`` is what a calibration knows of the site.
    """

    site: Site
    decision: Decision
    predictor: Predictor | None = None
    candidates: int = 0
    group: int = 1
    tail: str = "predicted"
    winners_only: bool = False
    certify: bool | str = False
    logprobs: str = "dense"
    axes: tuple[str, ...] = ()
    spread: bool = False
    common: int = 0
    budgets: tuple[int, ...] = ()
    score: str = "max"
    learned: Learned = field(default=NOTHING, compare=False, repr=False)

    @property
    def halved(self) -> bool:
        """Whether its float32 matrices are kept as bfloat16."""
        return bool(self.decision.kept)

    @property
    def survivors(self) -> int:
        """Rows that the finer pass of a cascade scores; 0 without one."""
        return min(self.predictor.survivors, self.site.width) if isinstance(self.predictor, Cascade) else 0


def leave_dense(site: Site, reason: str, dense_bytes: int) -> SitePlan:
    """The plan that changes nothing, and why."""
    decision = Decision(site=site.id, action="dense", reason=reason, dense_bytes=dense_bytes, sparse_bytes=dense_bytes)
    return SitePlan(site, decision)
