"""Calibrate a model that came as an export, and keep what was learned in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration, Moment
from hire_compiler.errors import CaptureError, HireError, WeightError
from hire_compiler.offline.atomic import new_file
from hire_compiler.offline.inputs import inputs_from
from hire_compiler.offline.naming import assign
from hire_compiler.offline.progress import Progress, no_progress
from hire_compiler.offline.source import read_source
from hire_compiler.offline.tensor_files import TensorWriter
from hire_compiler.offline.tensors import Spec, open_tensors, spec_of
from hire_compiler.passes.pipeline import instrument_program

FORMAT = "hire-calibration"


def calibrate_export(
    target: Any,
    batches: Iterable[Any],
    *,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    dims: Mapping[str, int] | None = None,
    kind: str | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Accumulate E[xxᵀ] at the input of every site of an exported model.

    Args:
      target, weights, mapping, dims: as for ``hire.rewrite``.
      batches: files (or mappings) with the inputs of one call each, by name or position.
      kind: ``"head"`` or ``"ffn"`` to probe only those sites.
      progress: called with (what, done, of how many).

    Raises:
      CaptureError: the model has no such site, or no batch was given.
      WeightError: a weight or input is missing, or an input row was NaN or Inf.
    """
    source = read_source(target, dims=dims)
    program = source.program(jax.default_backend())
    instrumented = instrument_program(program, kind, jax.default_backend())
    if not instrumented.probes:
        raise CaptureError(f"{source.name} has no {kind + ' ' if kind else ''}site to calibrate: inspect says why not")
    tensors = None if weights is None else open_tensors(weights)
    given = {} if tensors is None else assign(source, tensors, mapping)
    free = [leaf for leaf in source.kept if leaf not in given]
    held = {leaf: jnp.asarray(tensors.read(name)) for leaf, name in given.items() if leaf in source.kept and tensors}
    constants = [jnp.asarray(constant) for constant in program.constants]
    moments = [jax.core.ShapedArray(shape, np.dtype(np.float32)) for shape in instrumented.shapes]

    @jax.jit
    def run(*operands: Any) -> list[Any]:
        return _mlir.run_module(instrumented.module, (*program.out_avals, *moments), operands)[len(program.out_avals) :]

    totals: dict[str, np.ndarray] = {}
    rows: dict[str, int] = {}
    files = list(batches)
    for done, file in enumerate(files, start=1):
        batch = open_tensors(file)
        values = inputs_from(batch, [source.names[i] for i in free], [Spec(*source.types[i]) for i in free])
        inputs = dict(zip(free, values, strict=True))
        sums = run(*constants, *(held[leaf] if leaf in held else inputs[leaf] for leaf in source.kept))
        for probe, total in zip(instrumented.probes, sums, strict=True):
            moment = np.asarray(total, np.float64)
            if not np.isfinite(moment).all():
                raise WeightError(f"{batch.origin}: the input of {probe.key} holds NaN or Inf, nothing can be learned")
            totals[probe.key] = totals.get(probe.key, 0) + moment
            rows[probe.key] = rows.get(probe.key, 0) + probe.rows
        progress("calibrating", done, len(files))
    if not files:
        raise CaptureError("calibrate got no inputs: name files with the inputs of one call each")
    return Calibration({key: Moment(total, rows[key]) for key, total in totals.items()})


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as safetensors, whole or not at all."""
    totals = {key: moment.total for key, moment in calibration.moments.items()}
    metadata = {"format": FORMAT, "rows": json.dumps({key: m.rows for key, m in calibration.moments.items()})}
    with new_file(path) as temporary, temporary.open("wb") as file:
        writer = TensorWriter(file, {key: spec_of(total) for key, total in totals.items()}, metadata)
        for key, total in totals.items():
            writer.write(key, total)


def load_calibration(path: Path) -> Calibration:
    """Read what :func:`save_calibration` wrote.

    Raises:
      HireError: the file is something else, or damaged.
    """
    tensors = open_tensors(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise HireError(f"{path} holds tensors, but no calibration: make one with hire-compiler calibrate")
    try:
        rows = json.loads(metadata["rows"])
        moments = {key: Moment(tensors.read(key), int(rows[key])) for key in tensors.specs}
    except (KeyError, ValueError, TypeError):
        raise HireError(f"{path} is a damaged calibration: it does not say how many rows were seen") from None
    return Calibration(moments)
