"""What each verb does: read the options, call the function of the package, print."""

from __future__ import annotations

import json
import statistics
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hire_compiler as hire
from hire_compiler.cli.show import artifact_lines, show, table, verification_lines
from hire_compiler.cli.words import on_the_command_line
from hire_compiler.config.read_toml import RulesFile, read_rules
from hire_compiler.errors import ConfigError
from hire_compiler.files.atomic import check_destination, new_file
from hire_compiler.files.progress import Progress, progress
from hire_compiler.offline.adapt import adapt as adapt_artifact
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.artifact.save import replacing
from hire_compiler.offline.calibrate_export import calibrate_export, load_calibration, save_calibration
from hire_compiler.offline.disk.tensor_files import TensorWriter
from hire_compiler.offline.disk.tensors import open_tensors, spec_of
from hire_compiler.offline.source.inputs import inputs_from, random_inputs
from hire_compiler.offline.verify import export_original
from hire_compiler.offline.verify import verify as verify_artifact
from hire_compiler.reports.text import report_text
from hire_compiler.tuning.budget import Budget
from hire_compiler.tuning.export import tune_export


def inspect(options: Namespace) -> int:
    """Sites and misses of a model."""
    with progress() as tell:
        tell("reading", 0, 1)
        report = hire.inspect(options.file, dims=_dims(options))
    found, text = report.to_dict(), report_text(report, options.full, on_the_command_line)
    _print(options, {key: found[key] for key in ("sites", "misses", "notes")}, text)
    return 0


def calibrate(options: Namespace) -> int:
    """What predictors and plans need, into a file."""
    _check_output(options.output)
    with progress() as tell:
        learned = calibrate_export(
            options.file,
            options.inputs,
            weights=options.weights,
            mapping=dict(options.map),
            dims=_dims(options),
            kind=options.kind,
            config=read_rules(options.rules).config if options.rules else None,
            strongest=options.strongest,
            progress=tell,
        )
    save_calibration(learned, options.output)
    rows = {key: moment.rows for key, moment in learned.moments.items()}
    active = {key: activity.union(1) for key, activity in learned.activities.items()}
    notes = learned.doubts()
    found = {"output": str(options.output), "rows": rows, "active": active, "notes": notes}
    _print(options, found, "\n".join([f"{options.output}: {learned}", *(f"  note  {note}" for note in notes)]))
    return 0


def rewrite(options: Namespace) -> int:
    """A model into an artifact."""
    check_destination(options.output, replacing(options.force))
    with progress() as tell:
        artifact, _ = _rewritten(options, options.platform, tell, options.parameters)
        artifact.save(options.output, overwrite=options.force, progress=tell)
    return _describe(options, hire.load(options.output))


def _rewritten(
    options: Namespace, platforms: list[str] | None, tell: Progress, parameters: str = ""
) -> tuple[Artifact, dict[str, str]]:
    """A model, rewritten by the rules that the options name, and which tensors its arguments are."""
    rules = read_rules(options.rules) if options.rules else RulesFile(hire.Config(), {})
    mapping = rules.mapping | dict(options.map)
    artifact = hire.rewrite(
        options.file,
        rules.config,
        calibration=load_calibration(options.calibration) if options.calibration else None,
        weights=options.weights,
        mapping=mapping,
        parameters=parameters,
        sampler=_sampling(options),
        dims=_dims(options),
        platforms=platforms,
        progress=tell,
    )
    return artifact, mapping


def prepare(options: Namespace) -> int:
    """The model's weights into an artifact."""
    artifact = hire.load(options.artifact).with_weights(options.weights, dict(options.map))
    output, force = (options.output, options.force) if options.output else (options.artifact, True)
    check_destination(output, replacing(force))
    with progress() as tell:
        artifact.save(output, overwrite=force, new=options.new_weights, progress=tell)
    return _describe(options, hire.load(output))


