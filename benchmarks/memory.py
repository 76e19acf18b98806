"""Memory of a model's decode step: how much preparing takes at its peak, and what stays resident, split and not.

    python -m benchmarks.memory [--models gemma3-270m,smollm2-135m] [--dtypes float32,bfloat16]

Every row is a process of its own: it loads the model, calls one step until nothing is prepared any more, and gives back
to the system what it freed. Then ``split`` takes the weights apart and the caller lets go of what the step no longer
reads. Linux only. Resident memory counts Python, JAX and compiled programs too, so rows are compared with *as written*.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.timing import print_table

STEPS = ("as written", "default", "LowRank(320) int8")
CACHE = 128  # tokens
_MEGABYTE = 1 << 20


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gemma3-270m,smollm2-135m")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--measure", nargs=3, metavar=("MODEL", "DTYPE", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(*options.measure)))
        return
    for model in options.models.split(","):
        for dtype in options.dtypes.split(","):
            rows = [[step, *_in_a_process(model, dtype, step)] for step in STEPS]
            print_table(
                f"{model}, {dtype}: resident memory in MB",
                ["step", "model loaded", "peak of the first calls", "after them", "split"],
                rows,
            )


def _in_a_process(model: str, dtype: str, step: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", model, dtype, step]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [f"{number:.0f}" if number else "" for number in json.loads(done.stdout.splitlines()[-1])]


def _measure(name: str, dtype: str, what: str) -> list[float]:
    """Resident memory with the model loaded, at the peak of three calls, after them, and split; 0 where it does not."""
    import jax
    import jax.numpy as jnp

    import hire_compiler as hire
    from examples.calibration import calibrate_head
    from examples.models import load_model

    model = load_model(name, dtype)
    written = jax.jit(model.greedy_step, donate_argnums=2)
    params, tokens, cache = model.params, jnp.asarray([[2]], jnp.int32), model.init_cache(1, CACHE)
    step: Any = written
    if what == STEPS[1]:
        step = hire.transform(written)
    if what == STEPS[2]:
        rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=320, dtype="int8"), candidates=256)
        step = hire.transform(written, hire.Config(rules=(rule,)), calibration=calibrate_head(model))
    del model
    loaded = _resident()
    _forget_peak()
    for _ in range(3):
        _, cache = jax.block_until_ready(step(params, tokens, cache))
    peak, after, split = _peak(), _resident(), 0.0
    if step is not written:
        prepared, (rest, *_) = step.split(params, tokens, cache, donate=True)
        del params
        jax.block_until_ready(step(rest, tokens, cache, prepared=prepared))
        split = _resident()
    return [loaded, peak, after, split]


def _resident() -> float:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / _MEGABYTE


if __name__ == "__main__":
    main()
