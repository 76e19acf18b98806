"""A transformed function: one signature after another is captured, rewritten, prepared and compiled as it is called."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calling.ahead import StaticArguments, Traced, check_signature
from hire_compiler.calling.compiled import DENSE, CompiledStep, Flat, Prepared
from hire_compiler.calling.halves import NotHalvesError, holds_halves
from hire_compiler.calling.prepared import PreparedCache, UnrankedError
from hire_compiler.calling.replanner import Replanner
from hire_compiler.calling.steps import Steps
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.placement import abstract, aval_of, device_count
from hire_compiler.capture.program import capture
from hire_compiler.config.rules import Config
from hire_compiler.errors import CaptureError, WeightError, warn
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.pipeline import rewrite_program
from hire_compiler.passes.plan.saved_plan import Plan
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.reports.report import Report, Speed
from hire_compiler.runtime.target import lowering_platform, target_for


class _Call(NamedTuple):
    """One call: as it was made, and flat."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Any]
    tree: Any


class HireFunction:
    """A transformed function: call it like the original.

    Attributes:
      __wrapped__: the original function.
    """

    def __init__(
        self, function: Callable[..., Any], config: Config, calibration: Calibration | None, platform: str | None = None
    ) -> None:
        self._function = UserFunction(function)
        self._config = config
        self._calibration = calibration
        self._platform = platform
        self._cache = PreparedCache()
        self._steps = Steps()
        self._replanner = Replanner(self._function, config, calibration, self._put, self._unchanged)
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<hire_compiler.transform of {self._function.name}>"

    def __str__(self) -> str:
        return str(self.report())

    @property
    def platform(self) -> str | None:
        """The platform it was made for; None for the one it runs on."""
        return self._platform

    def __call__(self, *args: Any, prepared: Prepared | None = None, **kwargs: Any) -> Any:
        """Call it like the original; ``prepared`` is what :meth:`prepare` returned."""
        if self._platform is not None:
            self._check_runs_here(self._platform)
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            with jax.disable_jit(False):
                return self(*args, prepared=prepared, **kwargs)
        call = _Call(args, kwargs, *self._function.flatten(args, kwargs))
        step, current = self._find(call.leaves, call.tree)
        if prepared is not None and step.compiled is not None:
            step = self._steps.holding(step, call.leaves, call.tree, prepared)
            current = step.check_prepared(prepared)
        elif step.compiled is not None and current is None:
            step, current = self._prepared_or_dense(step, call)
        results = self._run(step, call, current)
        if step.watched and prepared is None:
            self._replanner.look(step, call.tree, call.leaves)
        return results

    def _run(self, step: CompiledStep, call: _Call, current: Flat | None, program: Any = None) -> Any:
        """Run a step (or its program compiled ahead of time) with these prepared arrays."""
        if step.compiled is None or current is None or current is DENSE:
            return self._run_as_written(step, call)
        if _mlir.debugging_values():
            return self._run_checked(step, call, current, program)
        return jax.tree.unflatten(step.program.out_tree, step.run(call.leaves, current, program))

    def _prepared_or_dense(self, step: CompiledStep, call: _Call) -> tuple[CompiledStep, Flat]:
        try:
            return self._ready(step, call.leaves, call.tree)
        except UnrankedError as error:
            step.unranked = str(error)
            step.remember(call.leaves, DENSE)
            warn(f"{self._function.name} runs as it was written: {error}")
            return step, DENSE

    def _ready(self, step: CompiledStep, leaves: list[Any], tree: Any) -> tuple[CompiledStep, Flat]:
        """A step and its prepared arrays; another step where these weights cannot be kept as the first keeps them."""
        try:
            return step, self._prepare(step, leaves)
        except NotHalvesError as no:
            said = f"its weights were kept as bfloat16, but {no}: it is compiled anew, and keeps them as they are"

            def make() -> CompiledStep:
                wide = self._make_step(leaves, tree, step.avals, halve=False)
                wide.say(said)
                warn(f"{self._function.name}: {said}")
                return wide

            wide = self._steps.widened(step, leaves, tree, make)
            return wide, self._prepare(wide, leaves)

    def _run_as_written(self, step: CompiledStep, call: _Call) -> Any:
        """The author's program, compiled as a whole whether the author did so or not."""
        if self._function.is_jitted:
            return self._function.original(*call.args, **call.kwargs)
        if step.as_written is None:
            step.as_written = self._unchanged(call.tree)
        return step.as_written(*call.leaves)

    def as_written(self, *args: Any, **kwargs: Any) -> Any:
        """Call the author's program, compiled as a whole as a call of the rewritten one is."""
        call = _Call(args, kwargs, *self._function.flatten(args, kwargs))
        return self._run_as_written(self._find(call.leaves, call.tree)[0], call)

    def remember_speed(self, speed: Speed, *args: Any, **kwargs: Any) -> None:
        """Keep for the report of these arguments what :func:`hire_compiler.compare` found."""
        self._step(*self._function.flatten(args, kwargs)).speed = speed

    def _run_checked(self, step: CompiledStep, call: _Call, arrays: Flat, program: Any) -> Any:
        """With ``jax_debug_nans``: the author's results are looked at, not what a step counts beside them."""
        nans, infs = jax.config.jax_debug_nans, jax.config.jax_debug_infs  # type: ignore[attr-defined]
        with jax.debug_nans(False), jax.debug_infs(False):
            results = step.run(call.leaves, arrays, program)
            found = _special_value(results, nans=nans, infs=infs)
        if not found:
            return jax.tree.unflatten(step.program.out_tree, results)
        if not any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in call.leaves):
            self._run_as_written(step, call)  # JAX says where it comes from
        raise FloatingPointError(f"invalid value ({found}) encountered in {self._function.name}, rewritten")

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What was found and done: for the signature of the last call, or for the arguments given."""
        if args or kwargs:
            return self._step(*self._function.flatten(args, kwargs)).current_report()
        if self._steps.last is None:
            return Report(notes=("not called yet: call the function once, or give report() the arguments",))
        return self._steps.last.current_report()

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What is decided for a call with these arguments, to be carried out again by ``hire.Config(plan=…)``."""
        return self._step(*self._function.flatten(args, kwargs)).plan

    def prepare(self, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the weights for the signature of these arguments, to be handed in as ``prepared=…``.

        This is the way inside an outer ``jax.jit``, where a call would otherwise prepare on every step.
        """
        leaves, tree = self._function.flatten(args, kwargs)
        step, flat = self._ready(self._step(leaves, tree), leaves, tree)
        return step.nest(flat)

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
        step, flat = self._ready(self._step(leaves, tree), leaves, tree)
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
        """Lower the step program for these arguments, like ``jax.stages.Lowered``: ``as_text()``, ``compile()``.

        What ``compile()`` returns is called like the original.
        """
        if self._platform is not None:
            return self.trace(*args, **kwargs).lower(lowering_platforms=(lowering_platform(self._platform),))
        return self.trace(*args, **kwargs).lower()

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Trace the step program for these arguments, like ``jax.stages.Traced``: ``jaxpr``, ``lower()``.

        A jitted function of which nothing is rewritten is traced as it is.
        """
        leaves, tree = self._function.flatten(args, kwargs)
        step = self._step(leaves, tree)
        original = self._function.original
        if step.compiled is None and self._platform is None and callable(getattr(original, "trace", None)):
            return original.trace(*args, **kwargs)
        program, operands = self._step_program(args, kwargs)
        statics = StaticArguments(args, kwargs, *self._function.static_places(args, kwargs))

        def run(executable: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prepared: Prepared | None) -> Any:
            if self._platform is not None:
                self._check_runs_here(self._platform)
            args, kwargs = statics.put_back(args, kwargs)
            call = _Call(args, kwargs, *self._function.flatten(args, kwargs))
            called = call.tree, [aval_of(leaf) for leaf in call.leaves]
            check_signature(self._function.name, (tree, step.avals), called)
            if step.compiled is None:
                return executable(*call.leaves)
            if prepared is not None:
                return self._run(step, call, step.check_prepared(prepared), executable)
            ready, current = step, step.current(call.leaves)
            if current is None:
                ready, current = self._prepared_or_dense(step, call)
            if ready is not step:
                raise WeightError(
                    f"{self._function.name} was lowered for weights that are kept as bfloat16, and these hold other "
                    "numbers: lower it again with them, or with Config(halve=False)"
                )
            return self._run(step, call, current, executable)

        types = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in step.program.out_avals]
        with jax.disable_jit(False):
            return Traced(program.trace(*operands), run, jax.tree.unflatten(step.program.out_tree, types))

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The types of the results for these arguments (or their types), as of the original."""
        leaves, tree = self._function.flatten(args, kwargs)
        return jax.eval_shape(lambda *values: self._function.call_flat(tree, values), *leaves)

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
        options = self._function.compiler_options or None
        return jax.jit(flat, donate_argnums=donated, keep_unused=True, compiler_options=options)

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

    def _find(self, leaves: list[Any], tree: Any) -> tuple[CompiledStep, Flat | None]:
        return self._steps.find(leaves, tree, lambda avals: self._make_step(leaves, tree, avals))

    def _make_step(self, leaves: list[Any], tree: Any, avals: list[Any], *, halve: bool = True) -> CompiledStep:
        start = time.perf_counter()
        platform = self._platform or jax.default_backend()
        program = capture(self._function, leaves, tree, platform=self._platform and lowering_platform(self._platform))
        captured = time.perf_counter() - start
        values = (*program.constants, *leaves)
        fits = (lambda weight: holds_halves(weight, values)) if halve and self._platform is None else None
        outcome = rewrite_program(program, self._config, self._calibration, platform, device_count(values), fits=fits)
        seconds = {"capture": captured, **outcome.report.seconds}
        report = Report(**{**outcome.report.__dict__, "seconds": seconds})
        step = CompiledStep(avals, program, outcome.spliced, report, leaves)
        step.plan = Plan({platform: outcome.records})
        step.watched = self._platform is None and self._replanner.may_watch(step)
        return step

    def _put(self, old: CompiledStep, new: CompiledStep) -> None:
        """Let a step take the place of another, and let go of what only that one had prepared."""
        self._cache.keep_only(self._steps.put(old, new))

    def _prepare(self, step: CompiledStep, leaves: list[Any]) -> tuple[Any, ...]:
        if step.spliced is None:
            return ()
        values = [*step.program.constants, *leaves]
        if any(_mlir.is_tracer(values[i]) for i in step.weights):
            warn(
                f"{self._function.name} is called inside another jit with traced weights, so it prepares its "
                "predictors on every step: call step.prepare(…) outside and pass prepared=… in"
            )
        start, known = time.perf_counter(), self._cache.built
        built: dict[PreparedKey, Any] = {}
        for key, preparation in step.spliced.preparations.items():
            taken = [step.program.arguments[i] for i in preparation.arguments]
            names = [argument.name for argument in taken]
            arrays = [_as_array(values[i], a.name, a.dtype) for i, a in zip(preparation.arguments, taken, strict=True)]
            built[key] = self._cache.get(preparation, arrays, names, self._config.check_weights)
        flat = tuple(built[entry.preparation][entry.name] for entry in step.spliced.prepared)
        step.unranked = ""
        sources = {step.program.arguments[i].name: values[i] for i in step.weights}
        step.anew.look(sources, built=self._cache.built > known)
        step.remember(leaves, flat)
        step.spent.setdefault("prepare", time.perf_counter() - start)
        return flat


def _special_value(results: list[Any], *, nans: bool, infs: bool) -> str:
    """What ``jax_debug_nans`` or ``jax_debug_infs`` would complain of in the results, or ''."""
    floats = [r for r in results if not _mlir.is_tracer(r) and jnp.issubdtype(r.dtype, jnp.inexact)]
    if nans and any(bool(jnp.isnan(r).any()) for r in floats):
        return "nan"
    return "inf" if infs and any(bool(jnp.isinf(r).any()) for r in floats) else ""


def _as_array(value: Any, name: str, dtype: str) -> Any:
    if isinstance(value, jax.ShapeDtypeStruct):
        raise WeightError(f"{name} is a type without numbers: pass prepared=… as well, which split() or prepare() gave")
    return value if isinstance(value, jax.Array) else np.asarray(value, jnp.dtype(dtype))  # as JAX takes it
