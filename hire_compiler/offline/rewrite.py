"""Rewrite a model that came as an export: the stages of ``passes/``, one step program per platform, an artifact."""

from __future__ import annotations

import hashlib
import json
import platform as python_platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration
from hire_compiler.config import Config
from hire_compiler.errors import CaptureError, ConfigError, WeightError
from hire_compiler.hoist import hoist_constants
from hire_compiler.offline.artifact import PLAN, REPORT, Artifact, Progress, no_progress
from hire_compiler.offline.manifest import Input, Manifest, Platform, Preparation
from hire_compiler.offline.naming import assign
from hire_compiler.offline.signature import Signature, choose_weights
from hire_compiler.offline.source import Source, read_source
from hire_compiler.offline.tensors import Spec, Tensors, open_tensors, spec_of
from hire_compiler.passes.pipeline import Rewritten, rewrite_program
from hire_compiler.passes.splice import Spliced
from hire_compiler.program import Program
from hire_compiler.version import __version__

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "tpu")


def rewrite(
    target: Any,
    config: Config | None = None,
    *,
    calibration: Calibration | None = None,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    parameters: str = "",
    dims: Mapping[str, int] | None = None,
    platforms: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Rewrite an exported model, without its Python code.

    Args:
      target: a ``jax.export.Exported``, or a path to StableHLO text or bytecode, a portable artifact, or a serialized
        export.
      config: rules, as for :func:`hire_compiler.transform`; by default only what is provably exact is done.
      calibration: what :func:`hire_compiler.calibrate` or ``hire-compiler calibrate`` learned.
      weights: the model's weights: a safetensors or npz file, a directory of shards, a list of files, or a tree of
        arrays. Without them the artifact is prepared later. Constants of the module are weights too.
      mapping: from arguments to tensors, where their names do not say which is which.
      parameters: regular expression; arguments with such names are weights even if no values are given.
      dims: sizes of symbolic dimensions.
      platforms: for which to make step programs; by default CPU and TPU as far as the export allows.
      progress: called with (what, done, of how many).

    Returns:
      The artifact; ``save(path)`` writes it.

    Raises:
      HireError: the target cannot be read or rewritten, or a rule or weight does not fit; the message says which.
    """
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config is a {type(config).__name__}: pass hire.Config(rules=(hire.Rule(…),))")
    progress("reading", 0, 1)
    source = read_source(target, dims=dims)
    if source.devices > 1:
        raise CaptureError(
            f"{source.name} is partitioned over {source.devices} devices, and only single-device exports are rewritten "
            "offline: export it for one device, or use hire.transform on the sharded function"
        )
    chosen = _platforms(source, platforms)
    tensors = None if weights is None else open_tensors(weights)
    given = {} if tensors is None else assign(source, tensors, mapping)
    if mapping and tensors is None:
        raise WeightError("a map of names was given, but no weights")
    built: dict[str, _Built] = {}
    for done, name in enumerate(chosen):
        progress(f"rewriting for {name}", done, len(chosen))
        program = source.program(name)
        outcome = rewrite_program(program, config or Config(), calibration, name, storable=True)
        built[name] = _Built(program, outcome, outcome.spliced or _unchanged(program))
    signature = choose_weights(source, [(b.program, b.spliced) for b in built.values()], given, parameters)
    return _assemble(source, signature, built, tensors, given, (config or Config()), progress)


@dataclass(frozen=True, eq=False)
class _Built:
    program: Program
    outcome: Rewritten
    spliced: Spliced


def _platforms(source: Source, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        usable = tuple(name for name in DEFAULT_PLATFORMS if not source.refusal(name))
        return usable or source.platforms[:1] or ("cpu",)
    names = tuple(dict.fromkeys({"gpu": "cuda"}.get(name, name) for name in wanted))
    for name in names:
        if name not in PLATFORMS:
            raise ConfigError(f"platform {name!r} is unknown: use one of {', '.join(PLATFORMS)}")
    if not names:
        raise ConfigError(f"no platform was named: use one of {', '.join(PLATFORMS)}")
    return names


def _unchanged(program: Program) -> Spliced:
    return Spliced(program.module, tuple(range(len(program.arguments))), (), {})


# --------------------------------------------------------------------------- the artifact


def _assemble(
    source: Source,
    signature: Signature,
    built: dict[str, _Built],
    tensors: Tensors | None,
    given: dict[int, str],
    config: Config,
    progress: Progress,
) -> Artifact:
    files = _Files()
    entries, sources = {}, dict[str, Spec]()
    for done, (name, one) in enumerate(built.items()):
        progress(f"exporting for {name}", done, len(built))
        entries[name] = _export(source, signature, name, one, files)
        for preparation in entries[name].preparations:
            sources |= {n: signature.spec(n, one.program) for n in preparation.inputs}
        sources |= {n: entries[name].weights[n] for n in entries[name].originals}
    sources = {name: spec for name, spec in sources.items() if not files.holds(name)}
    files.blobs[PLAN] = _json({name: [asdict(d) for d in b.outcome.report.decisions] for name, b in built.items()})
    files.blobs[REPORT] = _json({name: b.outcome.report.to_dict() for name, b in built.items()})
    any_program = next(iter(built.values())).program
    manifest = Manifest(
        name=source.name,
        source=source.digest,
        versions={
            "hire_compiler": __version__,
            "jax": jax.__version__,
            "jaxlib": metadata.version("jaxlib"),
            "python": python_platform.python_version(),
        },
        inputs=tuple(
            Input(source.names[i], path, Spec(*source.types[i]), source.donated[i])
            for i, path in zip(signature.inputs, signature.paths, strict=True)
        ),
        results=tuple(spec_of(aval) for aval in any_program.out_avals),
        donate=signature.donate,
        sources=sources,
        platforms=entries,
    )
    named = None if tensors is None else tensors.renamed({source.names[i]: tensor for i, tensor in given.items()})
    return Artifact(manifest, files.blobs, files.constants(), named, check_weights=config.check_weights)


class _Files:
    """The small files of the artifact, and the tensors that preparing takes beside the weights."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._programs: dict[str, str] = {}

    def add_program(self, kind: str, exported: Any) -> str:
        """File an export; an equal one is filed once."""
        data = bytes(exported.serialize())
        key = hashlib.sha256(exported.mlir_module_serialized).hexdigest()
        if key not in self._programs:
            if not kind.startswith(("step", "check")):
                kind = f"{kind}.{len(self._programs)}"
            name = self._programs[key] = f"{kind}.jax_export"
            self.blobs[name] = data
        return self._programs[key]

    def add_constant(self, name: str, array: Any) -> str:
        """File a tensor under a name of its own contents."""
        self._arrays[name] = np.asarray(array)
        return name

    def holds(self, name: str) -> bool:
        """Whether a tensor of that name is filed."""
        return name in self._arrays

    def constants(self) -> Tensors:
        """All tensors filed."""
        specs = {name: spec_of(array) for name, array in self._arrays.items()}
        return Tensors("the artifact's constants", specs, {n: partial(np.asarray, a) for n, a in self._arrays.items()})


def _export(source: Source, signature: Signature, platform: str, built: _Built, files: _Files) -> Platform:
    program, spliced = built.program, built.spliced
    for index, value in enumerate(program.constants):
        files.add_constant(program.arguments[index].name, value)
    names = _prepared_names(spliced)
    kept = {signature.name(i, program): signature.argument_spec(i, program) for i in spliced.kept}
    originals = {name: spec for name, spec in kept.items() if name is not None}
    prepared = {names[entry.preparation, entry.name]: Spec(entry.shape, entry.dtype) for entry in spliced.prepared}
    weights = prepared | originals
    step = _step_function(source, signature, program, spliced, names)
    exported = {}
    for kind, counted in (("step", False), ("check", True)):
        if counted and not any(counter.measure == "proof" for counter in spliced.counters):
            continue
        exported[kind] = files.add_program(
            f"{kind}.{platform}", _export_step(step, signature, weights, platform, counted, program.name)
        )
    preparations = tuple(
        _export_preparation(key, signature, program, spliced, names, files) for key in spliced.preparations
    )
    return Platform(exported["step"], exported.get("check", ""), weights, preparations)


def _prepared_names(spliced: Spliced) -> dict[tuple[str, str], str]:
    numbers = {key: f"{key.split('|')[0]}{i}" for i, key in enumerate(spliced.preparations)}
    return {(e.preparation, e.name): f"{numbers[e.preparation]}.{e.name}" for e in spliced.prepared}


def _step_function(
    source: Source, signature: Signature, program: Program, spliced: Spliced, names: dict[tuple[str, str], str]
) -> Any:
    counters = [jax.core.ShapedArray(c.shape, np.dtype(c.dtype)) for c in spliced.counters]

    def step(counted: bool, weights: dict[str, Any], args: Any, kwargs: Any) -> Any:
        operands = [signature.value(i, program, weights, args, kwargs) for i in spliced.kept]
        operands += [weights[names[entry.preparation, entry.name]] for entry in spliced.prepared]
        results = _mlir.run_module(spliced.module, (*program.out_avals, *counters), operands)
        own = len(program.out_avals)
        answer = signature.results(source, results[:own])
        if not counted:
            return answer
        measured = zip(spliced.counters, results[own:], strict=True)
        return answer, {c.site: value.ravel()[0] for c, value in measured if c.measure == "proof"}

    return step


def _export_step(
    step: Any, signature: Signature, weights: dict[str, Spec], platform: str, counted: bool, name: str
) -> Any:
    def call(weights: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return step(counted, weights, args, kwargs)

    call.__name__ = "hire_" + "".join(c if c.isalnum() else "_" for c in name.rsplit("/", 1)[-1])
    args, kwargs = signature.abstract()
    donated = [position + 1 for position in signature.donate]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        jitted = jax.jit(call, donate_argnums=donated)
        structs = {name: spec.struct for name, spec in weights.items()}
        return jax.export.export(jitted, platforms=[platform])(structs, *args, **kwargs)


def _export_preparation(
    key: str,
    signature: Signature,
    program: Program,
    spliced: Spliced,
    names: dict[tuple[str, str], str],
    files: _Files,
) -> Preparation:
    preparation = spliced.preparations[key]
    structs = [signature.argument_spec(i, program).struct for i in preparation.arguments]
    outputs = {e.name: names[key, e.name] for e in spliced.prepared if e.preparation == key}

    def build(*arrays: Any) -> Any:
        made = preparation.traced(*arrays)
        return [made[name] for name in outputs]

    # Calibration and index tables are arguments of the program, so that layers share one and it stays small.
    replay, values = hoist_constants(jax.make_jaxpr(build)(*structs))
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]

    def prepare(*operands: Any) -> dict[str, Any]:
        return dict(zip(outputs, replay(*operands), strict=True))

    # It runs wherever the weights are prepared, be that another machine than the one that steps.
    exported = jax.export.export(jax.jit(prepare), platforms=PREPARE_ON)(*shapes, *structs)
    kind = key.split("|")[0]
    return Preparation(
        key=key,
        program=files.add_program(f"prepare.{kind}", exported),
        inputs=tuple(signature.weight_name(i, program) for i in preparation.arguments),
        constants=tuple(files.add_constant(_content_name(value), value) for value in values),
        outputs=outputs,
    )


PREPARE_ON = ("cpu", "cuda", "tpu")


def _content_name(value: Any) -> str:
    return f"table[{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]}]"


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