def upgrade(options: Namespace) -> int:
    """An artifact's programs, anew on this JAX."""
    artifact = hire.load(options.artifact)
    output, force = (options.output, options.force) if options.output else (options.artifact, True)
    check_destination(output, replacing(force))
    with progress() as tell:
        artifact.upgrade(output, overwrite=force, progress=tell)
    return _describe(options, hire.load(output))


def run(options: Namespace) -> int:
    """The step of an artifact on given or random inputs."""
    artifact = hire.load(options.artifact)
    if options.output:
        _check_output(options.output)
        _refuse_bfloat16(options.output, artifact)
    names = [entry.name for entry in artifact.manifest.inputs]
    specs = [entry.spec for entry in artifact.manifest.inputs]
    if options.inputs:
        values = inputs_from(open_tensors(options.inputs), names, specs)
    else:
        values = random_inputs(specs, np.random.default_rng(options.seed))
    with progress() as tell:
        tell("loading", 0, 1)
        weights = artifact.weights()
        seconds, results = [], None
        call = artifact.step
        for done in range(options.repeat + 1):  # the first run compiles
            args, kwargs = artifact.inputs([jax.numpy.array(value) for value in values])  # donated: a copy each
            start = time.perf_counter()
            results = jax.block_until_ready(call(weights, *args, **kwargs))
            seconds.append(time.perf_counter() - start)
            tell("running", done, options.repeat)
    named = _named_results(results)
    if options.output:
        _write_results(options.output, named)
    shown = [{"name": n, "type": str(spec_of(a)), "first": a.reshape(-1)[:8].tolist()} for n, a in named.items()]
    median = statistics.median(seconds[1:])
    text = [table(("result", "type", "first values"), [[r["name"], r["type"], _short(r["first"])] for r in shown])]
    text.append(f"{median * 1e3:.3f} ms a call (median of {options.repeat}), compiled in {seconds[0]:.2f} s")
    _print(options, {"results": shown, "seconds": median, "compile_seconds": seconds[0]}, "\n".join(text))
    return 0


def verify(options: Namespace) -> int:
    """An artifact against its original."""
    artifact = hire.load(options.artifact)
    with progress() as tell:
        found = verify_artifact(
            artifact,
            options.original,
            weights=options.weights,
            mapping=dict(options.map),
            dims=_dims(options),
            inputs=options.inputs,
            trials=options.trials,
            seed=options.seed,
            tolerance=options.tolerance,
            agreement=options.agreement,
            time=options.time,
            progress=tell,
        )
    content = found.to_dict() | {"failed": bool(found.failures)}
    _print(options, content, "\n".join(verification_lines(found)))
    return int(bool(found.failures))


def adapt(options: Namespace) -> int:
    """An artifact with the budgets that its calls need."""
    output, force = (options.output, options.force) if options.output else (options.artifact, True)
    check_destination(output, replacing(force))
    with progress() as tell:
        artifact, changed = adapt_artifact(
            hire.load(options.artifact),
            options.original,
            options.inputs,
            weights=options.weights,
            mapping=dict(options.map),
            dims=_dims(options),
            calibration=load_calibration(options.calibration) if options.calibration else None,
            progress=tell,
        )
        if changed:
            artifact.save(output, overwrite=force, progress=tell)
    said = {site: found.said for site, found in changed.items()}
    text = "\n".join(f"{site}: {words}" for site, words in said.items())
    written = f"{text}\nwritten to {output}" if changed else "nothing to change: no artifact was written"
    _print(options, {"changed": said, "output": str(output) if changed else ""}, written)
    return 0


def compare(options: Namespace) -> int:
    """A model beside itself, rewritten in memory."""
    if options.picture:
        _check_output(options.picture)
    with progress() as tell:
        artifact, mapping = _rewritten(options, [jax.default_backend()], tell)
        found = verify_artifact(
            artifact,
            options.file,
            weights=options.weights,
            mapping=mapping,
            dims=_dims(options),
            inputs=options.inputs,
            trials=options.trials,
            seed=options.seed,
            time=True,
            progress=tell,
        ).comparison
    assert found is not None
    if options.picture:
        hire.draw(found, options.picture)
    _print(options, found.to_dict(), str(found))
    return 0


