"""Options of the XLA compiler under which its arithmetic is no longer what a proof assumes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Sums may be reordered, NaN and Inf taken for impossible; of two numbers, NaN may be the smaller and the larger.
_OPTIONS = ("xla_cpu_enable_fast_math", "xla_cpu_enable_fast_min_max", "xla_gpu_enable_fast_min_max")


def fast_math_reason(compiler_options: Mapping[str, Any], flags: str | None = None) -> str:
    """Which option allows XLA arithmetic whose rounding, NaN and Inf no bound covers; or ''.

    Args:
      compiler_options: those of a ``jax.jit``; they outdo flags.
      flags: as in the environment variable ``XLA_FLAGS``, which is read if None.
    """
    given = _given(compiler_options, flags)
    on = [name for name in _OPTIONS if given.get(name)]
    return f"{on[0]} is set, and under it no bound of XLA's arithmetic holds" if on else ""


def rounds_as_written(compiler_options: Mapping[str, Any], flags: str | None = None) -> bool:
    """Whether XLA is told to keep every rounding to a narrower type; arguments as above."""
    return not _given(compiler_options, flags).get("xla_allow_excess_precision", True)


def _given(compiler_options: Mapping[str, Any], flags: str | None) -> dict[str, bool]:
    given = _parse(os.environ.get("XLA_FLAGS", "") if flags is None else flags)
    return given | {name: _is_on(value) for name, value in compiler_options.items()}


def _parse(flags: str) -> dict[str, bool]:
    words = flags.split()
    if words and not flags.lstrip().startswith("-") and Path(flags.strip()).is_file():
        words = Path(flags.strip()).read_text().split()  # XLA takes the name of a file of flags as well
    pairs = [word.lstrip("-").partition("=") for word in words if word.startswith("-")]
    return {name: _is_on(value) if equals else True for name, equals, value in pairs}


def _is_on(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true", "t", "yes", "y")
