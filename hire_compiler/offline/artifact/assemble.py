"""Make an artifact of what a rewrite built: every step and prepare program exported, and the manifest of them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calling.measured import counts_budgets
from hire_compiler.capture.hoist import hoist_constants
from hire_compiler.capture.program import Program, identifier
from hire_compiler.config.rules import Config
from hire_compiler.files.progress import Progress
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.artifact.contents import PLAN, REPORT
from hire_compiler.offline.artifact.portable import allowed_calls
from hire_compiler.offline.disk.manifest import Input, Manifest, Platform, Portable, PrepareProgram
from hire_compiler.offline.disk.promise import promised
from hire_compiler.offline.disk.tensor_files import digest
from hire_compiler.offline.disk.tensors import Tensors, TensorSpec, spec_of
from hire_compiler.offline.disk.versions import versions_here
from hire_compiler.offline.source.devices import Devices
from hire_compiler.offline.source.signature import Signature
from hire_compiler.offline.source.source import Source
from hire_compiler.offline.source.trees import leaf_paths
from hire_compiler.passes.pipeline import Rewritten
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.splice.splice import Measured, Spliced
from hire_compiler.runtime.target import PLATFORMS, lowering_platform

PREPARE_ON = tuple(map(lowering_platform, PLATFORMS))


@dataclass(frozen=True, eq=False)
class Built:
    """The outcome of a rewrite for one platform.

    Attributes:
      program: what was rewritten.
      outcome: of all stages.
      spliced: the step program; the original where nothing was rewritten.
      devices: where its arguments lie.
    """

    program: Program
    outcome: Rewritten
    spliced: Spliced
    devices: Devices


def assemble(
    source: Source,
    signature: Signature,
    built: dict[str, Built],
    tensors: Tensors | None,
    given: dict[int, str],
    config: Config,
    refused: dict[str, str],
    progress: Progress,
) -> Artifact:
    """The artifact of one program per platform.

    Args:
      source: what was rewritten.
      signature: which of its arguments are weights.
      built: by platform.
      tensors, given: the model's weights, and by leaf which of them is which; None if they come later.
      config: the rules it was made by.
      refused: by platform for which there is no program, why not.
      progress: called with (what, done, of how many).
    """
    files = _Files()
    entries, sources = {}, dict[str, TensorSpec]()
    for done, (name, one) in enumerate(built.items()):
        progress(f"exporting for {name}", done, len(built))
        entries[name] = _export(source, signature, name, one, files)
        for preparation in entries[name].preparations:
            sources |= {n: signature.spec(n, one.program) for n in preparation.inputs}
        sources |= {n: entries[name].weights[n] for n in entries[name].originals}
    sources = {name: spec for name, spec in sources.items() if not files.holds(name)}
    files.blobs[PLAN] = _json({name: _planned(one.outcome) for name, one in built.items()})
    files.blobs[REPORT] = _json({name: b.outcome.report.to_dict() for name, b in built.items()})
    first = next(iter(built.values()))
    manifest = Manifest(
        name=source.name,
        source=source.digest,
        versions=versions_here(),
        inputs=tuple(
            Input(source.names[i], path, TensorSpec(*source.types[i]), source.donated[i])
            for i, path in zip(signature.inputs, signature.paths, strict=True)
        ),
        results=tuple(spec_of(aval) for aval in first.program.out_avals),
        sampling=source.sampling,
        donate=signature.donate,
        sources=sources,
        platforms=entries,
        mesh=dict(first.devices.mesh),
        refused=refused,
        portable=files.portable,
    )
    named = None if tensors is None else tensors.renamed({source.names[i]: tensor for i, tensor in given.items()})
    return Artifact(manifest, files.blobs, files.constants(), named, check_weights=config.check_weights)


class _Files:
    """The small files of the artifact, and the tensors that preparing takes beside the weights."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.portable: dict[str, Portable] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._programs: dict[str, str] = {}

    def add_program(self, kind: str, exported: Any) -> str:
        """File an export; an equal one is filed once."""
        data = bytes(exported.serialize())
        module = bytes(exported.mlir_module_serialized)
        key = hashlib.sha256(module + ",".join(exported.platforms).encode()).hexdigest()
        if key not in self._programs:
            if not kind.startswith(("step", "check")):
                kind = f"{kind}.{len(self._programs)}"
            name = self._programs[key] = f"{kind}.jax_export"
            self.blobs[name] = data
            self.blobs[f"{kind}.vhlo"] = module
            self.portable[name] = Portable(
                file=f"{kind}.vhlo",
                platforms=tuple(exported.platforms),
                kept=tuple(exported.module_kept_var_idx),
                results=tuple(leaf_paths(exported.out_tree)),
            )
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


