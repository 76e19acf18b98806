"""Adapt an artifact: run it on real inputs, and plan anew what its exact default got wrong.

It is what a transformed function does by itself after its first calls (:mod:`hire_compiler.calling.adapt`). An artifact
holds programs and not the model, so the model it was made from has to be at hand. Everything else of its plan is
carried out again as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.calling.adapt import adapted
from hire_compiler.calling.measured import Measurements
from hire_compiler.config.rules import Config
from hire_compiler.errors import ArtifactError, ConfigError, WeightError
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.learned.calibration import Calibration
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.artifact.assemble import assemble
from hire_compiler.offline.artifact.contents import PLAN
from hire_compiler.offline.disk.tensors import Tensors, open_tensors
from hire_compiler.offline.original import source_of
from hire_compiler.offline.rewrite import build
from hire_compiler.offline.source.inputs import inputs_from
from hire_compiler.offline.source.naming import assign
from hire_compiler.offline.source.signature import choose_weights
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.passes.plan.saved_plan import Plan
from hire_compiler.passes.splice.splice import Measured
from hire_compiler.reports.report import Report, report_of
from hire_compiler.runtime.target import lowering_platform, target_for


def adapt(
    artifact: Artifact,
    original: Any,
    inputs: Sequence[Any],
    *,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    dims: Mapping[str, int] | None = None,
    calibration: Calibration | None = None,
    progress: Progress = no_progress,
) -> tuple[Artifact, dict[str, Adapted]]:
    """An artifact whose budgets fit what its calls touch, and by site what was changed; itself if nothing was.

    Args:
      artifact: with weights, stored or given.
      original: the export or file it was made from.
      inputs: files (or mappings) with the inputs, one a call: what it meets in use.
      weights, mapping, dims: as for ``rewrite``; the artifact's own weights.
      calibration: the one it was made with, if something was prepared with it.
      progress: called with (what, done, of how many).

    Raises:
      ArtifactError: it was made from another model, or runs on several devices.
      WeightError: a weight or an input is missing or has another type, or a weight is not the artifact's own.
    """
    if artifact.manifest.mesh:
        raise ArtifactError(f"{artifact.where} runs on several devices: there nothing is adapted")
    if not inputs:
        raise ConfigError("give the inputs of some calls: without them nothing can be counted")
    source = source_of(artifact, original, dims)
    tensors = None if weights is None else open_tensors(weights)
    if tensors is None and artifact.manifest.sources:
        raise WeightError(f"{artifact.where} is written anew with its weights: give them (weights=…)")
    given = {} if tensors is None else assign(source, tensors, mapping)
    here = lowering_platform(jax.default_backend())
    changed = _changed(artifact, here, inputs, progress)
    if not changed:
        return artifact, {}
    config = Config(plan=Plan.from_json(artifact.blobs[PLAN]), check_weights=artifact.check_weights)
    built = {}
    for done, name in enumerate(artifact.manifest.platforms):
        progress(f"planning anew for {name}", done, len(artifact.manifest.platforms))
        built[name] = build(source, config, calibration, name, changed if name == here else {})
    names = "|".join(map(re.escape, artifact.manifest.sources))
    parameters = f"^({names})$" if names else ""
    signature = choose_weights(source, [(one.program, one.spliced) for one in built.values()], given, parameters)
    made = assemble(source, signature, built, tensors, given, config, artifact.manifest.refused, progress)
    made.manifest.hashes.update(artifact.manifest.hashes)
    return made, changed


def _changed(artifact: Artifact, platform: str, inputs: Sequence[Any], progress: Progress) -> dict[str, Adapted]:
    """What to do with the defaults of an artifact, after it has run."""
    if not artifact.platform(platform).check:
        return {}
    report = report_of(artifact.report()[platform])
    measured = _counted(artifact, platform, report, inputs, progress)
    found = replace(report, certificates=measured.certificates())
    return adapted(found, measured.calls, measured.held(), measured.block_counts(), target_for(platform).costs)


def _counted(
    artifact: Artifact, platform: str, report: Report, inputs: Sequence[Any], progress: Progress
) -> Measurements:
    """Run it, and add up what its sites count."""
    names, specs = zip(*((entry.name, entry.spec) for entry in artifact.manifest.inputs), strict=True)
    stored, call = artifact.weights(platform), jax.jit(artifact.step_program(platform, counted=True).call)
    measured: Measurements | None = None
    for done, file in enumerate(inputs):
        progress("counting", done, len(inputs))
        values = inputs_from(file if isinstance(file, Tensors) else open_tensors(file), names, specs)
        args, kwargs = artifact.inputs([jnp.asarray(value) for value in values])
        _, proofs = call(stored, *args, **kwargs)
        numbers = {site: np.asarray(proof).ravel() for site, proof in proofs.items()}
        if measured is None:
            measured = Measurements([c for site in numbers for c in _counters(site, numbers[site])], report)
        measured.add([part for site in numbers for part in _parts(numbers[site])])
    assert measured is not None
    return measured


def _counters(site: str, numbers: np.ndarray) -> list[Measured]:
    """What a site's numbers are: rows proven, how often it ran, and what an exact block counts."""
    shape = () if numbers.size < 3 else (numbers.size - 1,)
    runs = [Measured(site, "runs", (), "int32")] if numbers.size > 1 else []
    return [Measured(site, "proof", shape, "int32"), *runs]


def _parts(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[:1]] if numbers.size == 1 else [np.delete(numbers, 1), numbers[1:2]]