def tune(options: Namespace) -> int:
    """The rules to take, into a file."""
    for path in filter(None, (options.output, options.picture)):
        _check_output(path)
    if options.output.suffix != ".toml":
        raise ConfigError(f"{options.output}: rules are written as TOML: name a file that ends in .toml")
    with progress() as tell:
        found = tune_export(
            options.file,
            options.forward,
            options.inputs,
            Budget(options.recall, options.loss, options.memory),
            weights=options.weights,
            mapping=dict(options.map),
            dims=_dims(options),
            progress=tell,
        )
    found.save(options.output)
    if options.picture:
        hire.draw(found, options.picture)
    learned = options.output.with_suffix(".safetensors")
    hint = f"hire-compiler rewrite {options.file} --rules {options.output} --calibration {learned} …"
    _print(options, found.to_dict() | {"output": str(options.output)}, f"{found}\n\n{hint}")
    return 0


def estimate(options: Namespace) -> int:
    """What a step would cost on a TPU, as its compiler sees it."""
    artifact = hire.load(options.artifact)
    program = artifact.step_program("tpu")
    with progress() as tell:
        dense = None
        if options.original:
            tell("compiling dense", 0, 2)
            exported = export_original(artifact, options.original, _dims(options), "tpu")
            dense = hire.estimate(exported, tpu=options.tpu)
        tell("compiling rewritten", 1, 2)
        sparse = hire.estimate(program, tpu=options.tpu)
    found = sparse if dense is None else hire.Estimates(dense=dense, rewritten=sparse)
    _print(options, found.to_dict(), str(found))
    return 0


def report(options: Namespace) -> int:
    """What was done to a model when its artifact was made."""
    artifact = hire.load(options.artifact)
    if options.picture:
        hire.draw(artifact.report(), options.picture)
    return _describe(options, artifact)


# --------------------------------------------------------------------------- helpers


def _describe(options: Namespace, artifact: Artifact) -> int:
    content = json.loads(artifact.manifest.to_bytes())
    content = {
        key: content[key] for key in ("name", "source", "fingerprint", "versions", "inputs", "platforms", "files")
    }
    lines = artifact_lines(artifact, getattr(options, "full", False))
    _print(options, {**content, "report": artifact.report()}, "\n".join(lines))
    return 0


def _print(options: Namespace, content: Any, text: str) -> None:
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        show(on_the_command_line(text))


def _dims(options: Namespace) -> dict[str, int]:
    return dict(options.dim)


def _sampling(options: Namespace) -> hire.Sampling | None:
    if options.sampler is None:
        if options.logits is not None or options.k is not None or options.temperature is not None:
            raise ConfigError("--logits, -k and --temperature are options of --sampler: name a sampler")
        return None
    try:
        heat = {"input": None, None: 1.0}.get(options.temperature, options.temperature)
        temperature = None if heat is None else float(heat)
    except ValueError:
        raise ConfigError(f"--temperature is {options.temperature!r}: give a number, or 'input'") from None
    return hire.Sampling(options.sampler, options.logits, options.k, temperature, options.position)


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory: name a file")
    check_destination(path)


def _refuse_bfloat16(path: Path, artifact: Artifact) -> None:
    if path.suffix == ".npz" and any(spec.dtype == "bfloat16" for spec in artifact.manifest.results):
        raise ConfigError(f"{path}: npz cannot hold bfloat16, which the results are: name a .safetensors file")


def _named_results(results: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(results)[0]
    return {f"result{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def _write_results(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with new_file(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **arrays)  # type: ignore[arg-type]
            return
        writer = TensorWriter(file, {name: spec_of(array) for name, array in arrays.items()}, {"format": "np"})
        for name, array in arrays.items():
            writer.write(name, array)


def _short(values: list[Any]) -> str:
    return " ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
