"""Verify: run an artifact beside its original on the same inputs, and say how they differ."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from hire_compiler import _mlir
from hire_compiler.comparison.comparison import Comparison
from hire_compiler.comparison.difference import Difference, add_differences
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.disk.promise import Promise
from hire_compiler.offline.disk.tensors import Tensors, TensorSpec, open_tensors, spec_of
from hire_compiler.offline.original import Original, source_of
from hire_compiler.offline.source.devices import devices_of
from hire_compiler.offline.source.inputs import inputs_from, random_inputs
from hire_compiler.offline.watch import Watch


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
      comparison: how fast both were, where that was asked for.
    """

    trials: int
    inputs: str
    differences: list[Difference]
    certificates: dict[str, tuple[int, int]]
    promise: Promise
    failures: tuple[str, ...] = ()
    comparison: Comparison | None = None

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
        timed = {"comparison": self.comparison and self.comparison.to_dict()}
        return asdict(replace(self, comparison=None)) | {"certificates": certificates} | summary | timed


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
    time: bool = False,
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
        planned (:class:`hire_compiler.offline.disk.promise.Promise`).
      agreement: the share of integers that has to agree; None for what was planned.
      time: also run both in turns on every input, on this machine, and say how long each takes.
      progress: called with (what, done, of how many).

    Raises:
      ArtifactError: the artifact was made from another model.
      WeightError: a weight or an input is missing or has another type, or a weight is not the artifact's own.
    """
    run = Original(source_of(artifact, original, dims), artifact, weights, mapping)
    entries = artifact.manifest.inputs
    stored = artifact.weights()
    call = jax.jit(artifact.step_program(counted=True).call)
    counted = bool(artifact.platform().check)
    widths = {site["width"] for site in next(iter(artifact.report().values()))["sites"] if site["kind"] == "head"}
    watch = Watch(run, artifact, stored) if time else None
    differences: list[Difference] = []
    counts = Counter[tuple[str, str]]()
    done = 0
    for done, values in enumerate(_trials(entries, inputs, trials, seed), start=1):
        expected = [np.asarray(result) for result in run.ready(values)()]
        args, kwargs = artifact.inputs([jnp.asarray(value) for value in values])
        found = call(stored, *args, **kwargs)
        if counted:
            found, proofs = found
            for site, proof in proofs.items():
                proven, runs = np.append(np.ravel(proof), 1)[:2]
                counts.update({(site, "proven"): int(proven), (site, "runs"): int(runs)})
        if not differences:
            differences = [Difference(name, str(spec)) for name, spec in _results(found)]
        add_differences(differences, expected, jax.tree.leaves(found), widths)
        progress("comparing", done, len(inputs) or trials)
        if watch is not None:
            watch.time(values, of=len(inputs) or trials)
    unread = {name for report in artifact.report().values() for name in report.get("unread", ())}
    differences = [difference for difference in differences if difference.name not in unread]
    for difference in differences:
        difference.recall = {k: total / done for k, total in difference.recall.items()}
    batches = {s["id"]: s["batch"] for s in next(iter(artifact.report().values()))["sites"]}
    proven_sites = [site for site, what in counts if what == "proven"]
    certificates = {s: (batches[s] * counts[s, "runs"], counts[s, "proven"]) for s in proven_sites}
    promise = artifact.platform().promise
    return Verification(
        trials=done,
        inputs="given" if inputs else f"random (seed {seed})",
        differences=differences,
        certificates=certificates,
        promise=promise,
        failures=promise.broken_by(differences, tolerance, agreement),
        comparison=None if watch is None else watch.found(differences, certificates, done),
    )


def export_original(artifact: Artifact, original: Any, dims: Mapping[str, int] | None, platform: str) -> Any:
    """The dense program of an artifact as a ``jax.export.Exported`` for one platform, its arguments flat.

    Raises:
      ArtifactError: the artifact was made from another model.
    """
    source = source_of(artifact, original, dims)
    program = source.program(platform)

    def dense(*values: Any) -> list[Any]:
        return _mlir.run_module(program.module, program.out_avals, values)

    devices = devices_of(program, source.devices)
    structs = [devices.argument(i, TensorSpec(a.shape, a.dtype)) for i, a in enumerate(program.arguments)]
    donated = [i for i, argument in enumerate(program.arguments) if argument.donated]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        return jax.export.export(jax.jit(dense, donate_argnums=donated), platforms=[platform])(*structs)


def _trials(entries: Sequence[Any], files: Sequence[Any], trials: int, seed: int) -> Iterator[list[np.ndarray]]:
    names, specs = [entry.name for entry in entries], [entry.spec for entry in entries]
    if not files:
        rng = np.random.default_rng(seed)
        yield from (random_inputs(specs, rng) for _ in range(trials))
    for file in files:
        tensors = file if isinstance(file, Tensors) else open_tensors(file)
        yield inputs_from(tensors, names, specs)


def _results(tree: Any) -> list[tuple[str, TensorSpec]]:
    return [(keystr(path) or "result", spec_of(leaf)) for path, leaf in tree_flatten_with_path(tree)[0]]
