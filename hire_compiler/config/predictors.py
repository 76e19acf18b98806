"""Predictors as the user names them: how the rows that matter are guessed, with which numbers of bits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from hire_compiler.errors import ConfigError

Copies = tuple[tuple[str, dict[str, Any]], ...]


def require(condition: bool, message: str) -> None:
    """Raise :class:`ConfigError` with that message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_integer(value: object, name: str) -> None:
    """Raise :class:`ConfigError` unless a value is a whole number; ``name``: of its field."""
    require(isinstance(value, int) and not isinstance(value, bool), f"{name} is {value!r}: give a whole number")
    assert isinstance(value, int)
    require(value >= 1, f"{name} is {value}, must be at least 1")


@dataclass(frozen=True)
class LowRank:
    """HiRE-LR: scores from two thin factors, ``z ≈ (x·A)·Bᵀ`` with inner width ``rank``.

    The factors are the best ones of that rank for the *scores*: the decomposition is weighted by the
    second moment E[xxᵀ] of the site's input when a calibration is given. Without it, a plain SVD of the
    weight is used, which finds few of the right rows on real heads; the report says so.

    Attributes:
      rank: inner width r; 1 ≤ r ≤ d.
      dtype: storage of the long factor B; ``"int8"`` has a scale per row, on columns of equal size. The short factor A
        is float32, or bfloat16 where B and the weights are. Scores are always summed in float32.
    """

    rank: int
    _: KW_ONLY
    dtype: Literal["bfloat16", "float32", "int8"] = "bfloat16"

    def __post_init__(self) -> None:
        require_integer(self.rank, "LowRank.rank")
        require(
            self.dtype in ("bfloat16", "float32", "int8"),
            f"LowRank.dtype is {self.dtype!r}: use 'bfloat16' or 'float32' or 'int8'",
        )

    @property
    def copies(self) -> Copies:
        """Which compressed copies it reads, by record of ``runtime/predictors.py``, and their options."""
        return (("low_rank", {"rank": self.rank, "dtype": self.dtype}),)

    def __str__(self) -> str:
        return f"LowRank(rank={self.rank}, {self.dtype})"


@dataclass(frozen=True)
class Quantized:
    """HiRE-Q: scores from an integer copy of the weight.

    Attributes:
      bits: width of the copy: 8 or 6, with one scale per row, or 4, with one scale per row and block of columns.
        6 keeps three quarters of the bytes of 8 and reads them twice: for where memory is short.
      columns: of a 4-bit copy: how many columns share a scale; divides d, 64 is a good choice.
    """

    bits: int = 8
    _: KW_ONLY
    columns: int | None = None

    def __post_init__(self) -> None:
        require(self.bits in (4, 6, 8), f"Quantized.bits is {self.bits}: only 8, 6 and 4 are supported")
        if self.bits != 4:
            require(
                self.columns is None,
                f"Quantized.columns is {self.columns}, but {'an 8' if self.bits == 8 else 'a 6'}-bit copy has one "
                "scale per row: leave columns out",
            )
            return
        require(
            self.columns is not None,
            "Quantized(4) needs a scale per block of columns: give columns=64, or another divisor of d",
        )
        require_integer(self.columns, "Quantized.columns")

    @property
    def copies(self) -> Copies:
        """The copy, by its width."""
        return ((f"int{self.bits}", {} if self.columns is None else {"columns": self.columns}),)

    def __str__(self) -> str:
        return f"Quantized(bits={self.bits})" if self.bits != 4 else f"Quantized(bits=4, columns={self.columns})"


@dataclass(frozen=True)
class Cascade:
    """Two predictors, the second only where the first saw promise: heads only.

    A coarse pass scores every row and leaves ``survivors``; a finer pass scores those; the rule's candidates among
    them are computed exactly. The survivors are the best of as many buckets of rows, so the best row of the coarse
    pass always survives, and no sort of the vocabulary is needed. A low-rank bound proves nothing: not certifiable.

    Attributes:
      coarse: scores all rows.
      fine: scores the survivors; larger than ``coarse``.
      survivors: rows that reach the second pass; from the rule's candidates to all rows.
    """

    coarse: LowRank
    fine: Quantized
    _: KW_ONLY
    survivors: int = 4096

    def __post_init__(self) -> None:
        require(
            isinstance(self.coarse, LowRank),
            f"Cascade.coarse is {self.coarse!r}: the first pass is a LowRank(…), the cheaper of the two",
        )
        require(
            isinstance(self.fine, Quantized) and self.fine.bits == 8,
            f"Cascade.fine is {self.fine!r}: the second pass is Quantized(8)",
        )
        require_integer(self.survivors, "Cascade.survivors")

    @property
    def copies(self) -> Copies:
        """The coarse one, and the fine one."""
        return (*self.coarse.copies, *self.fine.copies)

    def __str__(self) -> str:
        return f"Cascade({self.coarse}, {self.fine}, survivors={self.survivors})"


@dataclass(frozen=True, kw_only=True)
class Exact:
    """No prediction: the gate (or a ReLU up-projection) is computed dense, as the author wrote it.

    What it makes exactly zero is skipped in the other matrices. Where more neurons are active than the rule's
    budget (``density`` or ``candidates``), the dense block runs. Without one several budgets are tried, and the
    smallest that holds runs: quantiles of what calibration saw, or 1/16, 1/8 and 1/4 of the width. Feed-forward blocks
    with ReLU-like activations, or an author's own choice of neurons, only. Of a layer of experts all are computed that
    a router chose for some row of the batch, however many these are; a budget says what the plan reckons with.
    """

    @property
    def copies(self) -> Copies:
        """None: nothing is predicted."""
        return ()

    def __str__(self) -> str:
        return "Exact()"


Predictor = LowRank | Quantized | Cascade | Exact
