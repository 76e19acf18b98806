"""Run everything for a long time: ``python -m benchmarks.soak``; curves as a picture, numbers as JSON.

python -m benchmarks.soak                       # 20 000 calls, 300 sets of weights, 200 functions, …
python -m benchmarks.soak --scale 0.05          # a twentieth of it
python -m benchmarks.soak --only calls weights  # some parts
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.soak import interrupted, steady, together
from benchmarks.soak.curves import draw

LIMITS = {"latency_drift": 0.15, "memory_growth_mb": 4.0}  # of the second half over the first
MUST_BE_ZERO = ("wrong", "arrays_alive", "alive", "contexts_growth", "problems", "failed")


def track(items: Iterable[Any], what: str) -> Iterable[Any]:
    """With a progress bar where rich is installed and somebody looks."""
    if not sys.stderr.isatty():
        return items
    try:
        from rich.console import Console
        from rich.progress import track as bar
    except ImportError:
        return items
    return bar(items, description=what, console=Console(stderr=True), transient=True)


def parts(scale: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """What there is to run."""

    def times(number: int) -> int:
        return max(round(number * scale), 2)

    def verbs() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return interrupted.every_verb(Path(folder), times(10), track)

    return {
        "calls": lambda: steady.many_calls(max(times(20_000), 200), track),
        "weights": lambda: steady.many_weights(max(times(300), 12), track),
        "functions": lambda: steady.many_functions(max(times(200), 12), track),
        "threads": lambda: together.two_threads(times(500)),
        "spawned": lambda: together.spawned(times(8)),
        "forked": together.forked,
        "verbs": verbs,
        "lost": lambda: together.lost_process(times(20)),
    }


def main() -> int:
    """Run the parts; the exit code is 1 where something drifted, stayed behind or came out wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full length")
    parser.add_argument("--only", nargs="+", choices=tuple(parts(1)), default=tuple(parts(1)), metavar="PART")
    parser.add_argument("--json", type=Path, default=Path("docs/pictures/soak.json"), help="numbers (merged into it)")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/soak.png"), help="curves")
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    bad = []
    for name in options.only:
        results[name] = parts(options.scale)[name]()
        short = {k: v for k, v in results[name].items() if not isinstance(v, list) or k in MUST_BE_ZERO}
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in short.items()))
        bad += [f"{name}: {problem}" for problem in problems(results[name])]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, options.picture)
    for problem in bad:
        print(f"PROBLEM {problem}")
    return int(bool(bad))


def problems(result: dict[str, Any]) -> list[str]:
    """What of one part is not as it should be."""
    found = [f"{name} is {result[name]}" for name in MUST_BE_ZERO if result.get(name)]
    return found + [f"{name} is {result[name]:.3g}" for name, most in LIMITS.items() if result.get(name, 0) > most]


if __name__ == "__main__":
    sys.exit(main())
