"""Every verb of the command line, ended by a signal at any moment: nothing half-written may stay."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors.numpy import save_file

from benchmarks.soak.model import arguments, parameters, step

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
RULES = '[[rule]]\nkind = "head"\npredictor = { type = "Quantized", bits = 8 }\ncandidates = 64\ncertify = "strict"\n'


def every_verb(folder: Path, times: int, track: Callable[[Iterable[Any], str], Iterable[Any]]) -> dict[str, Any]:
    """Run every verb to its end once, then end it by each signal ``times`` times.

    Afterwards the inputs are what they were, the output is the old one, the new one whole, or missing, and a run
    that is not disturbed succeeds.
    """
    _make_inputs(folder)
    rng, found, ended = random.Random(0), list[str](), 0
    for verb, (words, output) in track(list(_commands(folder).items()), "verbs"):
        seconds = _whole(words)
        inputs = _digest(folder, without=output)
        allowed = {_content(output), _content(None)}
        for sent in SIGNALS:
            for _ in range(times):
                said = _ended(words, sent, seconds * rng.uniform(0.02, 1.05))
                ended += 1
                found += [f"{verb} {sent.name}: {problem}" for problem in said]
                if _content(output) not in allowed and not _readable(verb, output):
                    found.append(f"{verb} {sent.name}: {output} is half-written")
                if _digest(folder, without=output, names=inputs) != inputs:
                    found.append(f"{verb} {sent.name}: an input has changed")
        _whole(words)
        left = {path.name for path in folder.iterdir()} - {name.split("/")[0] for name in inputs}
        left -= {output.name} if output is not None else set()
        found += [f"{verb}: {name} was left behind" for name in sorted(left)]
    return {"verbs": len(_commands(folder)), "ended": ended, "problems": found}


def _make_inputs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    params, (token, x) = parameters(0), arguments(0)
    exported = jax.export.export(jax.jit(step), platforms=["cpu"])(params, token, x)
    (folder / "model.jax_export").write_bytes(exported.serialize())
    save_file({k: np.asarray(v) for k, v in params.items()}, folder / "weights.safetensors")
    (folder / "rules.toml").write_text(RULES)
    np.savez(folder / "inputs.npz", token=np.asarray(token), x=np.asarray(x))


def _commands(folder: Path) -> dict[str, tuple[list[str], Path | None]]:
    """Words of the command line for every verb, and what it writes."""
    model, weights, inputs = (str(folder / name) for name in ("model.jax_export", "weights.safetensors", "inputs.npz"))
    rules, artifact = str(folder / "rules.toml"), str(folder / "model.hire")
    given = ["--weights", weights]
    return {
        "inspect": (["inspect", model], None),
        "calibrate": (
            ["calibrate", model, *given, "--inputs", inputs, "-o", str(folder / "learned.safetensors")],
            folder / "learned.safetensors",
        ),
        "rewrite": (
            ["rewrite", model, *given, "--rules", rules, "--platform", "cpu", "-o", artifact, "--force"],
            folder / "model.hire",
        ),
        "prepare": (
            ["prepare", artifact, *given, "-o", str(folder / "again.hire"), "--force"], folder / "again.hire",
        ),
        "run": (
            ["run", artifact, "--inputs", inputs, "-o", str(folder / "out.safetensors")], folder / "out.safetensors",
        ),
        "verify": (["verify", artifact, "--original", model, *given], None),
        "report": (["report", artifact], None),
    }  # fmt: skip


def _whole(words: list[str]) -> float:
    """Run a command to its end; its seconds."""
    began = time.perf_counter()
    done = subprocess.run(_python(words), capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - began


def _ended(words: list[str], sent: signal.Signals, after: float) -> list[str]:
    """Send a signal after some seconds; what was wrong about how the command ended."""
    running = subprocess.Popen(_python(words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment())
    try:
        running.wait(after)
    except subprocess.TimeoutExpired:
        running.send_signal(sent)
    said = running.communicate(timeout=60)[1].decode(errors="replace").strip()
    problems = []
    if "Traceback" in said:
        problems.append("a traceback: " + said.splitlines()[-1])
    if sent == signal.SIGINT and running.returncode not in (0, 130, -signal.SIGINT):
        problems.append(f"status {running.returncode}: {said[-200:]}")
    return problems


def _python(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "hire_compiler", *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}


def _content(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""


def _digest(folder: Path, *, without: Path | None, names: Iterable[str] | None = None) -> dict[str, str]:
    wanted = names if names is not None else [p.name for p in folder.iterdir() if p.is_file() and p != without]
    return {name: _content(folder / name) for name in wanted}


def _readable(verb: str, output: Path | None) -> bool:
    """Whether what a verb wrote can be read whole: two runs need not write the same bytes."""
    if output is None:
        return True
    try:
        if verb in ("rewrite", "prepare"):
            import hire_compiler as hire

            hire.load(output).weights()
        else:
            from safetensors.numpy import load_file

            load_file(output)
    except Exception:
        return False
    return True
