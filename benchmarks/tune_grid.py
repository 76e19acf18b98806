"""Does ``hire.tune(recall=…)`` find what a full grid search finds? The head of a real model, every setting timed.

    python -m benchmarks.tune_grid [--model gemma3-270m] [--recall 0.999] [--json grid.json]

Three texts: on one half of ``examples/text/calibration.txt`` the head is calibrated, on the other half ``tune`` and the
grid both judge recall. What was chosen is then run on ``heldout.txt``, which neither has seen, and its tokens are
compared with those of the dense head.

The grid is every rank, kind of predictor and number of candidates that ``tune`` may choose.
Each setting that meets the recall is timed in turns with the chosen one, the head alone, unless it reads more than
twice the bytes (``--all`` times these, too); then the fastest, the chosen one, the exact default and the dense head
all together.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.hidden import heldout_states
from benchmarks.timing import interleaved, median_ms, print_table
from examples.calibration import all_winners, passages
from examples.models import Model, load_model
from hire_compiler.calibration.head_ranks import meets, ranks_of, winners_of
from hire_compiler.tuning.settings import CANDIDATES, RANKS, SURVIVORS, label

INPUTS = 32  # different rows that are run in turn
TWICE = 2.0
FINALISTS = 4  # of the grid, that are timed again beside the chosen one
CHOSEN, DENSE, DEFAULT = "chosen by tune", "dense, as written", "certified, the default"


@dataclass(frozen=True)
class Setting:
    """One point of the grid that meets the recall: ``ratio`` is its time over that of the chosen setting."""

    predictor: str
    candidates: int
    recall: float
    ratio: float = float("nan")


def predictors(d: int, n: int) -> Iterator[hire.LowRank | hire.Quantized | hire.Cascade]:
    """Every kind and rank that ``tune`` may choose for a head of ``n`` rows of ``d`` numbers."""
    ranks = sorted({max(16, round(share * d / 32) * 32) for share in RANKS})
    for rank in ranks:
        yield hire.LowRank(rank, dtype="int8")
        yield hire.LowRank(rank)
        if n >= 4 * SURVIVORS:
            yield hire.Cascade(hire.LowRank(rank, dtype="int8"), hire.Quantized(8), survivors=SURVIVORS)
    yield hire.Quantized(8)
    if d % 64 == 0:
        yield hire.Quantized(4, columns=64)


class Heads:
    """The head of a model alone, set one way or another."""

    def __init__(self, model: Model, calibration: hire.Calibration, rows: np.ndarray) -> None:
        self._model, self._calibration = model, calibration
        self._head = jax.jit(lambda params, x: jnp.argmax(model.logits(params, x), axis=-1))
        self._calls = [jnp.asarray(row[None]) for row in rows[:: max(len(rows) // INPUTS, 1)][:INPUTS]]

    def read_bytes(self, head: hire.HireFunction) -> int:
        """What a call of a rewritten head reads."""
        return head.report(self._model.params, self._calls[0]).rewritten[0].sparse_bytes

    @property
    def dense(self) -> Any:
        """As the author wrote it."""
        return self._head

    def rewritten(self, config: hire.Config) -> hire.HireFunction:
        """As a configuration asks for it."""
        return hire.transform(self._head, config, calibration=self._calibration)

    def run(self, head: Any) -> Callable[[], Any]:
        """A call on one row after the other; weights and predictor's arrays are arguments, prepared before."""
        params, calls = self._model.params, cycle(self._calls)
        if not isinstance(head, hire.HireFunction):
            return lambda: head(params, next(calls))
        prepared = head.prepare(params, self._calls[0])
        return lambda: head(params, next(calls), prepared=prepared)


def config_of(predictor: Any, candidates: int) -> hire.Config:
    """The rule of one point of the grid."""
    return hire.Config(rules=(hire.Rule(kind="head", predictor=predictor, candidates=candidates),))


def meeting(
    embed: jax.Array, moment: np.ndarray, rows: np.ndarray, recall: float
) -> Iterator[tuple[Any, list[tuple[int, float]]]]:
    """Every predictor of the grid, with the numbers of candidates that meet the recall."""
    winners = winners_of(embed, rows, 1)
    for predictor in predictors(embed.shape[1], len(embed)):
        ranks = ranks_of(embed, predictor, moment, rows, winners)
        missed = {k: int((ranks >= k).sum()) for k in CANDIDATES}
        yield (
            predictor,
            [(k, 1 - m / len(rows)) for k, m in missed.items() if meets(m, len(rows), recall)],
        )


