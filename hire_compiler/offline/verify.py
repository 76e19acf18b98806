"""Verify: run an artifact beside its original on the same inputs, and say how they differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from hire_compiler import _mlir
from hire_compiler.errors import ArtifactError, WeightError
from hire_compiler.offline.artifact import Artifact
from hire_compiler.offline.devices import devices_of
from hire_compiler.offline.difference import Difference, compare
from hire_compiler.offline.inputs import inputs_from, random_inputs
from hire_compiler.offline.naming import assign
from hire_compiler.offline.progress import Progress, no_progress
from hire_compiler.offline.promise import Promise
from hire_compiler.offline.sampled import fold_sampler
from hire_compiler.offline.source import Source, read_source
from hire_compiler.offline.tensor_files import digest
from hire_compiler.offline.tensors import Spec, Tensors, open_tensors, spec_of
from hire_compiler.offline.trees import nest


@dataclass(frozen=True)
class Verification:
    """An artifact against its original.

    Attributes:
      trials: inputs tried.
      inputs: where they came from.
      differences: one a result.
      certificates: by site, (rows seen, rows proven).
      promise: what it has to fulfil.
      failures: what it did not, a sentence each.
    """

    trials: int
    inputs: str
    differences: list[Difference]
    certificates: dict[str, tuple[int, int]]
    promise: Promise
    failures: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        """Largest error of any float result, relative to the largest value of that result."""
        return max((d.relative for d in self.differences), default=0.0)

    @property
    def token_agreement(self) -> float | None:
        """Share of all integer entries that agree; None if there are none."""
        total = sum(d.total for d in self.differences)
        return sum(d.equal for d in self.differences) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        certificates = {site: {"rows": rows, "proven": proven} for site, (rows, proven) in self.certificates.items()}
        summary = {"max_error": self.max_error, "token_agreement": self.token_agreement}
        return asdict(self) | {"certificates": certificates} | summary


def verify(
    artifact: Artifact,
    original: Any,
    *,
    weights: Any,
    mapping: Mapping[str, str] | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Sequence[Any] = (),
    trials: int = 4,
    seed: int = 0,
    tolerance: float | None = None,
    agreement: float | None = None,
    progress: Progress = no_progress,
) -> Verification:
    """Compare an artifact with the model it was made from, and with what was planned for it.

    Args:
      artifact: with weights, stored or given.
      original: the export or file it was made from.
      weights: the model's own weights, as for ``rewrite``; None if the module holds them itself.
      mapping, dims: as for ``rewrite``.
      inputs: files (or mappings) with the inputs, one a trial; random ones if empty.
      trials: how many random inputs.
      seed: of the random inputs.
      tolerance: the largest error of a float result that is allowed, relative to its largest value; None for what was
        planned (:class:`hire_compiler.offline.promise.Promise`).
      agreement: the share of integers that has to agree; None for what was planned.
      progress: called with (what, done, of how many).

    Raises:
      ArtifactError: the artifact was made from another model.
      WeightError: a weight or an input is missing or has another type, or a weight is not the artifact's own.
    """
    source = _source_of(artifact, original, dims)
    run = _original(source, artifact, weights, mapping)
    entries = artifact.manifest.inputs
    stored = artifact.weights()
    call = jax.jit(artifact.step_program(counted=True).call)
    counted = bool(artifact.platform().check)
    widths = {site["width"] for site in next(iter(artifact.report().values()))["sites"] if site["kind"] == "head"}
    differences: list[Difference] = []
    proven: dict[str, int] = {}
    done = 0
    for done, values in enumerate(_trials(entries, inputs, trials, seed), start=1):
        expected = run(values)
        args, kwargs = artifact.inputs([jnp.asarray(value) for value in values])
        found = call(stored, *args, **kwargs)
        if counted:
            found, counts = found
            proven = {site: proven.get(site, 0) + int(count) for site, count in counts.items()}
        if not differences:
            differences = [Difference(name, str(spec)) for name, spec in _results(found)]
        compare(differences, expected, jax.tree.leaves(found), widths)
        progress("comparing", done, len(inputs) or trials)
    for difference in differences:
        difference.recall = {k: total / done for k, total in difference.recall.items()}
    batches = {s["id"]: s["batch"] for s in next(iter(artifact.report().values()))["sites"]}
    certificates = {site: (batches[site] * done, count) for site, count in proven.items()}
    promise = artifact.platform().promise
    return Verification(
        trials=done,
        inputs="given" if inputs else f"random (seed {seed})",
        differences=differences,
        certificates=certificates,
        promise=promise,
        failures=promise.broken_by(differences, tolerance, agreement),
    )


def export_original(artifact: Artifact, original: Any, dims: Mapping[str, int] | None, platform: str) -> Any:
    """The dense program of an artifact as a ``jax.export.Exported`` for one platform, its arguments flat.

    Raises:
      ArtifactError: the artifact was made from another model.
    """
    source = _source_of(artifact, original, dims)
    program = source.program(platform)

    def dense(*values: Any) -> list[Any]:
        return _mlir.run_module(program.module, program.out_avals, values)

    devices = devices_of(program, source.devices)
    structs = [devices.argument(i, Spec(a.shape, a.dtype)) for i, a in enumerate(program.arguments)]
    donated = [i for i, argument in enumerate(program.arguments) if argument.donated]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        return jax.export.export(jax.jit(dense, donate_argnums=donated), platforms=[platform])(*structs)


def _source_of(artifact: Artifact, original: Any, dims: Mapping[str, int] | None) -> Source:
    source = read_source(original, dims=dims)
    if source.digest != artifact.manifest.source:
        raise ArtifactError(f"{artifact.manifest.name!r} was rewritten from another model than {source.name}")
    sampling = artifact.manifest.sampling
    return source if sampling is None else fold_sampler(source, sampling)


def _original(
    source: Source, artifact: Artifact, weights: Any, mapping: Mapping[str, str] | None
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """The original as a function of the artifact's inputs; its results in the artifact's order."""
    program = source.program(jax.default_backend())
    devices = devices_of(program, source.devices)
    tensors = None if weights is None else open_tensors(weights)
    given = {} if tensors is None else assign(source, tensors, mapping)
    named = {entry.name: position for position, entry in enumerate(artifact.manifest.inputs)}
    fixed: list[Any] = [devices.put(i, constant) for i, constant in enumerate(program.constants)]
    places = []
    first = len(fixed)
    for i, (argument, leaf) in enumerate(zip(program.arguments[first:], source.kept, strict=True), start=first):
        if argument.name in named:
            places.append(named[argument.name])
        elif leaf in given and tensors is not None:
            places.append(-1)
            fixed.append(devices.put(i, _own_weight(artifact, argument.name, tensors, given[leaf])))
        else:
            raise ArtifactError(
                f"the original takes {argument.name}, which is neither among the weights nor an "
                "input: give the model's own weights (--weights)"
            )
    held, own = fixed[: len(program.constants)], iter(fixed[len(program.constants) :])
    operands = [*held, *(place if place >= 0 else next(own) for place in places)]
    order = _result_order(source, len(program.out_avals))

    @jax.jit
    def flat(*values: Any) -> list[Any]:
        return _mlir.run_module(program.module, program.out_avals, values)

    def run(values: list[np.ndarray]) -> list[np.ndarray]:
        ready = [values[o] if isinstance(o, int) else o for o in operands]
        results = flat(*ready)
        return [np.asarray(results[i]) for i in order]

    return run


def _own_weight(artifact: Artifact, name: str, tensors: Tensors, tensor: str) -> np.ndarray:
    """A weight for the original, which has to be the one that the artifact was made from."""
    array, known = tensors.read(tensor), artifact.manifest.hashes.get(name)
    if known is None and artifact.given is not None and name in artifact.given.specs:
        known = digest(artifact.given.read(name))
    if known is not None and known != digest(array):
        raise WeightError(
            f"{tensor} of {tensors.origin} is not the weight that {artifact.where} was prepared from: a comparison "
            "would say nothing; give the artifact's own weights, or prepare it with these first"
        )
    return array


def _result_order(source: Source, count: int) -> list[int]:
    """Plain dicts are flattened by sorted keys, other nodes in the order of their fields."""
    if source.out_paths is None:
        return list(range(count))
    return list(jax.tree.leaves(nest(source.out_paths, list(range(count)))))


def _trials(entries: Sequence[Any], files: Sequence[Any], trials: int, seed: int) -> Iterator[list[np.ndarray]]:
    names, specs = [entry.name for entry in entries], [entry.spec for entry in entries]
    if not files:
        rng = np.random.default_rng(seed)
        yield from (random_inputs(specs, rng) for _ in range(trials))
    for file in files:
        tensors = file if isinstance(file, Tensors) else open_tensors(file)
        yield inputs_from(tensors, names, specs)


def _results(tree: Any) -> list[tuple[str, Spec]]:
    return [(keystr(path) or "result", spec_of(leaf)) for path, leaf in tree_flatten_with_path(tree)[0]]
