"""hire_compiler: sparse LLM decoding by rewriting the lowered graph.

>>> import hire_compiler as hire
>>> step = hire.transform(jax.jit(decode_step), hire.Config(rules=(...)))    # doctest: +SKIP
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hire_compiler.errors import (
    ArtifactError,
    CaptureError,
    ConfigError,
    EstimateError,
    HireError,
    HireWarning,
    TransformError,
    WeightError,
)
from hire_compiler.version import __version__

if TYPE_CHECKING:
    from hire_compiler.api import inspect, transform
    from hire_compiler.calibrate import calibrate
    from hire_compiler.calibration import Calibration
    from hire_compiler.comparing import compare
    from hire_compiler.comparison import Comparison
    from hire_compiler.config import Cascade, Config, Exact, LowRank, Quantized, Rule
    from hire_compiler.estimate import Estimate, Estimates, estimate
    from hire_compiler.group_topk import group_topk
    from hire_compiler.offline.artifact import Artifact
    from hire_compiler.offline.load import load
    from hire_compiler.offline.rewrite import rewrite
    from hire_compiler.picture import draw
    from hire_compiler.report import Decision, Miss, Report, Site
    from hire_compiler.sampler import Sampling, with_sampler
    from hire_compiler.saved_plan import Plan
    from hire_compiler.transformed import HireFunction
    from hire_compiler.tuning.tune import tune
    from hire_compiler.tuning.tuned import Tuned

# What a name is imported from when it is first asked for. So ``import hire_compiler`` does not import JAX, and the
# command line can answer --help, typing errors and an interrupt at once.
_LATER = {
    "Artifact": "offline.artifact",
    "Calibration": "calibration",
    "Cascade": "config",
    "Comparison": "comparison",
    "Config": "config",
    "Decision": "report",
    "Estimate": "estimate",
    "Estimates": "estimate",
    "Exact": "config",
    "HireFunction": "transformed",
    "LowRank": "config",
    "Miss": "report",
    "Plan": "saved_plan",
    "Quantized": "config",
    "Report": "report",
    "Rule": "config",
    "Sampling": "sampler",
    "Site": "report",
    "Tuned": "tuning.tuned",
    "calibrate": "calibrate",
    "compare": "comparing",
    "draw": "picture",
    "estimate": "estimate",
    "group_topk": "group_topk",
    "inspect": "api",
    "load": "offline.load",
    "rewrite": "offline.rewrite",
    "transform": "api",
    "tune": "tuning.tune",
    "with_sampler": "sampler",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = value
        return value
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package; where a function has the name of its module (``hire.calibrate``), the function is the attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LATER and isinstance(value, ModuleType)):  # what the import system does behind an import
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = [
    "Artifact",
    "ArtifactError",
    "Calibration",
    "CaptureError",
    "Cascade",
    "Comparison",
    "Config",
    "ConfigError",
    "Decision",
    "Estimate",
    "EstimateError",
    "Estimates",
    "Exact",
    "HireError",
    "HireFunction",
    "HireWarning",
    "LowRank",
    "Miss",
    "Plan",
    "Quantized",
    "Report",
    "Rule",
    "Sampling",
    "Site",
    "TransformError",
    "Tuned",
    "WeightError",
    "__version__",
    "calibrate",
    "compare",
    "draw",
    "estimate",
    "group_topk",
    "inspect",
    "load",
    "rewrite",
    "transform",
    "tune",
    "with_sampler",
]
