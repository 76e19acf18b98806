"""Rewrite a model that came as an export: the stages of ``passes/``, one step program per platform, an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hire_compiler.authors.sampler import Sampling
from hire_compiler.capture.program import Program
from hire_compiler.config.rules import Config, check_config
from hire_compiler.errors import ConfigError, WeightError
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.learned.calibration import Calibration
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.artifact.assemble import Built, assemble
from hire_compiler.offline.disk.tensors import open_tensors
from hire_compiler.offline.source.devices import devices_of
from hire_compiler.offline.source.naming import assign
from hire_compiler.offline.source.sampled import fold_sampler
from hire_compiler.offline.source.signature import choose_weights
from hire_compiler.offline.source.source import Source, read_source
from hire_compiler.passes.pipeline import NONE_ADAPTED, rewrite_program
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.passes.splice.splice import Spliced
from hire_compiler.reports.report import Report
from hire_compiler.runtime.target import JAX_PLATFORMS, lowering_platform

DEFAULT_PLATFORMS = ("cpu", "tpu")


def rewrite(
    target: Any,
    config: Config | None = None,
    *,
    calibration: Calibration | None = None,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    parameters: str = "",
    sampler: str | Sampling | None = None,
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
      sampler: fold in the choice of the next token where the model returns logits, so that its head can be certified:
        ``"greedy"``, or a :class:`hire_compiler.Sampling` with options.
      dims: sizes of symbolic dimensions.
      platforms: for which to make step programs; by default CPU and TPU as far as the export allows. Where a rule is
        impossible on one of them (a strict certificate of float32 on a TPU), the report says so, and the others remain.
      progress: called with (what, done, of how many).

    Returns:
      The artifact; ``save(path)`` writes it.

    Raises:
      HireError: the target cannot be read or rewritten, or a rule or weight does not fit; the message says which.
    """
    check_config(config)
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ConfigError(f"calibration is a {type(calibration).__name__}: pass what hire.calibrate returned")
    progress("reading", 0, 1)
    source = read_source(target, dims=dims)
    if sampler is not None:
        source = fold_sampler(source, sampler if isinstance(sampler, Sampling) else Sampling(sampler))
    chosen = _platforms(source, platforms)
    tensors = None if weights is None else open_tensors(weights)
    given = {} if tensors is None else assign(source, tensors, mapping)
    if mapping and tensors is None:
        raise WeightError("a map of names was given, but no weights")
    built: dict[str, Built] = {}
    refused: dict[str, ConfigError] = {}
    for done, name in enumerate(chosen):
        progress(f"rewriting for {name}", done, len(chosen))
        try:
            built[name] = build(source, config or Config(), calibration, name)
        except ConfigError as error:
            refused[name] = error
    if not built:
        raise next(iter(refused.values()))
    for name, one in built.items():
        notes = tuple(f"there is no program for {other}: {error}" for other, error in refused.items())
        built[name] = replace(one, outcome=replace(one.outcome, report=_noted(one.outcome.report, *notes)))
    signature = choose_weights(source, [(b.program, b.spliced) for b in built.values()], given, parameters)
    refusals = {name: str(error) for name, error in refused.items()}
    return assemble(source, signature, built, tensors, given, config or Config(), refusals, progress)


def build(
    source: Source,
    config: Config,
    calibration: Calibration | None,
    platform: str,
    adapted: Mapping[str, Adapted] = NONE_ADAPTED,
) -> Built:
    """Rewrite a source for one platform; ``adapted``: what counting said of defaults, by site."""
    program = source.program(platform)
    devices = devices_of(program, source.devices)
    outcome = rewrite_program(program, config, calibration, platform, source.devices, storable=True, adapted=adapted)
    if source.sampling is not None:
        outcome = replace(outcome, report=_noted(outcome.report, f"sampler folded in: {source.sampling}"))
    return Built(program, outcome, outcome.spliced or _unchanged(program), devices)


def _platforms(source: Source, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        usable = tuple(name for name in DEFAULT_PLATFORMS if not source.refusal(name))
        return usable or source.platforms[:1] or ("cpu",)
    names = tuple(dict.fromkeys(map(lowering_platform, wanted)))
    for name in names:
        if name not in JAX_PLATFORMS:
            raise ConfigError(f"platform {name!r} is unknown: use one of {', '.join(JAX_PLATFORMS)}")
    if not names:
        raise ConfigError(f"no platform was named: use one of {', '.join(JAX_PLATFORMS)}")
    return names


def _noted(report: Report, *notes: str) -> Report:
    return replace(report, notes=(*notes, *report.notes))


def _unchanged(program: Program) -> Spliced:
    return Spliced(program.module, tuple(range(len(program.arguments))), (), {})
