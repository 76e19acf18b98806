"""See it on a real model: the same prompt, dense and rewritten, side by side; then how fast each is, and why.

    make demo
    make demo ARGS="--prompt 'Dear Anna,' --model smollm2 --tune"

Nothing is asked of the rewritten step but the exact default: its tokens are those of the dense one. ``--tune`` also
chooses an approximation by measuring (a recall of 0.999 on held-out text; some minutes).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.best_dense import dense_heads, dense_steps
from benchmarks.timing import print_table
from examples.calibration import all_winners, passages
from examples.models import MODEL_NAMES, MissingWheelError, Model, load_model
from examples.models.generate import Step
from examples.side_by_side import Sides, side_by_side

Progress = Callable[[str, int, int], None]  # what, done, of how many
DEFAULT_PROMPT = "The history of bread begins"
NAMES = {"auto": "auto", "gemma3": "gemma3-270m", "smollm2": "smollm2-135m"} | {name: name for name in MODEL_NAMES}
PICTURE = Path("demo.svg")
CALLS = 48  # of each program that are timed


def main(arguments: Sequence[str] | None = None, load: Callable[[Any], Model] = load_model) -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default=DEFAULT_PROMPT, help="what the model continues (default: %(default)s)")
    parser.add_argument("--model", default="auto", choices=NAMES, help="default: Gemma 3 where it is installed")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="how many to write (default %(default)s)")
    parser.add_argument("--tune", action="store_true", help="also choose an approximation for a recall of 0.999")
    options = parser.parse_args(arguments)
    with hire.progress() as tell:
        tell("loading weights", 0, 1)
        try:
            model = load(NAMES[options.model])
        except MissingWheelError as error:
            sys.exit(str(error))
    ids = model.tokenizer.encode(options.prompt, add_bos=True)
    dense: Step = jax.jit(model.greedy_step, donate_argnums=2)
    step = hire.transform(dense)
    print(f"{model.name} on {jax.devices()[0].device_kind}, float32, greedy\n", flush=True)
    tokens = _decode(model, ids, options.tokens, {"dense": dense, "rewritten": step}, options.prompt)
    equal = sum(a == b for a, b in zip(*tokens, strict=True))
    print(f"\n{equal} of {len(tokens[0])} tokens are equal\n", flush=True)
    _compare(model, ids, step, tune=options.tune)
    print(f"\n{step.report()}")
    _draw(step.report())
    return 0


def _decode(
    model: Model, ids: list[int], count: int, steps: dict[str, Any], prompt: str
) -> tuple[list[int], list[int]]:
    """What the two programs write, in turns, as it comes."""
    length = len(ids) + count
    with hire.progress() as tell:
        streams = []
        for done, (name, step) in enumerate(steps.items()):
            tell(f"compiling {name}", done, len(steps))
            streams.append(_stream(model, ids, count, step, length))
            next(streams[-1])  # compiles
    written: tuple[list[int], list[int]] = ([], [])
    seconds = [0.0, 0.0]
    with side_by_side(tuple(steps)) as show:
        for pair in zip(*streams, strict=True):
            for side, (token, taken) in enumerate(pair):
                written[side].append(token)
                seconds[side] += taken
            texts = [prompt + model.tokenizer.decode(some) for some in written]
            rates = [f"{len(some) / max(s, 1e-9):.1f} tokens/s" for some, s in zip(written, seconds, strict=True)]
            if pair[0][0] in model.tokenizer.stop:
                break
            show(Sides((texts[0], texts[1]), (rates[0], rates[1])))
    return written


def _stream(model: Model, ids: list[int], count: int, step: Any, length: int) -> Iterator[tuple[int, float]]:
    """Nothing useful first, when everything is compiled; then each token, and the seconds that it took."""
    token, _ = step(model.params, jnp.array([ids], jnp.int32), model.init_cache(1, length))
    np.asarray(step(model.params, token[:, None], model.init_cache(1, length))[0])
    yield -1, 0.0
    began = time.perf_counter()
    token, cache = step(model.params, jnp.array([ids], jnp.int32), model.init_cache(1, length))
    for _ in range(count):
        chosen = int(np.asarray(token)[0])
        yield chosen, time.perf_counter() - began
        began = time.perf_counter()
        token, cache = step(model.params, token[:, None], cache)


def _compare(model: Model, ids: list[int], step: hire.HireFunction, *, tune: bool) -> None:
    """One table: dense as written, the best dense form, the exact default, and what ``tune`` chose."""
    token, cache = jnp.array([[ids[-1]]], jnp.int32), model.init_cache(1, len(ids) + CALLS)
    args = model.params, token, cache

    def carry(results: Any, args: Any) -> Any:
        chosen, cache = results
        return args[0], chosen[:, None], cache

    with hire.progress() as tell:
        name, best = _best_dense(model, tell)
        found = hire.compare(step, *args, calls=CALLS, carry=carry, dense=best, progress=tell)
    written, default, other = (found.timing(p).ms for p in ("as written", "rewritten", "dense="))
    rows = [_row("dense, as written", written, written, other, ""), _row(name, other, written, other, "")]
    rows.append(_row("the exact default", default, written, other, _tokens(found)))
    if tune:
        tuned = _tuned(model, args)
        print(f"{tuned}\n", flush=True)
        fast = hire.transform(step.__wrapped__, tuned.config, calibration=tuned.calibration)
        with hire.progress() as tell:
            again = hire.compare(fast, *args, calls=CALLS, carry=carry, dense=best, progress=tell)
        mine, as_written, dense = (again.timing(p).ms for p in ("rewritten", "as written", "dense="))
        rows.append(_row("tuned, recall 0.999", mine, as_written, dense, _tokens(again)))
    header = ["step", "ms a token", "over as written", "over best dense", "tokens equal"]
    print_table(f"{CALLS} tokens each, in turns, on {found.machine}", header, rows)


def _row(name: str, ms: float, written: float, best: float, tokens: str) -> list[str]:
    return [name, f"{ms:.2f}", f"{written / ms:.2f}×", f"{min(best, written) / ms:.2f}×", tokens]


def _tokens(found: hire.Comparison) -> str:
    token = found.outputs[0]  # the others are the cache
    return f"{token.equal} of {token.total}"


def _best_dense(model: Model, tell: Progress) -> tuple[str, Any]:
    """The dense step whose head alone is fastest here."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, model.params["embed"].shape[1])), jnp.float32)
    forms, seconds = dense_heads(model.params["embed"], 1), {}
    for done, (name, (head, stored)) in enumerate(forms.items()):
        tell("looking for the best dense form", done, len(forms))
        run = jax.jit(head)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            jax.block_until_ready(run(x.astype(model.params["embed"].dtype), stored))
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
    best = min(seconds, key=lambda name: seconds[name])
    return best, dense_steps(model)[best]


def _tuned(model: Model, args: tuple[Any, ...]) -> hire.Tuned:
    return hire.tune(model.greedy_step, *args, forward=all_winners(model), batches=passages(model), recall=0.999)


def _draw(report: hire.Report) -> None:
    try:
        hire.draw(report, PICTURE)
        print(f"\nits picture: {PICTURE.resolve()}")
    except hire.HireError as error:
        print(f"\nno picture: {error}")


if __name__ == "__main__":
    sys.exit(main())
