"""The face of the compiler: ``transform`` and ``inspect``, the stages in order and nothing else."""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable as Function
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration
from hire_compiler.compiled import CompiledStep, Prepared
from hire_compiler.config import Config, check_config
from hire_compiler.errors import CaptureError, ConfigError, HireWarning, UnreadableTypesError, WeightError
from hire_compiler.passes.pipeline import inspect_program, rewrite_program
from hire_compiler.placement import abstract, aval_of, device_count
from hire_compiler.prepared import PreparedCache
from hire_compiler.program import Callable, capture
from hire_compiler.report import Miss, Report
from hire_compiler.runtime.target import lowering_platform, target_for

PLATFORMS = ("cpu", "gpu", "tpu")


def transform(
    function: Function[..., Any],
    config: Config | None = None,
    *,
    calibration: Calibration | None = None,
    platform: str | None = None,
) -> HireFunction:
    """Rewrite a decode step so that it computes only the rows that matter.

    Args:
      function: a ``jax.jit``, ``nnx.jit`` or ``eqx.filter_jit`` function, or any function ``jax.jit`` takes.
      config: rules that say which sites to rewrite and how. Without rules only what is provably exact is done: heads
        of which winners alone are read are certified.
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
    lowered = isinstance(target, (jax.stages.Lowered, jax.stages.Compiled))
    if isinstance(target, (str, os.PathLike)) or hasattr(target, "mlir_module_serialized") or lowered:
        return _inspect_export(target, *args, **kwargs)
    if isinstance(target, HireFunction):
        target = target.__wrapped__
    function = Callable(target)
    leaves, tree = function.flatten(args, kwargs)
    return inspect_program(capture(function, leaves, tree))


def _inspect_export(target: Any, *, dims: dict[str, int] | None = None) -> Report:
    from hire_compiler.offline.source import read_source

    try:
        source = read_source(target, dims=dims)
    except UnreadableTypesError as unreadable:
        return Report(misses=(Miss(path="", reason=str(unreadable)),))
    refusal = source.refusal()
    if refusal:
        return Report(notes=(f"{source.name} cannot be rewritten as it is: {refusal}",))
    return inspect_program(source.program())


class HireFunction:
    """A transformed function: call it like the original.

    Attributes:
      __wrapped__: the original function.
    """

    def __init__(
        self, function: Function[..., Any], config: Config, calibration: Calibration | None, platform: str | None = None
    ) -> None:
        self._function = Callable(function)
        self._config = config
        self._calibration = calibration
        self._platform = platform
        self._cache = PreparedCache()
        self._lock = threading.RLock()
        self._steps: dict[Any, list[CompiledStep]] = {}
        self._last: CompiledStep | None = None
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<hire_compiler.transform of {self._function.name}>"

    def __call__(self, *args: Any, prepared: Prepared | None = None, **kwargs: Any) -> Any:
        """Call it like the original; ``prepared`` is what :meth:`prepare` returned."""
        if self._platform is not None:
            self._check_runs_here(self._platform)
        leaves, tree = self._function.flatten(args, kwargs)
        step, current = self._find(leaves, tree)
        if step.compiled is None:
            return self._function.function(*args, **kwargs)
        if prepared is not None:
            current = step.check_prepared(prepared)
        arrays = self._prepare(step, leaves) if current is None else current
        return jax.tree.unflatten(step.program.out_tree, step.run(leaves, arrays))

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What was found and done: for the signature of the last call, or for the arguments given."""
        if args or kwargs:
            return self._step(*self._function.flatten(args, kwargs)).current_report()
        if self._last is None:
            return Report(notes=("not called yet: call the function once, or give report() the arguments",))
        return self._last.current_report()

    def prepare(self, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the weights for the signature of these arguments, to be handed in as ``prepared=…``.

        This is the way inside an outer ``jax.jit``, where a call would otherwise prepare on every step.
        """
        leaves, tree = self._function.flatten(args, kwargs)
        step = self._step(leaves, tree)
        return step.nest(self._prepare(step, leaves))

    def split(self, *args: Any, donate: bool = False) -> tuple[Prepared, tuple[Any, ...]]:
        """Prepare the weights, and let go of those that the step no longer reads.

        Args:
          args: of one call, all by position.
          donate: delete the jax arrays that are let go, so that their memory is free whoever else holds them.

        Returns:
          ``(prepared, rest)``, for ``step(*rest, prepared=prepared)``: ``rest`` is ``args`` with a
          ``jax.ShapeDtypeStruct`` in the place of every weight that only preparing reads.
        """
        leaves, tree = self._function.flatten(args, {})
        step = self._step(leaves, tree)
        flat = self._prepare(step, leaves)
        rest = list(leaves)
        for index in step.replaced_leaves:
            rest[index] = abstract(leaves[index], step.avals[index])
        if donate:
            jax.block_until_ready(flat)
            still_read = {id(leaf) for index, leaf in enumerate(leaves) if index not in step.replaced_leaves}
            still_read |= {id(leaves[index]) for index in step.shared_leaves}
            for index in step.replaced_leaves:
                if isinstance(leaves[index], jax.Array) and id(leaves[index]) not in still_read:
                    leaves[index].delete()
        return step.nest(flat), self._function.rebuild(tree, rest)[0]

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Lower the step program for these arguments: a ``jax.stages.Lowered`` with ``as_text()``, ``compile()``."""
        if self._platform is not None:
            step, operands = self._step_program(args, kwargs)
            return step.trace(*operands).lower(lowering_platforms=(lowering_platform(self._platform),))
        leaves, tree = self._function.flatten(args, kwargs)
        step = self._step(leaves, tree)
        if step.compiled is None:
            function = self._function.function
            return getattr(function, "lower", jax.jit(function).lower)(*args, **kwargs)
        return step.compiled.lower(*step.abstract_operands(leaves))

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """The step program as a ``jax.export.Exported``, for the platform of this function.

        Its flat arguments are those of the original that the step still reads, in order, then the prepared arrays.
        A function of which nothing is rewritten is exported as it is.
        """
        step, operands = self._step_program(args, kwargs)
        platform = lowering_platform(self._platform or jax.default_backend())
        return jax.export.export(step, platforms=[platform])(*operands)

    def _step_program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        """A jitted function and the abstract operands to lower it with."""
        leaves, tree = self._function.flatten(args, kwargs)
        step = self._step(leaves, tree)
        if step.compiled is not None:
            return step.compiled, step.abstract_operands(leaves)
        return self._unchanged(tree), [abstract(*pair) for pair in zip(leaves, step.avals, strict=True)]

    def _unchanged(self, tree: Any) -> Any:
        def flat(*leaves: Any) -> Any:
            return self._function.call_flat(tree, leaves)

        flat.__name__ = self._function.name
        donated = [i for i, given in enumerate(self._function.donated(tree)) if given]
        return jax.jit(flat, donate_argnums=donated, keep_unused=True)

    def _check_runs_here(self, platform: str) -> None:
        here = target_for(jax.default_backend()).platform
        if platform != here:
            raise CaptureError(
                f"{self._function.name} was rewritten for platform {platform!r} and this process runs on "
                f"{here!r}: prepare(), lower() and export() work here, calling works there; "
                "leave platform= out to run here"
            )

    def _step(self, leaves: list[Any], tree: Any) -> CompiledStep:
        return self._find(leaves, tree)[0]

    def _find(self, leaves: list[Any], tree: Any) -> tuple[CompiledStep, tuple[Any, ...] | None]:
        """The step of these arguments, and its prepared arrays if the weights are those of the last call."""
        avals = [aval_of(leaf) for leaf in leaves]
        for known in self._steps.get(tree, ()):
            if known.avals == avals:
                current = known.current(leaves)
                if current is not None or known.fits(leaves):
                    self._last = known
                    return known, current
        with self._lock:
            for known in self._steps.get(tree, ()):
                if known.avals == avals and known.fits(leaves):
                    return known, None
            made = self._make_step(leaves, tree, avals)
            self._steps.setdefault(tree, []).append(made)
            self._last = made
            return made, None

    def _make_step(self, leaves: list[Any], tree: Any, avals: list[Any]) -> CompiledStep:
        start = time.perf_counter()
        platform = self._platform or jax.default_backend()
        program = capture(self._function, leaves, tree, platform=self._platform and lowering_platform(self._platform))
        captured = time.perf_counter() - start
        outcome = rewrite_program(
            program, self._config, self._calibration, platform, device_count((*program.constants, *leaves))
        )
        seconds = {"capture": captured, **outcome.report.seconds}
        report = Report(**{**outcome.report.__dict__, "seconds": seconds})
        return CompiledStep(avals, program, outcome.spliced, report, leaves)

    def _prepare(self, step: CompiledStep, leaves: list[Any]) -> tuple[Any, ...]:
        if step.spliced is None:
            return ()
        values = [*step.program.constants, *leaves]
        if any(_mlir.is_tracer(values[i]) for i in step.weights):
            warnings.warn(
                f"{self._function.name} is called inside another jit with traced weights, so it prepares its "
                "predictors on every step: call step.prepare(…) outside and pass prepared=… in",
                HireWarning,
                stacklevel=3,
            )
        built: Prepared = {}
        for key, preparation in step.spliced.preparations.items():
            names = [step.program.arguments[i].name for i in preparation.arguments]
            arrays = [_as_array(values[i], name) for i, name in zip(preparation.arguments, names, strict=True)]
            built[key] = self._cache.get(preparation, arrays, names, self._config.check_weights)
        flat = tuple(built[entry.preparation][entry.name] for entry in step.spliced.prepared)
        step.remember(leaves, flat)
        return flat


def _as_array(value: Any, name: str) -> Any:
    if isinstance(value, jax.ShapeDtypeStruct):
        raise WeightError(f"{name} is a type without numbers: pass prepared=… as well, which split() or prepare() gave")
    return value if isinstance(value, (jax.Array, np.ndarray)) else np.asarray(value)
