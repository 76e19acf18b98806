"""The face of the compiler: ``transform`` and ``inspect``, the stages in order and nothing else."""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable as Function
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration
from hire_compiler.config import Config
from hire_compiler.errors import CaptureError, ConfigError, HireWarning, WeightError
from hire_compiler.measured import Measurements
from hire_compiler.passes.pipeline import inspect_program, rewrite_program
from hire_compiler.passes.splice import PreparedArray, Spliced
from hire_compiler.prepared import Arrays, PreparedCache
from hire_compiler.program import Callable, Program, capture
from hire_compiler.report import Report
from hire_compiler.runtime.target import lowering_platform, target_for

Prepared = dict[str, Arrays]
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
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config is a {type(config).__name__}: pass hire.Config(rules=(hire.Rule(…),))")
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

    source = read_source(target, dims=dims)
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
        self._signatures: dict[Any, list[_Signature]] = {}
        self._last: _Signature | None = None
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<hire_compiler.transform of {self._function.name}>"

    def __call__(self, *args: Any, prepared: Prepared | None = None, **kwargs: Any) -> Any:
        """Call it like the original; ``prepared`` is what :meth:`prepare` returned."""
        self._check_runs_here()
        leaves, tree = self._function.flatten(args, kwargs)
        signature = self._signature(leaves, tree)
        if signature.compiled is None:
            return self._function.function(*args, **kwargs)
        if prepared is None:
            arrays = signature.current(leaves) or self._prepare(signature, leaves)
        else:
            arrays = signature.check_prepared(prepared)
        return jax.tree.unflatten(signature.program.out_tree, signature.run(leaves, arrays))

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What was found and done: for the signature of the last call, or for the arguments given."""
        if args or kwargs:
            return self._signature(*self._function.flatten(args, kwargs)).current_report()
        if self._last is None:
            return Report(notes=("not called yet: call the function once, or give report() the arguments",))
        return self._last.current_report()

    def prepare(self, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the weights for the signature of these arguments, to be handed in as ``prepared=…``.

        This is the way inside an outer ``jax.jit``, where a call would otherwise prepare on every step.
        """
        leaves, tree = self._function.flatten(args, kwargs)
        signature = self._signature(leaves, tree)
        return signature.nest(self._prepare(signature, leaves))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Lower the step program for these arguments: a ``jax.stages.Lowered`` with ``as_text()``, ``compile()``."""
        if self._platform is not None:
            step, operands = self._step_program(args, kwargs)
            return step.trace(*operands).lower(lowering_platforms=(lowering_platform(self._platform),))
        leaves, tree = self._function.flatten(args, kwargs)
        signature = self._signature(leaves, tree)
        if signature.compiled is None:
            function = self._function.function
            return getattr(function, "lower", jax.jit(function).lower)(*args, **kwargs)
        return signature.compiled.lower(*signature.abstract_operands(leaves))

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
        signature = self._signature(leaves, tree)
        if signature.compiled is not None:
            return signature.compiled, signature.abstract_operands(leaves)
        return self._unchanged(tree), [_abstract(*pair) for pair in zip(leaves, signature.avals, strict=True)]

    def _unchanged(self, tree: Any) -> Any:
        def flat(*leaves: Any) -> Any:
            return self._function.call_flat(tree, leaves)

        flat.__name__ = self._function.name
        donated = [i for i, given in enumerate(self._function.donated(tree)) if given]
        return jax.jit(flat, donate_argnums=donated, keep_unused=True)

    def _check_runs_here(self) -> None:
        here = target_for(jax.default_backend()).platform
        if self._platform is not None and self._platform != here:
            raise CaptureError(
                f"{self._function.name} was rewritten for platform {self._platform!r} and this process runs on "
                f"{here!r}: prepare(), lower() and export() work here, calling works there; "
                "leave platform= out to run here"
            )

    def _signature(self, leaves: list[Any], tree: Any) -> _Signature:
        avals = [_aval(leaf) for leaf in leaves]
        for known in self._signatures.get(tree, ()):
            if known.avals == avals and known.fits(leaves):
                self._last = known
                return known
        with self._lock:
            for known in self._signatures.get(tree, ()):
                if known.avals == avals and known.fits(leaves):
                    return known
            made = self._make_signature(leaves, tree, avals)
            self._signatures.setdefault(tree, []).append(made)
            self._last = made
            return made

    def _make_signature(self, leaves: list[Any], tree: Any, avals: list[Any]) -> _Signature:
        start = time.perf_counter()
        platform = self._platform or jax.default_backend()
        program = capture(self._function, leaves, tree, platform=self._platform and lowering_platform(self._platform))
        captured = time.perf_counter() - start
        outcome = rewrite_program(
            program, self._config, self._calibration, platform, _device_count((*program.constants, *leaves))
        )
        seconds = {"capture": captured, **outcome.report.seconds}
        report = Report(**{**outcome.report.__dict__, "seconds": seconds})
        return _Signature(avals, program, outcome.spliced, report, leaves)

    def _prepare(self, signature: _Signature, leaves: list[Any]) -> tuple[Any, ...]:
        if signature.spliced is None:
            return ()
        values = [*signature.program.constants, *leaves]
        if any(_mlir.is_tracer(values[i]) for i in signature.weights):
            warnings.warn(
                f"{self._function.name} is called inside another jit with traced weights, so it prepares its "
                "predictors on every step: call step.prepare(…) outside and pass prepared=… in",
                HireWarning,
                stacklevel=3,
            )
        built: Prepared = {}
        for key, preparation in signature.spliced.preparations.items():
            arrays = [_as_array(values[i]) for i in preparation.arguments]
            names = [signature.program.arguments[i].name for i in preparation.arguments]
            built[key] = self._cache.get(preparation, arrays, names, self._config.check_weights)
        flat = tuple(built[entry.preparation][entry.name] for entry in signature.spliced.prepared)
        signature.remember(leaves, flat)
        return flat


class _Signature:
    """One compiled signature of a transformed function."""

    def __init__(
        self, avals: list[Any], program: Program, spliced: Spliced | None, report: Report, leaves: list[Any]
    ) -> None:
        self.avals = avals
        self._placements = [_placement(leaf) for leaf in leaves]
        self._mesh = _mesh((*program.constants, *leaves))
        self.program = program
        self.spliced = spliced
        self.report = report
        self.compiled: Any = None
        self.weights: tuple[int, ...] = ()
        self._kept_leaves: tuple[int, ...] = ()
        self._kept_constants: tuple[Any, ...] = ()
        self._measured = Measurements(spliced.counters if spliced else (), report)
        self._current: tuple[list[tuple[int, Any]], tuple[Any, ...]] | None = None
        if spliced is not None:
            self._compile(program, spliced)

    def _compile(self, program: Program, spliced: Spliced) -> None:
        hidden = len(program.constants)
        self.weights = tuple(sorted({i for p in spliced.preparations.values() for i in p.arguments}))
        self._kept_constants = tuple(program.constants[i] for i in spliced.kept if i < hidden)
        self._kept_leaves = tuple(i - hidden for i in spliced.kept if i >= hidden)
        donated = [
            len(self._kept_constants) + position
            for position, i in enumerate(self._kept_leaves)
            if program.arguments[hidden + i].donated
        ]

        counters = [jax.core.ShapedArray(c.shape, np.dtype(c.dtype)) for c in spliced.counters]

        def step(*operands: Any) -> list[Any]:
            return _mlir.run_module(spliced.module, (*program.out_avals, *counters), operands)

        step.__name__ = f"hire_{program.name}".replace("<", "").replace(">", "")
        self.compiled = jax.jit(step, donate_argnums=donated, keep_unused=True)

    def run(self, leaves: list[Any], prepared: tuple[Any, ...]) -> list[Any]:
        """Run the step program on the caller's leaves."""
        kept = [leaves[i] for i in self._kept_leaves]
        results: list[Any] = self.compiled(*self._kept_constants, *kept, *prepared)
        own = len(self.program.out_avals)
        if len(results) > own:
            self._measured.add(results[own:])
        return results[:own]

    def current_report(self) -> Report:
        """The report, with what the certificates have shown so far."""
        seen = {"certificates": self._measured.certificates(), "tails": self._measured.tails()}
        return Report(**{**self.report.__dict__, **seen})

    def abstract_operands(self, leaves: list[Any]) -> list[Any]:
        """Types of everything the step program takes, for lowering."""
        assert self.spliced is not None
        values = [*self.program.constants, *leaves]
        kept = [values[i] for i in self.spliced.kept]
        placed = self._placed_by_xla(values) if self._mesh is not None else {}
        return [*kept, *(placed.get((e.preparation, e.name)) or self._prepared_type(e) for e in self.spliced.prepared)]

    def _placed_by_xla(self, values: Sequence[Any]) -> dict[tuple[str, str], jax.ShapeDtypeStruct]:
        """Where XLA puts the prepared arrays for which the plan names no place (``sharded="vanilla"``)."""
        assert self.spliced is not None
        placed = {}
        for key, preparation in self.spliced.preparations.items():
            if preparation.spread is None:
                build = jax.jit(preparation.traced)
                lowered = build.lower(*(_abstract(values[i], _aval(values[i])) for i in preparation.arguments))
                for name, sharding in lowered.compile().output_shardings.items():
                    kind = lowered.out_info[name]
                    placed[key, name] = jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=sharding)
        return placed

    def _prepared_type(self, entry: PreparedArray) -> jax.ShapeDtypeStruct:
        dtype = jax.numpy.dtype(entry.dtype)
        if entry.spec is None or self._mesh is None:
            return jax.ShapeDtypeStruct(entry.shape, dtype)
        spec = PartitionSpec(*(axes or None for axes in entry.spec))
        return jax.ShapeDtypeStruct(entry.shape, dtype, sharding=NamedSharding(self._mesh, spec))

    def fits(self, leaves: list[Any]) -> bool:
        """Whether the arguments lie on the devices as those did for which this was planned."""
        # The weights of the last call lie where they lay; where activations lie changes no answer, so they may move.
        return self.current(leaves) is not None or all(
            _mlir.is_tracer(leaf) or _placement(leaf) == planned
            for leaf, planned in zip(leaves, self._placements, strict=True)
        )

    def remember(self, leaves: list[Any], prepared: tuple[Any, ...]) -> None:
        """Keep the fast answer to "are these the weights of the last call?"."""
        hidden = len(self.program.constants)
        own = [i - hidden for i in self.weights if i >= hidden]
        if any(not isinstance(leaves[i], jax.Array) or _mlir.is_tracer(leaves[i]) for i in own):
            self._current = None
            return
        mine = weakref.ref(self)

        def forget(_dead: Any) -> None:
            signature = mine()
            if signature is not None:
                signature._current = None

        self._current = ([(i, weakref.ref(leaves[i], forget)) for i in own], prepared)

    def current(self, leaves: list[Any]) -> tuple[Any, ...] | None:
        """The prepared arrays of the last call if the weights are the same objects."""
        current = self._current
        if current is None:
            return None
        for index, reference in current[0]:
            leaf = leaves[index]
            if reference() is not leaf or leaf.is_deleted():
                return None
        return current[1]

    def nest(self, flat: tuple[Any, ...]) -> Prepared:
        """Prepared arrays as a dict of dicts, the form that is handed out."""
        nested: Prepared = {}
        if self.spliced is not None:
            for entry, array in zip(self.spliced.prepared, flat, strict=True):
                nested.setdefault(entry.preparation, {})[entry.name] = array
        return nested

    def check_prepared(self, prepared: Prepared) -> tuple[Any, ...]:
        """The flat prepared arrays out of what the caller handed in.

        Raises:
          WeightError: something is missing or of another shape.
        """
        assert self.spliced is not None
        flat = []
        for entry in self.spliced.prepared:
            try:
                array = prepared[entry.preparation][entry.name]
            except (KeyError, TypeError):
                raise WeightError(f"prepared= {_lacking(prepared, entry)} {_described(entry)}") from None
            if array.shape != entry.shape or str(array.dtype) != entry.dtype:
                raise WeightError(
                    f"prepared= has the wrong shape or type, {array.dtype}{list(array.shape)}, for {_described(entry)}"
                )
            self._check_mesh(entry, array)
            flat.append(array)
        return tuple(flat)

    def _check_mesh(self, entry: PreparedArray, array: Any) -> None:
        planned = self._prepared_type(entry).sharding
        if planned is None or not isinstance(array, jax.Array) or _mlir.is_tracer(array):
            return
        if not array.sharding.is_equivalent_to(planned, array.ndim):
            raise WeightError(
                f"prepared= lies on other devices than the mesh it is planned for here ({dict(planned.mesh.shape)}): "
                f"prepare it again with arguments on this mesh; it is {_described(entry)}"
            )