def main() -> None:
    """Tune, search the grid, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--recall", type=float, default=0.999)
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each setting of the grid")
    parser.add_argument("--final", type=int, default=80, help="timed calls of each finalist")
    parser.add_argument("--all", action="store_true", help="time also what reads more than twice the bytes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every setting")
    options = parser.parse_args()
    model = load_model(options.model)
    tuned = tune(model, options.recall)
    (chosen,) = [tried for tried in tuned.chosen if tried.site == "head/0"]
    rows = rows_judged(model)[: tuned.rows]
    heads = Heads(model, tuned.calibration, rows)
    ours = heads.rewritten(tuned.config)
    (moment,) = [m.mean for key, m in tuned.calibration.moments.items() if "embed" in key]
    most = float("inf") if options.all else TWICE * heads.read_bytes(ours)
    grid = search(heads, ours, meeting(model.params["embed"], moment, rows, options.recall), options.rounds, most)
    finalists = sorted(grid, key=lambda pair: pair[1].ratio)[:FINALISTS]
    final(heads, ours, f"{CHOSEN}: {chosen.name}, {chosen.candidates}", finalists, options.final)
    held_out(model, ours, options.recall)
    if options.json:
        options.json.write_text(json.dumps([asdict(setting) for _, setting in grid], indent=1))


def tune(model: Model, recall: float) -> hire.Tuned:
    """``hire.tune`` as the demo calls it, timed."""
    token, cache = jnp.array([[2]], jnp.int32), model.init_cache(1, 128)
    step = jax.jit(model.greedy_step, donate_argnums=2)
    began, busy = time.perf_counter(), time.process_time()
    forward, batches = all_winners(model), passages(model)
    tuned = hire.tune(step, model.params, token, cache, forward=forward, batches=batches, recall=recall)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    print(tuned)
    print(f"\n{model.name}: tuned in {seconds:.0f} s ({busy:.0f} s of CPU time)", flush=True)
    return tuned


def rows_judged(model: Model) -> np.ndarray:
    """The rows on which ``tune`` judges: of the batches that it holds out, float32 ``[N, d]``."""
    states, batches = jax.jit(model.hidden_states), passages(model)
    held_out = batches[len(batches) // 2 :]
    return np.concatenate([np.asarray(states(*batch)[0][0], np.float32) for batch in held_out])


def search(
    heads: Heads, ours: Any, offered: Iterator[tuple[Any, list[tuple[int, float]]]], rounds: int, most: float
) -> list[tuple[Any, Setting]]:
    """Time every setting that meets the recall and reads no more than so many bytes, in turns with the chosen one."""
    beside, found = heads.run(ours), []
    for predictor, some in offered:
        for candidates, recall in some:
            head = heads.rewritten(config_of(predictor, candidates))
            if heads.read_bytes(head) > most:
                found.append((predictor, Setting(label(predictor), candidates, recall)))
                continue
            seconds = interleaved({"ours": beside, "setting": heads.run(head)}, rounds)
            ratio = median_ms(seconds["setting"]) / median_ms(seconds["ours"])
            found.append((predictor, Setting(label(predictor), candidates, recall, ratio)))
        gc.collect()  # a rewritten function and what it prepared go in a circle
        said = [f"{s.candidates} {s.ratio:.2f}" for p, s in found if p is predictor] or ["falls short"]
        print(f"  {label(predictor)}: {', '.join(said)}".replace("nan", "reads too much"), flush=True)
    timed = [pair for pair in found if pair[1].ratio == pair[1].ratio]
    print(f"\n{len(found)} settings of the grid meet the recall, {len(timed)} are timed: over the chosen one's time")
    return timed


def final(heads: Heads, ours: Any, name: str, finalists: list[tuple[Any, Setting]], rounds: int) -> None:
    """The fastest of the grid, the chosen one, the exact default and the dense head, all in turns."""
    runs = {name: heads.run(ours), DENSE: heads.run(heads.dense), DEFAULT: heads.run(heads.rewritten(hire.Config()))}
    for predictor, setting in finalists:
        made = heads.rewritten(config_of(predictor, setting.candidates))
        runs[f"{setting.predictor}, {setting.candidates}"] = heads.run(made)
    ms = {name: median_ms(seconds) for name, seconds in interleaved(runs, rounds).items()}
    best = min(ms[f"{s.predictor}, {s.candidates}"] for _, s in finalists)
    rows = [[n, f"{taken:.2f}", f"{ms[DENSE] / taken:.2f}×", f"{taken / best:.3f}"] for n, taken in ms.items()]
    print_table("The head alone, batch 1, in turns", ["setting", "ms", "over dense", "over the grid's best"], rows)


def held_out(model: Model, ours: Any, recall: float) -> None:
    """Tokens of the chosen head, called for one position after the other, on a text that nobody has seen."""
    states = np.asarray(heldout_states(model))
    dense = winners_of(model.params["embed"], states, 1)[:, 0]
    equal = sum(int(ours(model.params, x)[0]) == int(token) for x, token in zip(states[:, None], dense, strict=True))
    print(f"\nheldout.txt: {equal} of {len(states)} tokens equal to dense, {equal / len(states):.4f}; wanted {recall}")


if __name__ == "__main__":
    main()
