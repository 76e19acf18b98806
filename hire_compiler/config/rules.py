"""Rules: which sites to rewrite, and how; and a configuration of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hire_compiler.config.predictors import Cascade, Exact, Predictor, Quantized, require, require_integer
from hire_compiler.errors import ConfigError

Kind = Literal["ffn", "head", "experts"]
_KINDS = get_args(Kind)
Tail = Literal["predicted", "dropped"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which sites to rewrite, and how. The first rule that matches a site decides it.

    Keys that select:
      kind: ``"ffn"``, ``"head"`` or ``"experts"``.
      path: regular expression searched in the site's id and scope path; the default matches all.

    What to do (give exactly one of ``density`` and ``candidates``, or ``dense=True``; with ``Exact()`` both may be left
    out, and calibration or the width decides):
      predictor: how rows are guessed.
      density: share of the rows computed exactly, 0 < density ≤ 1.
      candidates: number of rows computed exactly (k').
      group: feed-forward only: rows are chosen in groups of this many adjacent neurons. Left out, a calibration decides
        (by the share of all groups that the active neurons of a call touch); without one, 8, and 1 where zeros are
        skipped exactly.
      score: feed-forward only: a group counts with the ``"max"`` of its neurons' predicted activations, or with their
        ``"l2"`` norm (over the rows of a batch, too).
      recall: with a predictor that approximates: the share of what the program uses that has to be among the candidates
        on calibration rows: of a block's active neurons, of the best rows that are read of a head (its best 64 where
        all logits are). Instead of ``density`` or ``candidates`` it decides how many there are; beside one of them it
        is a condition. A site that misses the budget is left dense; the report shows the target and the measured
        recall. Needs ``hire.calibrate(…, config=…)``; ``hire.tune`` chooses rank and predictor of a head too.
      common: feed-forward only: so many of the candidates are neurons that every call computes, those which were active
        most often in calibration; the predictor ranks the rest only. Left out, a calibration decides; 0 for none.
      tail: head only: rows outside the candidates keep their ``"predicted"`` logit, or are ``"dropped"``
        to −inf. Only programs that read more than the winners see the difference.
      max_batch: sites that see more rows of input in one call (prefill) stay dense: a large batch reads every
        weight once for all its rows, and there is little left to save.
      certify: with ``Quantized(bits=8)``. For heads whose output is only an argmax or top-k: prove at run time that no
        other row could win, and compute the dense product where the proof fails. ``True``: a valid top-k up to the
        rounding of the type; ``"strict"``: also in the order of dense. For a block with a ReLU-like activation: skip
        the neurons that are proven zero, and compute the dense block where the others are more than the candidates.
      logprobs: head only, with ``certify``: what becomes of numbers that need the whole vocabulary and only go to an
        output, such as the log-probability of the token. ``"dense"``: they keep the head dense. ``"bounded"``: the
        token is certified, and they are the middle between proven bounds, for which rows outside the candidates count
        with their predicted logits. The report gives how far off they can be.
      spread: on several devices, deal the rows to the shards anew when weights are prepared (a copy), so that those
        which are wanted together (frequent tokens come first in most vocabularies) do not all stand in one shard: by
        how often each won in calibration, or in turn without one. For heads whose output is only an argmax or top-k,
        and for feed-forward blocks with a calibration. Indices in the results stay the author's.
      dense: leave the matching sites as they are.
    """

    kind: Kind
    path: str = ""
    predictor: Predictor | None = None
    density: float | None = None
    candidates: int | None = None
    group: int | None = None
    score: Literal["max", "l2"] = "max"
    recall: float | None = None
    common: int | None = None
    tail: Tail = "predicted"
    max_batch: int = 16
    certify: bool | Literal["strict"] = False
    logprobs: Literal["dense", "bounded"] = "dense"
    spread: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        where = f"Rule(kind={self.kind!r}, path={self.path!r})"
        require(self.kind in _KINDS, f"{where}: kind must be one of {', '.join(map(repr, _KINDS))}")
        require(isinstance(self.path, str), f"{where}: path must be a regular expression in a string")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ConfigError(f"{where}: path is not a regular expression: {error}") from None
        require(self.tail in ("predicted", "dropped"), f"{where}: tail must be 'predicted' or 'dropped'")
        if self.group is not None:
            require_integer(self.group, f"{where}: group")
        if self.common not in (None, 0):
            require_integer(self.common, f"{where}: common")
            require(self.kind == "ffn", f"{where}: common is for feed-forward blocks; a head has no common path")
        require_integer(self.max_batch, f"{where}: max_batch")
        require(self.certify in (False, True, "strict"), f"{where}: certify must be False, True or 'strict'")
        require(self.logprobs in ("dense", "bounded"), f"{where}: logprobs must be 'dense' or 'bounded'")
        bounds = self.logprobs == "bounded"
        require(not bounds or self.kind == "head", f"{where}: logprobs='bounded' is about numbers of a head's logits")
        require(not bounds or bool(self.certify), f"{where}: logprobs='bounded' needs certify, which has the bounds")
        if self.dense:
            return
        certifiable = isinstance(self.predictor, Quantized) and self.predictor.bits == 8
        require(
            not self.certify or certifiable,
            f"{where}: certify needs predictor=Quantized(bits=8); the bounds of 4-bit copies, low-rank "
            "factors and cascades are too wide to prove anything",
        )
        require(
            self.certify != "strict" or self.kind == "head",
            f"{where}: certify='strict' is about the order of winners, which only a head has; use certify=True",
        )
        require(
            isinstance(self.predictor, get_args(Predictor)),
            f"{where}: predictor is {self.predictor!r}; give LowRank(rank=…), Quantized(bits=8), "
            "Quantized(bits=4, columns=64), Cascade(LowRank(rank=…), Quantized(bits=8)) or Exact(), or dense=True",
        )
        require(
            self.kind == "head" or not isinstance(self.predictor, Cascade),
            f"{where}: Cascade is for heads; a feed-forward block has too few rows to score them twice",
        )
        self._check_recall(where)
        open_ = self.density is None and self.candidates is None
        automatic = open_ and (isinstance(self.predictor, Exact) or self.recall is not None)
        require(
            (self.density is None) != (self.candidates is None) or automatic,
            f"{where}: give exactly one of density (a share) and candidates (a number of rows)",
        )
        require(
            self.kind != "head" or not isinstance(self.predictor, Exact),
            f"{where}: Exact() is for feed-forward blocks; a head is exact with Quantized(bits=8) and certify",
        )
        require(
            self.kind != "experts" or isinstance(self.predictor, Exact),
            f"{where}: experts are chosen by the program itself, so nothing is predicted: use Exact() or dense=True",
        )
        if self.density is not None:
            number = isinstance(self.density, (int, float)) and not isinstance(self.density, bool)
            require(number, f"{where}: density is {self.density!r}, must be a number in (0, 1]")
            require(0 < self.density <= 1, f"{where}: density is {self.density}, must be in (0, 1]")
        if self.candidates is not None:
            require_integer(self.candidates, f"{where}: candidates")

    def _check_recall(self, where: str) -> None:
        require(self.score in ("max", "l2"), f"{where}: score is {self.score!r}, must be 'max' or 'l2'")
        if self.recall is None:
            return
        number = isinstance(self.recall, (int, float)) and not isinstance(self.recall, bool)
        require(
            number and 0 < self.recall <= 1, f"{where}: recall is {self.recall!r}: give a share in (0, 1], such as 0.99"
        )
        lossless = isinstance(self.predictor, Exact) or bool(self.certify)
        require(not lossless, f"{where}: recall is for predictors that approximate; this one loses nothing")

    def selects(self, kind: str, site_id: str, path: str) -> bool:
        """Whether this rule speaks for a site."""
        return self.kind == kind and bool(re.search(self.path, site_id) or re.search(self.path, path))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Ordered rules, and what happens to the sites that none of them selects.

    Attributes:
      rules: tried in order; the first that selects a site decides it.
      exact: sites that no rule selects get what is provably exact: heads of which only winners are read are
        certified (the tokens of dense, always). With ``exact=False`` they stay dense.
      check_weights: refuse weights that hold NaN or Inf when they are prepared.
      sharded: what happens on several devices. ``"local"``: every shard chooses among its own rows (DaT-Top-k), and
        sites where that is impossible stay dense. ``"vanilla"``: one choice among all rows, as on one device, left to
        XLA's partitioner, which may gather scores and rows; for comparison.
      shard_recall: with ``"local"``, every shard keeps so many candidates that, were the rows placed at random, this
        share of the rule's candidates is expected among them.
      adapt: what the exact default rewrote is counted. After 64 calls a block gets other budgets where these would
        have read less, and what does not pay is left dense: planned and compiled anew once, in the background. Answers
        do not change; the report says it.
      halve: a float32 weight of a rewritten site whose every entry is a bfloat16 number (a checkpoint that was widened)
        is kept and read as bfloat16 where that pays: half the bytes, the same numbers. Each new set of weights is
        checked entry by entry; where one does not fit, the step is compiled anew and keeps them wide.
      dense_forms: products with a bfloat16 or float32 weight that no site rewrites (projections of attention, dense
        blocks) are spelled as a CPU reads them at the speed of its memory, up to sixteen rows a call; elsewhere nothing
        happens. The products are the author's, their sums are taken in another order, so results may differ by a
        rounding: not by default.
      unused: outputs that the caller does not read, by regular expressions searched for in their paths as
        ``jax.tree_util.keystr`` prints them (``"['logits']"``; ``result`` where there is one). Where something is
        rewritten they come back filled with NaN, and what only they needed is not computed.
      plan: instead of rules: a :class:`hire_compiler.Plan` of this very program, which is carried out as it was kept.
    """

    rules: tuple[Rule, ...] = ()
    exact: bool = True
    check_weights: bool = True
    sharded: Literal["local", "vanilla"] = "local"
    shard_recall: float = 0.99
    adapt: bool = True
    halve: bool = True
    dense_forms: bool = False
    unused: tuple[str, ...] = ()
    plan: Any = None

    def __post_init__(self) -> None:
        rules = tuple(self.rules) if isinstance(self.rules, (tuple, list)) else (self.rules,)
        for rule in rules:
            require(isinstance(rule, Rule), f"Config.rules holds {rule!r}: every entry must be a hire.Rule")
        require(self.sharded in ("local", "vanilla"), f"Config.sharded is {self.sharded!r}: use 'local' or 'vanilla'")
        require(
            isinstance(self.shard_recall, (int, float)) and 0 < self.shard_recall < 1,
            f"Config.shard_recall is {self.shard_recall!r}: give a share between 0 and 1, such as 0.99",
        )
        for name in ("exact", "check_weights", "adapt", "halve", "dense_forms"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"Config.{name} is {value!r}, must be true or false")
        require(
            self.plan is None or not rules, "Config has rules and a plan: a plan leaves nothing for rules to decide"
        )
        object.__setattr__(self, "rules", rules)
        unused = (self.unused,) if isinstance(self.unused, str) else tuple(self.unused)
        for pattern in unused:
            require(isinstance(pattern, str), f"Config.unused holds {pattern!r}: every entry must be a string")
            _check_pattern(pattern)
        object.__setattr__(self, "unused", unused)


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"Config.unused: {pattern!r} is no regular expression: {error}") from None


def check_config(config: object) -> None:
    """Refuse what is no configuration.

    Raises:
      ConfigError: says so.
    """
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config is a {type(config).__name__}: pass hire.Config(rules=(hire.Rule(…),))")