def _placement(leaf: Any) -> Any:
    """Where an array lies, if on several devices; else None."""
    if _mlir.is_tracer(leaf) or not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return None
    sharding = leaf.sharding
    return sharding if sharding is not None and sharding.num_devices > 1 else None


def _mesh(values: Sequence[Any]) -> Any:
    """The mesh on which arrays lie, or None."""
    placements = (_placement(value) for value in values)
    return next((placement.mesh for placement in placements if isinstance(placement, NamedSharding)), None)


def _device_count(values: Sequence[Any]) -> int:
    return max((placement.num_devices for value in values if (placement := _placement(value))), default=1)


def _lacking(prepared: Any, entry: PreparedArray) -> str:
    """What is wrong with prepared arrays that lack one: they may have been made for another mesh."""
    layout = entry.preparation.rpartition("|")[2]
    given = [key.rpartition("|")[2] for key in prepared] if isinstance(prepared, dict) else []
    others = [text for text in given if text.startswith("mesh ")] if entry.spec else []
    if not others:
        return "lacks"
    here, there = (text.partition(";")[0] for text in (layout, others[0]))
    return f"was made for the {there} and the weights lie on the {here}; it lacks"


def _described(entry: PreparedArray) -> str:
    kind, _, _, _, weight, *_ = entry.preparation.split("|")
    return (
        f"{entry.name} ({entry.dtype}{list(entry.shape)}) of the {kind} with weight {weight}: make it with "
        "step.prepare(…) of this same step, for a call with the same arguments"
    )


def _as_array(value: Any) -> Any:
    return value if isinstance(value, (jax.Array, np.ndarray)) else np.asarray(value)


def _abstract(leaf: Any, aval: Any) -> jax.ShapeDtypeStruct:
    """The type of an argument, with its sharding where it is spread over devices."""
    sharding = getattr(leaf, "sharding", None)
    spread = sharding is not None and sharding.num_devices > 1
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding if spread else None)


def _aval(leaf: Any) -> Any:
    aval = getattr(leaf, "aval", None)
    if aval is not None:
        return aval
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.core.ShapedArray(leaf.shape, leaf.dtype)
    try:
        return jax.typeof(leaf)
    except TypeError:
        raise CaptureError(
            f"an argument holds a {type(leaf).__name__}, which is no array: mark it static in jax.jit "
            "(static_argnames), or close over it"
        ) from None
