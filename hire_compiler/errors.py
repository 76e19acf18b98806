"""The errors of hire_compiler: sentences that say what was wrong, where, and what to do."""

from __future__ import annotations

import sys
import warnings


class HireError(Exception):
    """Base of every error that hire_compiler raises on its own account."""


class ConfigError(HireError, ValueError):
    """A rule, a predictor or another setting cannot mean anything; the message names the field."""


class CaptureError(HireError, TypeError):
    """The function cannot be captured as one program; the message says what to change."""


class UnreadableTypesError(HireError, ValueError):
    """A module has types that this jaxlib cannot read (StableHLO's quantised ones); the message says which."""


class WeightError(HireError, ValueError):
    """A weight or a prepared weight is unusable: wrong shape or dtype, NaN or Inf inside."""


class ArtifactError(HireError, ValueError):
    """A saved artifact cannot be used: truncated, corrupted, of another version; the message says which."""


class TransformError(HireError, NotImplementedError):
    """A JAX transformation (grad, vmap) was applied to a rewritten program, which has no such rule."""


class EstimateError(HireError, RuntimeError):
    """The TPU compiler is not there, or does not take the program; the message says which and what to do."""


class HireWarning(UserWarning):
    """Something works, but not the way that pays: the message says which way does."""


def warn(message: str) -> None:
    """Warn at the line outside of this package from which the work was asked for."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("hire_compiler."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, HireWarning, stacklevel=level)
