"""hire_compiler: sparse LLM decoding by rewriting the lowered graph.

>>> import hire_compiler as hire
>>> step = hire.transform(jax.jit(decode_step), hire.Config(rules=(...)))    # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from hire_compiler.api import inspect, transform
from hire_compiler.calibrate import calibrate
from hire_compiler.calibration import Calibration
from hire_compiler.config import Cascade, Config, Exact, LowRank, Quantized, Rule
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
from hire_compiler.estimate import Comparison, Estimate, estimate
from hire_compiler.group_topk import group_topk
from hire_compiler.report import Decision, Miss, Report, Site
from hire_compiler.sampler import Sampling, with_sampler
from hire_compiler.transformed import HireFunction
from hire_compiler.version import __version__

if TYPE_CHECKING:
    from hire_compiler.offline.artifact import Artifact
    from hire_compiler.offline.load import load
    from hire_compiler.offline.rewrite import rewrite
    from hire_compiler.picture import draw

# What only some programs need is imported when it is first named.
_LATER = {
    "Artifact": "hire_compiler.offline.artifact",
    "draw": "hire_compiler.picture",
    "load": "hire_compiler.offline.load",
    "rewrite": "hire_compiler.offline.rewrite",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


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
    "Exact",
    "HireError",
    "HireFunction",
    "HireWarning",
    "LowRank",
    "Miss",
    "Quantized",
    "Report",
    "Rule",
    "Sampling",
    "Site",
    "TransformError",
    "WeightError",
    "__version__",
    "calibrate",
    "draw",
    "estimate",
    "group_topk",
    "inspect",
    "load",
    "rewrite",
    "transform",
    "with_sampler",
]
