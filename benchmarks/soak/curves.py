"""The curves of a soak as a small picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw(results: dict[str, Any], path: Path) -> None:
    """Latency over calls, and memory over calls, sets of weights and functions."""
    try:
        import matplotlib

        matplotlib.use("svg" if path.suffix == ".svg" else "agg")
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5), layout="constrained")
    if "calls" in results:
        calls = results["calls"]
        along = np.linspace(0, calls["calls"], len(calls["median_ms"]))
        axes[0, 0].plot(along, calls["median_ms"], label="median")
        axes[0, 0].plot(along, calls["p99_ms"], label="99 %", alpha=0.6)
        axes[0, 0].set(title="latency", xlabel="calls", ylabel="ms", ylim=(0, 1.2 * max(calls["p99_ms"])))
        axes[0, 0].legend()
    panels = (("calls", axes[0, 1], "calls"), ("weights", axes[1, 0], "sets"), ("functions", axes[1, 1], "transforms"))
    for name, axis, count in panels:
        if name in results:
            memory = results[name]["memory_mb"]
            axis.plot(np.linspace(0, results[name][count], len(memory)), memory)
            axis.set(title="resident memory", xlabel=count, ylabel="MB", ylim=(0, 1.2 * max(memory)))
    for axis in axes.flat:
        axis.locator_params(axis="x", nbins=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
