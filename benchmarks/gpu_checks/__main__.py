"""Is it right on this card? Rewritten heads and blocks against dense, and how far off the card's arithmetic is.

python -m benchmarks.gpu_checks --seconds 90 --out checks.json     # on a machine with a GPU
python -m benchmarks.gpu_checks --quick                            # a few cases of each, anywhere

Five parts, in processes that share the card, each as long as it is given: heads and blocks (the fuzzer's programs
against the author's own on the same card, and against float64), functions (errors of elementwise operations over all
float32 numbers, in the units of hire_compiler/proofs/enclosure.py), products (errors of matrix products, random and
hostile, against n·u·Σ|a||b|), roundings (whether dense rounds the input of a product, and which NaN an argmax names).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

# Part: how many processes it is spread over, and whether it needs float64 on the card.
PARTS = {
    "heads": (3, False),
    "blocks": (2, False),
    "functions": (2, True),
    "products": (2, True),
    "roundings": (3, False),
}
LIMIT = 11_000  # characters printed at the end


def main() -> None:
    """Start the parts, wait, merge and print; or run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a few cases of each part, one process after another")
    parser.add_argument("--worker", nargs=3, metavar=("PART", "NUMBER", "OF"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker[0], int(options.worker[1]), int(options.worker[2]), options)
        return
    found = _all(options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    text = "\n".join(_printed(part, found["parts"].get(part, [])) for part in options.only)
    print(text[:LIMIT])


def _all(options: argparse.Namespace) -> dict[str, Any]:
    """Run every part in processes of its own; what has been written by the end counts."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for part in options.only:
            count, wide = PARTS[part]
            for number in range(1 if options.quick else count):
                out = Path(folder) / f"{part}-{number}.json"
                process = _start(part, number, 1 if options.quick else count, wide, out, options)
                running.append((part, out, process))
                if options.quick:
                    process.wait()
        end = time.monotonic() + options.seconds + 60  # each ends by itself; this is for one that hangs
        for _, _, process in running:
            try:
                process.wait(max(end - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                process.kill()
        parts: dict[str, list[Any]] = {}
        for part, out, process in running:
            written = json.loads(out.read_text()) if out.exists() else {"error": "nothing was written"}
            if process.returncode:
                written["exit"] = process.returncode
            parts.setdefault(part, []).append(written)
        return {"parts": parts}


def _start(
    part: str, number: int, count: int, wide: bool, out: Path, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.gpu_checks", "--worker", part, str(number), str(count)]
    command += ["--seconds", str(options.seconds), "--out", str(out), *(["--quick"] if options.quick else [])]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if wide:
        environment["JAX_ENABLE_X64"] = "1"
    return subprocess.Popen(command, env=environment)


def _work(part: str, number: int, count: int, options: argparse.Namespace) -> None:
    import jax

    device, end = jax.devices()[0], time.monotonic() + options.seconds
    found: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__, "worker": number}

    def save() -> None:
        temporary = options.out.with_suffix(".new")
        temporary.write_text(json.dumps(found))
        temporary.replace(options.out)

    save()
    try:
        module = importlib.import_module(f"benchmarks.gpu_checks.{part}")
        for step in module.check(number, count, lambda: time.monotonic() > end, options.quick):
            found.update(step)
            save()
        found["seconds"] = round(options.seconds - (end - time.monotonic()), 1)
    except Exception:
        found["error"] = traceback.format_exc(limit=-6)
    save()


def _printed(part: str, workers: list[dict[str, Any]]) -> str:
    module = importlib.import_module(f"benchmarks.gpu_checks.{part}")
    first = workers[0] if workers else {}
    lines = [f"== {part}: {first.get('device')}, jax {first.get('jax')}, {[w.get('seconds') for w in workers]} s"]
    lines += [f"ERROR {w['error'][-600:]}" for w in workers if "error" in w]
    lines += [f"EXIT CODE {w['exit']}" for w in workers if "exit" in w]
    try:
        lines.append(module.summary(workers))
    except Exception:
        lines.append(traceback.format_exc(limit=-3))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
