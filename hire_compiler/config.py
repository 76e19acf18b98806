"""What the user may ask for: rules that select sites and predictors that say how to guess their rows.

Frozen, keyword-only, validated when made: a wrong value is an error that names the field and the fix,
not a surprise at the first decode step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hire_compiler.errors import ConfigError

Kind = Literal["ffn", "head"]
Tail = Literal["predicted", "dropped"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_integer(value: object, name: str) -> None:
    _require(isinstance(value, int) and not isinstance(value, bool), f"{name} is {value!r}: give a whole number")
    assert isinstance(value, int)
    _require(value >= 1, f"{name} is {value}, must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """HiRE-LR: scores from two thin factors, ``z ≈ (x·A)·Bᵀ`` with inner width ``rank``.

    The factors are the best ones of that rank for the *scores*: the decomposition is weighted by the
    second moment E[xxᵀ] of the site's input when a calibration is given. Without it, a plain SVD of the
    weight is used, which finds few of the right rows on real heads; the report says so.

    Attributes:
      rank: inner width r; 1 ≤ r ≤ d.
      dtype: storage of the factors; scores are always summed in float32.
    """

    rank: int
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        _require_integer(self.rank, "LowRank.rank")
        _require(
            self.dtype in ("bfloat16", "float32"),
            f"LowRank.dtype is {self.dtype!r}: use 'bfloat16' or 'float32'",
        )

    def __str__(self) -> str:
        return f"LowRank(rank={self.rank}, {self.dtype})"


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """HiRE-Q: scores from an integer copy of the weight with one scale per row.

    Attributes:
      bits: width of the copy; 8.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        _require(self.bits == 8, f"Quantized.bits is {self.bits}: only 8 is supported")

    def __str__(self) -> str:
        return f"Quantized(bits={self.bits})"


@dataclass(frozen=True, kw_only=True)
class Exact:
    """No prediction: the gate (or a ReLU up-projection) is computed dense, as the author wrote it.

    What it makes exactly zero is skipped in the other matrices. Where more neurons are active than the rule's
    budget (``density`` or ``candidates``), the dense block runs. Feed-forward blocks with ReLU-like activations only.
    """

    def __str__(self) -> str:
        return "Exact()"


Predictor = LowRank | Quantized | Exact


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which sites to rewrite, and how. The first rule that matches a site decides it.

    Keys that select:
      kind: ``"ffn"`` or ``"head"``.
      path: regular expression searched in the site's id and scope path; the default matches all.

    What to do (give exactly one of ``density`` and ``candidates``, or ``dense=True``):
      predictor: how rows are guessed.
      density: share of the rows computed exactly, 0 < density ≤ 1.
      candidates: number of rows computed exactly (k').
      group: feed-forward only: rows are chosen in groups of this many adjacent neurons.
      tail: head only: rows outside the candidates keep their ``"predicted"`` logit, or are ``"dropped"``
        to −inf. Only programs that read more than the winners see the difference.
      max_batch: sites that see more rows of input in one call (prefill) stay dense: a large batch reads every
        weight once for all its rows, and there is little left to save.
      certify: head only, with ``Quantized(bits=8)``, where winners alone are read: prove at run time that no row
        outside the candidates can win, and compute the dense product where the proof fails. ``True``: a valid
        top-k up to the rounding of the type; ``"strict"``: also in the order of dense.
      dense: leave the matching sites as they are.
    """

    kind: Kind
    path: str = ""
    predictor: Predictor | None = None
    density: float | None = None
    candidates: int | None = None
    group: int = 8
    tail: Tail = "predicted"
    max_batch: int = 16
    certify: bool | Literal["strict"] = False
    dense: bool = False

    def __post_init__(self) -> None:
        where = f"Rule(kind={self.kind!r}, path={self.path!r})"
        _require(self.kind in ("ffn", "head"), f"{where}: kind must be 'ffn' or 'head'")
        _require(isinstance(self.path, str), f"{where}: path must be a regular expression in a string")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ConfigError(f"{where}: path is not a regular expression: {error}") from None
        _require(self.tail in ("predicted", "dropped"), f"{where}: tail must be 'predicted' or 'dropped'")
        _require_integer(self.group, f"{where}: group")
        _require_integer(self.max_batch, f"{where}: max_batch")
        _require(self.certify in (False, True, "strict"), f"{where}: certify must be False, True or 'strict'")
        if self.dense:
            return
        _require(
            not self.certify or (self.kind == "head" and isinstance(self.predictor, Quantized)),
            f"{where}: certify needs kind='head' and predictor=Quantized(bits=8); other bounds prove nothing",
        )
        _require(
            isinstance(self.predictor, (LowRank, Quantized, Exact)),
            f"{where}: predictor is {self.predictor!r}; give LowRank(rank=…), Quantized(bits=8) or Exact(), "
            "or dense=True",
        )
        _require(
            (self.density is None) != (self.candidates is None),
            f"{where}: give exactly one of density (a share) and candidates (a number of rows)",
        )
        _require(
            self.kind == "ffn" or not isinstance(self.predictor, Exact),
            f"{where}: Exact() is for feed-forward blocks; a head is exact with Quantized(bits=8) and certify",
        )
        if self.density is not None:
            number = isinstance(self.density, (int, float)) and not isinstance(self.density, bool)
            _require(number, f"{where}: density is {self.density!r}, must be a number in (0, 1]")
            _require(0 < self.density <= 1, f"{where}: density is {self.density}, must be in (0, 1]")
        if self.candidates is not None:
            _require_integer(self.candidates, f"{where}: candidates")

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
    """

    rules: tuple[Rule, ...] = ()
    exact: bool = True
    check_weights: bool = True

    def __post_init__(self) -> None:
        rules = tuple(self.rules) if isinstance(self.rules, (tuple, list)) else (self.rules,)
        for rule in rules:
            _require(isinstance(rule, Rule), f"Config.rules holds {rule!r}: every entry must be a hire.Rule")
        object.__setattr__(self, "rules", rules)
