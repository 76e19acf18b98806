"""Time programs in turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

SECONDS, LEAST, MOST = 2.0, 5, 100  # how long, and how often, one call is timed where nobody says

Run = Callable[[], Any]
Ready = Callable[[], Run]  # brings the arguments of one run into place (untimed), and returns the run itself


@dataclass(frozen=True)
class Turn:
    """What one program does in one round.

    Attributes:
      untimed: runs first; its results are what the round returns.
      timed: runs right after; None for the same again.
    """

    untimed: Ready
    timed: Ready | None = None


class Turns:
    """Rounds of several programs.

    In each round every program runs twice, once untimed: a neighbour that allocates much would otherwise be paid for by
    whoever comes after it. Every second round goes backwards.

    Attributes:
      seconds: of every timed run, by program.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._rounds = 0

    def round(self, turns: Mapping[str, Turn], *, timed: bool = True) -> dict[str, Any]:
        """Run every program once untimed, and once timed; the results of the untimed runs."""
        results = {}
        names = list(turns)[:: -1 if self._rounds % 2 else 1]
        self._rounds += 1
        for name in names:
            results[name] = jax.block_until_ready(turns[name].untimed()())
            if timed:
                run = (turns[name].timed or turns[name].untimed)()
                began = time.perf_counter()
                jax.block_until_ready(run())
                self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return results


def machine() -> str:
    """The machine that runs programs here: ``cpu (2 cores)``, ``gpu (NVIDIA H100, 1 of 1 devices)``."""
    device, platform = jax.devices()[0], jax.default_backend()
    if platform == "cpu":
        return f"cpu ({len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores)"
    return f"{platform} ({device.device_kind}, {jax.device_count()} devices)"