def _export(source: Source, signature: Signature, platform: str, built: Built, files: _Files) -> Platform:
    program, spliced, devices = built.program, built.spliced, built.devices
    for index, value in enumerate(program.constants):
        files.add_constant(program.arguments[index].name, value)
    names = _prepared_names(spliced)
    kept = {signature.name(i, program): signature.argument_spec(i, program) for i in spliced.kept}
    originals = {name: spec for name, spec in kept.items() if name is not None}
    placed = {names[entry.preparation, entry.name]: entry.spec for entry in spliced.prepared}
    prepared = {
        names[entry.preparation, entry.name]: TensorSpec(entry.shape, entry.dtype) for entry in spliced.prepared
    }
    weights = prepared | originals
    structs = {name: devices.argument(i, kept[name]) for i in spliced.kept if (name := signature.name(i, program))}
    structs |= {name: devices.struct(spec, placed[name]) for name, spec in prepared.items()}
    step = _step_function(source, signature, program, spliced, names)
    exported = {}
    for kind, counted in (("step", False), ("check", True)):
        if counted and not any(counter.measure == "proof" for counter in spliced.counters):
            continue
        exported[kind] = files.add_program(
            f"{kind}.{platform}",
            _export_step(step, signature, structs, devices, platform, counted, program.name, program.module),
        )
    preparations = tuple(_export_preparation(key, signature, built, names, files) for key in spliced.preparations)
    promise = promised(built.outcome.report, [spec_of(aval) for aval in program.out_avals])
    return Platform(exported["step"], exported.get("check", ""), weights, preparations, promise)


def _prepared_names(spliced: Spliced) -> dict[tuple[PreparedKey, str], str]:
    numbers = {key: f"{key.kind}{i}" for i, key in enumerate(spliced.preparations)}
    return {(e.preparation, e.name): f"{numbers[e.preparation]}.{e.name}" for e in spliced.prepared}


def _step_function(
    source: Source, signature: Signature, program: Program, spliced: Spliced, names: dict[tuple[PreparedKey, str], str]
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
        return answer, _proofs(spliced.counters, results[own:])

    return step


def _proofs(counters: Sequence[Measured], values: Sequence[jax.Array]) -> dict[str, jax.Array]:
    """By site the number of rows proven; in loops and branches ``[2]``, with how often the site ran.

    An exact block always says how often it ran, and behind that what it counted of its neurons.
    """
    runs = {c.site: value.astype(int) for c, value in zip(counters, values, strict=True) if c.measure == "runs"}
    proofs = {}
    for counter, value in zip(counters, values, strict=True):
        if counter.measure == "proof":
            proven, *counted = jax.numpy.split(value.ravel(), [1]) if counts_budgets(counter) else [value.ravel()[:1]]
            ran = runs.get(counter.site, 1 if counted else None)
            if ran is not None:
                proven = jax.numpy.concatenate([proven.astype(int), jax.numpy.asarray([ran]), *counted])
            proofs[counter.site] = proven if ran is not None else proven[0]
    return proofs


def _export_step(
    step: Any,
    signature: Signature,
    structs: dict[str, Any],
    devices: Devices,
    platform: str,
    counted: bool,
    name: str,
    module: bytes,
) -> Any:
    def call(weights: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return step(counted, weights, args, kwargs)

    call.__name__ = f"hire_{identifier(name)}"
    args, kwargs = signature.abstract(devices)
    donated = [position + 1 for position in signature.donate]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        jitted = jax.jit(call, donate_argnums=donated)
        checks = allowed_calls(module)
        return jax.export.export(jitted, platforms=[platform], disabled_checks=checks)(structs, *args, **kwargs)


def _export_preparation(
    key: PreparedKey,
    signature: Signature,
    built: Built,
    names: dict[tuple[PreparedKey, str], str],
    files: _Files,
) -> PrepareProgram:
    program, spliced = built.program, built.spliced
    preparation = spliced.preparations[key]
    structs = [built.devices.argument(i, signature.argument_spec(i, program)) for i in preparation.arguments]
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
    return PrepareProgram(
        key=str(key),
        program=files.add_program(f"prepare.{key.kind}", exported),
        inputs=tuple(signature.weight_name(i, program) for i in preparation.arguments),
        constants=tuple(files.add_constant(_content_name(value), value) for value in values),
        outputs=outputs,
        vectors=tuple(signature.weight_name(i, program) for i in sorted(preparation.vectors)),
    )


def _content_name(value: Any) -> str:
    return f"table[{digest(np.asarray(value))[:12]}]"


def _planned(outcome: Rewritten) -> list[dict[str, Any]]:
    """The plan of all sites, those in a ``shard_map`` last."""
    own = [record.to_dict() for record in outcome.records]
    return [*own, *(asdict(decision) for decision in outcome.report.decisions[len(own) :])]


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
