"""Calibrate a model that came as an export, and keep what was learned in a file.

A file holds the tensors ``moment|…``, ``activity|…``, ``trial|…`` and ``winners|…``, and in its metadata what else
there is to know of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration.calibrate import STRONGEST, Learner, but_for, check_strongest, probe_avals
from hire_compiler.calibration.instrument_program import instrument_program
from hire_compiler.config.rules import Config, check_config
from hire_compiler.errors import CaptureError, HireError
from hire_compiler.files.atomic import new_file
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.learned.activity import Activity
from hire_compiler.learned.calibration import Calibration, Moment
from hire_compiler.learned.trial import COUNTS, TOPS, HeadTrial, Trial
from hire_compiler.offline.disk.stored import whole_file
from hire_compiler.offline.disk.tensor_files import TensorWriter, read_tensors
from hire_compiler.offline.disk.tensor_header import read_header
from hire_compiler.offline.disk.tensors import spec_of
from hire_compiler.offline.source.calls import Calls
from hire_compiler.runtime.count_active import counted_size

FORMAT = "hire-calibration-2"


def calibrate_export(
    target: Any,
    batches: Iterable[Any],
    *,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    dims: Mapping[str, int] | None = None,
    kind: str | None = None,
    config: Config | None = None,
    strongest: float = STRONGEST,
    progress: Progress = no_progress,
) -> Calibration:
    """Learn from real inputs what :func:`hire_compiler.calibrate` does, of an exported model.

    Args:
      target, weights, mapping, dims: as for ``hire.rewrite``.
      batches: files (or mappings) with the inputs of one call each, by name or position.
      kind: ``"head"`` or ``"ffn"`` to probe only those sites.
      config, strongest: as for :func:`hire_compiler.calibrate`.
      progress: called with (what, done, of how many).

    Raises:
      CaptureError: the model has no such site, or no batch was given.
      WeightError: a weight or input is missing, or an input row was NaN or Inf.
    """
    check_strongest(strongest)
    check_config(config)
    calls = Calls(target, weights, mapping, dims)
    program = calls.program
    instrumented = instrument_program(program, kind, jax.default_backend(), strongest, config)
    if not instrumented.probes:
        what = f"{kind} site" if kind else "site"
        raise CaptureError(
            f"{calls.source.name} has no {what} to calibrate{but_for(instrumented)}: inspect says why not"
        )
    out_avals = (*program.out_avals, *probe_avals(instrumented.probes))

    @jax.jit
    def run(*operands: Any) -> list[Any]:
        return _mlir.run_module(instrumented.module, out_avals, operands)[len(program.out_avals) :]

    learner = Learner()
    files = list(batches)
    for done, file in enumerate(files, start=1):
        values, origin = calls.values(file)
        sums = run(*values)
        learner.skip(instrumented.skipped)
        learner.add(instrumented.probes, sums, origin)
        progress("calibrating", done, len(files))
    if not files:
        raise CaptureError("calibrate got no inputs: name files with the inputs of one call each")
    return learner.with_trials(instrumented.candidates, values)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as safetensors, whole or not at all."""
    tensors = {f"moment|{key}": moment.total for key, moment in calibration.moments.items()}
    tensors |= {f"activity|{key}": activity.counts for key, activity in calibration.activities.items()}
    tensors |= {f"trial|{key}": trial.found for key, trial in calibration.trials.items()}
    tensors |= {f"head|{key}": trial.found for key, trial in calibration.head_trials.items()}
    tensors |= {f"winners|{key}": counts for key, counts in calibration.winners.items()}
    known: dict[str, dict[str, Any]] = {f"moment|{key}": {"rows": m.rows} for key, m in calibration.moments.items()}
    known |= {
        f"activity|{key}": {"width": a.width, "strongest": a.strongest} for key, a in calibration.activities.items()
    }
    known |= {f"trial|{key}": {"rows": trial.rows} for key, trial in calibration.trials.items()}
    known |= {f"head|{key}": {"rows": trial.rows} for key, trial in calibration.head_trials.items()}
    known |= {f"winners|{key}": {} for key in calibration.winners}
    metadata = {"format": FORMAT, "known": json.dumps(known), "skipped": json.dumps(calibration.skipped)}
    with new_file(path) as temporary, temporary.open("wb") as file:
        writer = TensorWriter(file, {name: spec_of(tensor) for name, tensor in tensors.items()}, metadata)
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def load_calibration(path: Path) -> Calibration:
    """Read what :func:`save_calibration` wrote.

    Raises:
      HireError: the file is something else, or damaged.
    """
    member = whole_file(path, "calibration")
    metadata, tensors = read_header(member).metadata, read_tensors(member)
    if metadata.get("format") != FORMAT:
        raise HireError(f"{path} holds tensors, but no calibration of this version: hire-compiler calibrate makes one")
    moments, activities, trials, winners, heads = {}, {}, {}, {}, {}
    try:
        skipped = {str(key): str(why) for key, why in json.loads(metadata.get("skipped", "{}")).items()}
        for name, known in json.loads(metadata["known"]).items():
            what, key = name.split("|", 1)
            if what == "moment":
                moments[key] = _moment(tensors.read(name), **known)
            elif what == "trial":
                trials[key] = Trial(tensors.read(name), int(known["rows"]))
            elif what == "head":
                heads[key] = _head_trial(tensors.read(name), **known)
            elif what == "winners":
                winners[key] = tensors.read(name)
            else:
                activities[key] = _activity(tensors.read(name), **known)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise HireError(f"{path} is a damaged calibration: it does not say what its tensors are") from None
    return Calibration(moments, activities, trials, winners, skipped, heads)


def _head_trial(found: np.ndarray, rows: int) -> HeadTrial:
    if found.shape != (len(TOPS), len(COUNTS)) or rows < 1:
        raise ValueError("no trial of a head")
    return HeadTrial(found, int(rows))


def _moment(total: np.ndarray, rows: int) -> Moment:
    if total.ndim not in (2, 3) or total.shape[-1] != total.shape[-2] or rows < 1 or not np.isfinite(total).all():
        raise ValueError("no second moment")
    return Moment(total, int(rows))


def _activity(counts: np.ndarray, width: int, strongest: float | None) -> Activity:
    if counts.shape[-1] != counted_size(width):
        raise ValueError("counts of another width")
    return Activity(width, counts, strongest)
