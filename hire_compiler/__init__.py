"""hire_compiler: sparse LLM decoding by rewriting the lowered graph.

>>> import hire_compiler as hire
>>> step = hire.transform(jax.jit(decode_step), hire.Config(rules=(...)))    # doctest: +SKIP
"""

import importlib
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
    from hire_compiler.authors.group_topk import group_topk
    from hire_compiler.authors.join import join
    from hire_compiler.authors.sampler import Sampling, with_sampler
    from hire_compiler.calibration.calibrate import calibrate
    from hire_compiler.calling.transformed import HireFunction
    from hire_compiler.comparison.comparison import Comparison
    from hire_compiler.config.predictors import Cascade, Exact, LowRank, Quantized
    from hire_compiler.config.rules import Config, Rule
    from hire_compiler.files.progress import progress
    from hire_compiler.learned.calibration import Calibration
    from hire_compiler.measuring.compare import compare
    from hire_compiler.measuring.estimate import Estimate, Estimates, estimate
    from hire_compiler.offline.artifact.artifact import Artifact
    from hire_compiler.offline.artifact.load import load
    from hire_compiler.offline.rewrite import rewrite
    from hire_compiler.passes.plan.saved_plan import Plan
    from hire_compiler.pictures.draw import draw
    from hire_compiler.reports.report import Decision, Miss, Report, Site
    from hire_compiler.tuning.tune import tune
    from hire_compiler.tuning.tuned import Tuned

# What a name is imported from when it is first asked for. So ``import hire_compiler`` does not import JAX, and the
# command line can answer --help, typing errors and an interrupt at once.
_LATER = {
    "Artifact": "offline.artifact.artifact",
    "Calibration": "learned.calibration",
    "Cascade": "config.predictors",
    "Comparison": "comparison.comparison",
    "Config": "config.rules",
    "Decision": "reports.report",
    "Estimate": "measuring.estimate",
    "Estimates": "measuring.estimate",
    "Exact": "config.predictors",
    "HireFunction": "calling.transformed",
    "LowRank": "config.predictors",
    "Miss": "reports.report",
    "Plan": "passes.plan.saved_plan",
    "Quantized": "config.predictors",
    "Report": "reports.report",
    "Rule": "config.rules",
    "Sampling": "authors.sampler",
    "Site": "reports.report",
    "Tuned": "tuning.tuned",
    "calibrate": "calibration.calibrate",
    "compare": "measuring.compare",
    "draw": "pictures.draw",
    "estimate": "measuring.estimate",
    "group_topk": "authors.group_topk",
    "inspect": "api",
    "join": "authors.join",
    "load": "offline.artifact.load",
    "progress": "files.progress",
    "rewrite": "offline.rewrite",
    "transform": "api",
    "tune": "tuning.tune",
    "with_sampler": "authors.sampler",
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
    "join",
    "load",
    "progress",
    "rewrite",
    "transform",
    "tune",
    "with_sampler",
]
