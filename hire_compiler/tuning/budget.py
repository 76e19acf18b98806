"""What may be given up for speed."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from hire_compiler.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """A recall or a loss, and memory.

    Attributes:
      recall: share of what the program reads that has to be among the candidates.
      loss: by which share the loss of the whole program may rise.
      memory: bytes that all sites together may add; None for any number.

    Raises:
      ConfigError: it is none.
    """

    recall: float | None = None
    loss: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if (self.recall is None) == (self.loss is None):
            given = "both" if self.recall is not None else "neither"
            raise ConfigError(
                f"tune got {given} of recall and loss: give one, such as recall=0.999 (of what the program reads) or "
                "loss=0.005 (by which share the loss may rise)"
            )
        if self.recall is not None and not _is_share(self.recall):
            raise ConfigError(
                f"recall is {self.recall!r}: give a share between 0 and 1, such as 0.999; without rules every answer "
                "is exact"
            )
        if self.loss is not None and not _is_share(self.loss):
            raise ConfigError(
                f"loss is {self.loss!r}: give the share by which it may rise, between 0 and 1, such as 0.005"
            )
        memory = self.memory
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, Integral) or memory < 0):
            raise ConfigError(f"memory is {memory!r}: give a number of bytes, or None for any")
        for name, plain in (("recall", float), ("loss", float), ("memory", int)):  # numbers of NumPy are no JSON
            if getattr(self, name) is not None:
                object.__setattr__(self, name, plain(getattr(self, name)))


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1
