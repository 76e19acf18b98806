"""Which of the settings are taken: the fastest ones that fit into the memory, all sites together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hire_compiler.tuning.tuned import Tried

WORTH = 0.97  # of the time of the exact setting: an approximation has to save at least the rest


def choose(table: Sequence[Tried], memory: int | None) -> list[Tried]:
    """The table with one setting of every site chosen, and why the others were not.

    Every site begins with what adds least. Then the change that saves most milliseconds for each byte it adds is made,
    as long as one fits. Without a limit that is the fastest setting of each site.
    """
    table = [_too_large(tried, memory) for tried in table]
    sites = list(dict.fromkeys(tried.site for tried in table))
    offered = {site: _worth_it([t for t in table if t.site == site]) for site in sites}
    taken = {site: min(some, key=lambda t: (t.added_bytes, t.ms)) for site, some in offered.items() if some}
    while True:
        room = None if memory is None else memory - sum(tried.added_bytes for tried in taken.values())
        moves = [
            (_saved(taken[site], tried), tried)
            for site in taken
            for tried in offered[site]
            if _saved(taken[site], tried) > 0 and (room is None or _added(taken[site], tried) <= room)
        ]
        if not moves:
            break
        _, best = max(moves, key=lambda move: move[0] / max(_added(taken[move[1].site], move[1]), 1))
        taken[best.site] = best
    return [_explained(tried, taken.get(tried.site), memory) for tried in table]


def _too_large(tried: Tried, memory: int | None) -> Tried:
    if memory is None or tried.added_bytes <= memory or tried.why:
        return tried
    return replace(tried, why=f"it adds {tried.added_bytes} bytes, more than the {memory} allowed")


def _worth_it(some: Sequence[Tried]) -> list[Tried]:
    """The timed settings of a site, without approximations that save next to nothing over what loses nothing."""
    timed = [tried for tried in some if tried.ms is not None and not tried.why]
    exact = min((t.ms or 0.0 for t in timed if t.lossless), default=float("inf"))
    return [t for t in timed if t.lossless or (t.ms or 0.0) < WORTH * exact]


def _saved(now: Tried, then: Tried) -> float:
    return (now.ms or 0.0) - (then.ms or 0.0)


def _added(now: Tried, then: Tried) -> int:
    return then.added_bytes - now.added_bytes


def _explained(tried: Tried, winner: Tried | None, memory: int | None) -> Tried:
    if tried is winner or tried.chosen:
        return replace(tried, chosen=True)
    if tried.why or tried.ms is None or winner is None or winner.ms is None:
        return tried
    if tried.ms >= winner.ms:
        return replace(tried, why=f"{tried.ms / winner.ms:.2f} times as long")
    if memory is not None and tried.added_bytes > winner.added_bytes:
        return replace(tried, why=f"its {tried.added_bytes} bytes are worth more at other sites ({memory} in all)")
    return replace(tried, why="not enough faster than what loses nothing")
