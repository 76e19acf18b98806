"""A default whose proofs rarely hold is given up in the background; rules are obeyed; answers never change."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calling.adapt import FIRST_CALLS, least_share
from hire_compiler.reports.findings import Decision, Site
from hire_compiler.runtime.target import target_for
from tests.support.drawn import drawn

D, WIDTH, V = 256, 4096, 4096
TRIED = "the exact default was tried"


def block(w: dict[str, Any], x: Any) -> Any:
    return x + jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"] / 8


def token(w: dict[str, Any], x: Any) -> Any:
    return jnp.argmax(x @ w["head"].T, -1)


def step(w: dict[str, Any], x: Any) -> Any:
    y = block(w, x)
    return y, jnp.argmax(y @ w["head"].T, -1)


def layers(w: dict[str, Any], x: Any) -> Any:
    return jax.lax.scan(lambda x, one: (block(one, x), None), x, w)[0]


def weights(rng: np.random.Generator, bias: float, tied: bool = False) -> dict[str, Any]:
    """``bias`` decides how many neurons are active; of tied winners nothing proves which one dense takes."""
    normal = lambda *s: rng.standard_normal(s).astype(np.float32)  # noqa: E731
    head = normal(V, D)
    if tied:
        head[1::2] = head[::2] * np.float32(1 + 1e-7)
    arrays = {"up": normal(D, WIDTH) / 16, "down": normal(WIDTH, D) / 64, "bias": np.full(WIDTH, bias, np.float32)}
    return {name: jnp.asarray(array) for name, array in (arrays | {"head": head}).items()}


def run(
    made: Any, w: Any, rng: np.random.Generator, original: Callable[..., Any], calls: int = FIRST_CALLS + 6
) -> None:
    """So many calls, each with the answer of the original; then whatever is being planned is done."""
    dense = jax.jit(original)
    for _ in range(calls):
        x = drawn(rng.standard_normal((1, D)), jnp.float32)
        for got, wanted in zip(jax.tree.leaves(made(w, x)), jax.tree.leaves(dense(w, x)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    made._replanner.wait()


def actions(made: Any) -> dict[str, str]:
    return {d.site: d.action for d in made.report().decisions}


def test_a_block_of_busy_neurons_is_left_dense_and_the_head_is_not(rng: np.random.Generator) -> None:
    w = weights(rng, bias=0.5)
    made = hire.transform(step)
    run(made, w, rng, step)
    assert actions(made) == {"ffn/0": "dense", "head/0": "rewritten"}
    assert f"{TRIED}: a budget of 25% held for 0 of " in made.report().decisions[0].reason
    prepared = made._cache._entries
    assert {key.kind for key, kept in prepared.items() if kept} == {"head"}  # the block's copies are let go
    run(made, w, rng, step)
    assert made.report().certificates[0].site == "head/0"


def test_a_sparse_block_stays(rng: np.random.Generator) -> None:
    made = hire.transform(block)
    run(made, weights(rng, bias=-3.0), rng, block)
    assert actions(made) == {"ffn/0": "rewritten"}


@pytest.mark.parametrize("jitted", [True, False])
def test_where_nothing_is_left_the_authors_program_runs(rng: np.random.Generator, jitted: bool) -> None:
    made = hire.transform(jax.jit(block) if jitted else block)
    w = weights(rng, bias=0.5)
    run(made, w, rng, block)
    assert actions(made) == {"ffn/0": "dense"}
    run(made, w, rng, block, calls=3)
    assert "off" in str(made.report())


def test_a_head_whose_winners_do_not_stand_out_is_left_dense(rng: np.random.Generator) -> None:
    made = hire.transform(token)
    run(made, weights(rng, bias=0.0, tied=True), rng, token)
    assert actions(made) == {"head/0": "dense"}


@pytest.mark.slow
def test_layers_in_a_loop_are_counted_and_left_dense(rng: np.random.Generator) -> None:
    w = weights(rng, bias=0.5)
    stacked = {name: jnp.stack([w[name]] * 3) for name in ("up", "down", "bias")}
    made = hire.transform(layers)
    run(made, stacked, rng, layers)
    assert actions(made) == {"ffn/0": "dense"}


@pytest.mark.parametrize(
    "config",
    [hire.Config(adapt=False), hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact()),))],
    ids=["switched off", "asked for by a rule"],
)
def test_what_was_asked_for_stays(rng: np.random.Generator, config: hire.Config) -> None:
    made = hire.transform(block, config)
    run(made, weights(rng, bias=0.5), rng, block)
    assert actions(made) == {"ffn/0": "rewritten"}
    assert made.report().certificates[0].proven == 0


def test_prepared_arrays_of_the_caller_stay_in_use(rng: np.random.Generator) -> None:
    w = weights(rng, bias=0.5)
    made, x = hire.transform(block), jnp.ones((1, D))
    prepared, (rest, _) = made.split(w, x)
    for _ in range(FIRST_CALLS + 3):
        made(rest, x, prepared=prepared)
    made._replanner.wait()
    assert actions(made) == {"ffn/0": "rewritten"}


def test_donated_arguments_and_python_numbers(rng: np.random.Generator) -> None:
    w = weights(rng, bias=0.5)
    original = lambda w, x, scale: block(w, x) * scale  # noqa: E731
    made = hire.transform(jax.jit(original, donate_argnums=1))
    for i in range(FIRST_CALLS + 4):
        x = rng.standard_normal((1, D)).astype(np.float32)
        np.testing.assert_allclose(made(w, jnp.asarray(x), 2.0), 2 * block(w, x), rtol=1e-4, atol=1e-4, err_msg=str(i))
    made._replanner.wait()
    np.testing.assert_allclose(made(w, jnp.asarray(x), 2.0), 2 * block(w, x), rtol=1e-4, atol=1e-4)
    assert actions(made) == {"ffn/0": "dense"}


def test_inside_an_outer_jit_nothing_is_counted(rng: np.random.Generator) -> None:
    w = weights(rng, bias=0.5)
    made = hire.transform(block)
    outer, x = jax.jit(lambda w, x: made(w, x)), jnp.ones((1, D))
    for _ in range(FIRST_CALLS + 3):
        outer(w, x)
    assert actions(made) == {"ffn/0": "rewritten"}


def test_two_threads_at_once(rng: np.random.Generator) -> None:
    w, made, failures = weights(rng, bias=0.5), hire.transform(step), []

    def work(seed: int) -> None:
        try:
            run(made, w, np.random.default_rng(seed), step, calls=FIRST_CALLS)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made._replanner.wait()
    assert not failures
    assert actions(made)["ffn/0"] == "dense"


def test_a_failure_in_the_background_is_said_and_changes_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_more: Any) -> Any:
        raise RuntimeError("no memory")

    made = hire.transform(block)
    w = weights(rng, bias=0.5)
    made(w, jnp.ones((1, D)))
    monkeypatch.setattr("hire_compiler.calling.replanner.rewrite_program", broken)
    run(made, w, rng, block)
    assert "planning anew failed, nothing is changed: RuntimeError: no memory" in " ".join(str(made.report()).split())
    assert actions(made) == {"ffn/0": "rewritten"}


ENDS_AT_ONCE = f"""
import jax, numpy as np
import hire_compiler as hire
from tests.calling.test_adapt import block, weights
rng = np.random.default_rng(0)
w, step = weights(rng, bias=0.0), hire.transform(jax.jit(block))
for _ in range({FIRST_CALLS + 6}):
    jax.block_until_ready(step(w, rng.standard_normal((1, {D})).astype(np.float32)))
assert step._replanner._at_work.is_alive()
"""


def test_a_process_that_ends_meanwhile_ends_well() -> None:
    """XLA compiles in the background: a thread that Python ends there aborts the process."""
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", ENDS_AT_ONCE], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_share_that_has_to_hold_follows_from_the_bytes() -> None:
    decision = Decision(site="head/0", action="rewritten", reason="", dense_bytes=100, sparse_bytes=50)
    head = Site(id="head/0", kind="head", path="", batch=1, d=8, width=100, dtype="bfloat16")
    cpu, tpu = (target_for(platform).costs for platform in ("cpu", "tpu"))
    assert least_share(head, decision, cpu) == 0.5
    assert least_share(replace(head, batch=4), decision, cpu) == 50 / 300  # XLA:CPU reads that product slowly
    assert least_share(replace(head, batch=4), decision, tpu) == 0.5
    assert least_share(replace(head, batch=4, dtype="float32"), decision, cpu) == 0.5
    assert 0.05 < least_share(replace(head, kind="experts"), decision, cpu) < 0.15
