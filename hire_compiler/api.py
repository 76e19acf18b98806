"""The face of the compiler: ``transform`` and ``inspect``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax

from hire_compiler.calling.ahead import Stage
from hire_compiler.calling.transformed import HireFunction
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.config.rules import Config, check_config
from hire_compiler.errors import ConfigError, UnreadableTypesError
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.pipeline import inspect_program
from hire_compiler.reports.report import Miss, Report
from hire_compiler.runtime.target import PLATFORMS


def transform(
    function: Callable[..., Any],
    config: Config | None = None,
    *,
    calibration: Calibration | None = None,
    platform: str | None = None,
) -> HireFunction:
    """Rewrite a decode step so that it computes only the rows that matter.

    Args:
      function: a ``jax.jit``, ``nnx.jit`` or ``eqx.filter_jit`` function, or any function ``jax.jit`` takes.
      config: rules that say which sites to rewrite and how. Without rules only what is provably exact is done: heads
        whose output is only an argmax or top-k are certified.
      calibration: what :func:`hire_compiler.calibrate` learned; ``LowRank`` predictors need it.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``, the machine to rewrite for; JAX's default backend if None. A step
        for another platform than this machine's is prepared, lowered and exported here, and runs there.

    Returns:
      A function with the same signature. Its first call for each input signature lowers, rewrites,
      prepares and compiles; later calls only run.
    """
    check_config(config)
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ConfigError(f"calibration is a {type(calibration).__name__}: pass what hire.calibrate returned")
    if platform not in (None, *PLATFORMS):
        raise ConfigError(f"platform {platform!r} is unknown: use one of {', '.join(PLATFORMS)}")
    return HireFunction(function, config or Config(), calibration, platform)


def inspect(target: Any, *args: Any, **kwargs: Any) -> Report:
    """Find sites and misses; nothing is rewritten, run or compiled.

    Args:
      target: a function (with the arguments of one call, arrays or ``jax.ShapeDtypeStruct``), a
        ``jax.export.Exported``, what ``.lower()`` returned, StableHLO text, or a path to StableHLO text, MLIR
        bytecode, a VHLO portable artifact or a serialized ``jax.export``. With one of the latter, ``dims={"b": 1}``
        gives sizes to symbolic dimensions.
    """
    target = target.stage if isinstance(target, Stage) else target
    lowered = isinstance(target, (jax.stages.Lowered, jax.stages.Compiled))
    if isinstance(target, (str, os.PathLike)) or hasattr(target, "mlir_module_serialized") or lowered:
        return _inspect_export(target, *args, **kwargs)
    if isinstance(target, HireFunction):
        target = target.__wrapped__
    function = UserFunction(target)
    leaves, tree = function.flatten(args, kwargs)
    return inspect_program(capture(function, leaves, tree))


def _inspect_export(target: Any, *, dims: dict[str, int] | None = None) -> Report:
    from hire_compiler.offline.source.source import read_source

    try:
        source = read_source(target, dims=dims)
    except UnreadableTypesError as unreadable:
        return Report(misses=(Miss(path="", reason=str(unreadable)),))
    refusal = source.refusal()
    if refusal:
        return Report(notes=(f"{source.name} cannot be rewritten as it is: {refusal}",))
    return inspect_program(source.program())
