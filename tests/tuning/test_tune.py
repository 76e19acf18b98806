"""``hire.tune``: the recall of a setting is that of the step it makes, and the choice is the fastest that meets it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calibration.head_ranks import meets, ranks_of, winners_of
from hire_compiler.config.read_toml import read_rules
from hire_compiler.config.write_toml import write_rules
from hire_compiler.learned.calibration import Calibration, Moment
from hire_compiler.learned.trial import rows_needed
from hire_compiler.runtime.logits import select_candidates
from hire_compiler.runtime.predictors import kept_for, prepare_copies
from hire_compiler.runtime.target import target_for
from hire_compiler.tuning.choice import choose
from hire_compiler.tuning.settings import Family
from hire_compiler.tuning.timed import with_run_off
from hire_compiler.tuning.tuned import Tried
from tests.support.drawn import drawn

D, N = 64, 2048
CPU = target_for("cpu")


def inputs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rows of which a few directions hold most, as hidden states of real models."""
    return (rng.standard_normal((count, D)) * np.geomspace(1, 0.02, D)).astype(np.float32)


def table(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((N, D)).astype(np.float32)


def step(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ params["embed"].T, axis=-1)


def forward(params: dict[str, jax.Array], xs: jax.Array) -> jax.Array:
    return jnp.argmax(xs @ params["embed"].T, axis=-1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less timing, fewer settings."""
    monkeypatch.setattr("hire_compiler.tuning.timed.SECONDS", 0.01)
    monkeypatch.setattr("hire_compiler.tuning.settings.RANKS", (0.25,))


def tuned(rng: np.random.Generator, recall: float = 0.99, count: int = 512, **more: Any) -> hire.Tuned:
    params = {"embed": jnp.asarray(table(rng))}
    batches = [(params, jnp.asarray(inputs(rng, count))) for _ in range(4)]
    x = jnp.asarray(inputs(rng, 1))
    return hire.tune(jax.jit(step), params, x, **{"forward": forward, "batches": batches, "recall": recall} | more)


# --------------------------------------------------------------------------- recall


@pytest.mark.slow
@pytest.mark.parametrize(
    "predictor",
    [
        hire.LowRank(16),
        hire.LowRank(24, dtype="int8"),
        hire.Quantized(8),
        hire.Quantized(4, columns=32),
        hire.Cascade(hire.LowRank(16, dtype="int8"), hire.Quantized(8), survivors=256),
    ],
    ids=str,
)
@pytest.mark.parametrize("top", [1, 4])
def test_ranks_say_what_a_step_would_choose(predictor: Any, top: int, rng: np.random.Generator) -> None:
    w, x = jnp.asarray(table(rng)), inputs(rng, 40)
    moment = inputs(rng, 512)
    moment = moment.T @ moment / 512
    winners = winners_of(w, x, top)
    np.testing.assert_array_equal(winners, np.argsort(-(x @ np.asarray(w).T), axis=1, kind="stable")[:, :top])
    ranks = ranks_of(w, predictor, moment, x, winners)
    arrays = kept_for(prepare_copies(w, predictor.copies, moment, stacked=False), D, CPU)
    survivors = getattr(predictor, "survivors", 0)
    for k in (8, 32, 128):
        chosen = np.asarray(select_candidates(jnp.asarray(x), arrays, k, CPU, survivors=survivors)[0])
        found = np.array([np.isin(best, some) for best, some in zip(winners, chosen, strict=True)])
        np.testing.assert_array_equal(ranks < k, found)


def test_a_score_that_is_nan_finds_nothing() -> None:
    w = jnp.ones((N, D)).at[:, 0].set(jnp.nan)
    x = np.ones((3, D), np.float32)
    assert (ranks_of(w, hire.Quantized(8), None, x, np.zeros((3, 1), np.int32)) >= N - 1).all()


def test_a_recall_takes_rows_to_be_seen() -> None:
    assert rows_needed(0.999) == 999
    assert meets(0, 999, 0.999)
    assert not meets(0, 998, 0.999)
    assert not meets(1, 999, 0.999)
    assert meets(1, 2000, 0.999)


# --------------------------------------------------------------------------- the whole search


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_is_chosen_meets_the_recall_on_other_rows_and_can_be_saved(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    found = tuned(rng)
    (chosen,) = found.chosen
    timed = [tried for tried in found.table if tried.ms is not None]
    assert {"dense", "certified, exact"} <= {tried.name for tried in found.table}
    assert chosen in timed
    assert chosen.recall is None or chosen.recall >= 0.99
    assert all(tried.chosen or tried.why for tried in found.table)
    assert found.rows == 512  # more would say the same
    text = str(found)
    assert "→" in text
    assert max(map(len, text.splitlines())) <= 80
    assert found.save(tmp_path / "rules.toml") == tmp_path / "rules.toml"
    read = hire.Tuned.load(tmp_path / "rules.toml")
    assert str(read) == "1 rule in config; no table of what was tried came with them"
    assert read.config == found.config == read_rules(tmp_path / "rules.toml").config
    params, x = {"embed": jnp.asarray(table(rng))}, inputs(rng, 300)
    made = hire.transform(jax.jit(step), read.config, calibration=read.calibration)
    wanted = np.array([int(step(params, row[None])[0]) for row in x[:32]])
    got = np.array([int(made(params, jnp.asarray(row[None]))[0]) for row in x[:32]])
    assert (wanted == got).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_memory_is_a_limit_and_what_reads_far_more_is_not_tried(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, dear = Family((hire.LowRank(32, dtype="int8"),)), Family((hire.LowRank(60),))
    monkeypatch.setattr("hire_compiler.tuning.search.families", lambda *_: {"low": low, "dear": dear})
    found = tuned(rng, memory=0)
    (chosen,) = found.chosen
    assert chosen.name == "dense"
    assert found.config.rules == (hire.Rule(kind="head", path="^head/0$", dense=True),)
    why = {tried.name: tried.why for tried in found.table}
    assert all("more than the 0 allowed" in why[name] for name in ("LowRank(32, int8)", "LowRank(60, bfloat16)"))
    why = {tried.name: tried.why for tried in tuned(rng).table}
    assert why["LowRank(60, bfloat16)"].startswith("not tried: it reads more than 1.5 times as much")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_an_interrupt_keeps_what_is_known(rng: np.random.Generator) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if "LowRank" in what:
            raise KeyboardInterrupt

    found = tuned(rng, progress=interrupt)
    assert "head/0 was not tried with all predictors" in found.notes[0]
    assert found.chosen[0].name in ("dense", "certified, exact")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_top_k_is_measured_on_all_that_it_reads(rng: np.random.Generator) -> None:
    params = {"embed": jnp.asarray(table(rng))}
    batches = [(params, jnp.asarray(inputs(rng, 256))) for _ in range(2)]
    best = jax.jit(lambda params, x: jax.lax.top_k(x @ params["embed"].T, 8)[1])
    found = hire.tune(
        best,
        params,
        jnp.asarray(inputs(rng, 1)),
        forward=forward,
        batches=batches,
        recall=0.9,
    )
    assert all(tried.candidates >= 16 for tried in found.table if tried.recall is not None)


# --------------------------------------------------------------------------- the choice


def setting(name: str, ms: float | None, recall: float | None = 1.0, **more: Any) -> Tried:
    proof = name == "certified"
    rule = (
        None if name == "dense" else hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=32, certify=proof)
    )
    return Tried(site="head/0", name=name, ms=ms, recall=recall, rule=rule, **more)


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        ([setting("low rank", 2.0)], "low rank"),
        ([setting("low rank", 4.95)], "certified"),  # 1 % faster than what loses nothing
        ([setting("low rank", 2.0, added_bytes=11)], "certified"),
        ([setting("low rank", 2.0, why="its recall falls short")], "certified"),
        ([setting("low rank", None)], "certified"),
    ],
)
def test_the_fastest_that_meets_everything_is_taken(others: list[Tried], wanted: str) -> None:
    lossless = [setting("dense", 9.0, None), setting("certified", 5.0, None)]
    (chosen,) = [tried for tried in choose([*lossless, *others], memory=10) if tried.chosen]
    assert chosen.name == wanted


def test_what_is_close_to_the_fastest_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = {"one": [1.0, 0.9], "other": [1.1, 1.2], "slow": [9.0]}

    def in_turns(runs: Any, *_: Any, **__: Any) -> dict[str, list[float]]:
        return {name: [takes[name].pop(0)] for name in runs}

    monkeypatch.setattr("hire_compiler.tuning.timed.in_turns", in_turns)
    found = with_run_off(dict.fromkeys(takes, lambda _: None), [0], lambda *_: None)
    assert found == {"one": [0.9], "other": [1.2], "slow": [9.0]}


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 1}, "recall is 1: give a share between 0 and 1"),
        ({"recall": "much"}, "recall is 'much'"),
        ({"memory": -1}, "memory is -1"),
        ({"batches": []}, "tune got no batches: half"),
        ({"batches": 5}, "batches is 5: give the arguments of one call of forward, a tuple for each batch"),
        ({"recall": 0.9999}, "1024 held-out rows cannot show a recall of 0.9999: it takes 9999.*19998 rows or more"),
    ],
)
def test_a_budget_that_cannot_be_is_a_sentence(options: Any, message: str, rng: np.random.Generator) -> None:
    with pytest.raises(hire.ConfigError, match=message):
        tuned(rng, **options)


def test_a_forward_with_other_weights_is_refused(rng: np.random.Generator) -> None:
    other: Callable[..., Any] = lambda weights, xs: jnp.argmax(xs @ weights["embed"].T, axis=-1)  # noqa: E731
    with pytest.raises(hire.CaptureError, match=r"forward has no head that reads params\['embed'\], as head/0"):
        tuned(rng, forward=other)


def rows(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


W = {"embed": jnp.ones((N, D), jnp.float32)}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (W, rows(4, D + 1)),
            r"forward does not take batch 2 \(TypeError: dot_general.*give the arguments of one call",
        ),
        ((W,), r"forward does not take batch 2 \(TypeError: .*missing 1 required positional argument: 'xs'\)"),
        (rows(4, D), r"forward does not take batch 2 .*a tuple for each batch"),
        (({"other": rows(N, D)}, rows(4, D)), r"forward does not take batch 2 \(KeyError: 'embed'\)"),
        ((W, "text"), r"forward does not take batch 2 .*'text' of type"),
        ((W, jax.ShapeDtypeStruct((4, D), jnp.float32)), "batch 2 holds types: forward runs on it, so give arrays"),
        (
            ({"embed": rows(N // 2, D)}, rows(4, D)),
            r"embed'\] is \[1024, 64\] in the batches and \[2048, 64\] in the step",
        ),
    ],
    ids=["width", "arguments", "no tuple", "names", "text", "types", "weights"],
)
def test_batches_that_do_not_fit_are_a_sentence(batch: Any, message: str) -> None:
    with pytest.raises((hire.CaptureError, hire.ConfigError), match=message):
        hire.tune(step, W, rows(1, D), forward=forward, batches=[(W, rows(4, D)), batch], recall=0.5)


def test_held_out_rows_without_a_number_are_refused(rng: np.random.Generator) -> None:
    batches = [(W, jnp.asarray(inputs(rng, 64))), (W, jnp.full((64, D), jnp.nan))]
    with pytest.raises(hire.WeightError, match=r"batch 2: the input of .* holds NaN or Inf, nothing can be measured"):
        hire.tune(step, W, rows(1, D), forward=forward, batches=batches, recall=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_recall_that_nothing_meets_is_said(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hire_compiler.tuning.search.families", lambda *_: {"low": Family((hire.LowRank(8),))})
    params = {"embed": jnp.asarray(table(rng))}
    batches = [(params, drawn(rng.standard_normal((64, D)), jnp.float32)) for _ in range(2)]
    found = hire.tune(jax.jit(step), params, rows(1, D), forward=forward, batches=batches, recall=0.95)
    assert [tried.lossless for tried in found.chosen] == [True]
    (note,) = [note for note in found.notes if "no approximation of head/0 meets the recall" in note]
    assert note.endswith("so it stays exact")


def test_a_step_without_a_site_is_refused(rng: np.random.Generator) -> None:
    w = jnp.asarray(table(rng))
    with pytest.raises(hire.ConfigError, match="has no site to tune"):
        hire.tune(lambda x, w: x + w[0], inputs(rng, 1), w, forward=forward, batches=[(w,), (w,)], recall=0.9)


def test_every_kind_of_rule_is_written_and_read_again(tmp_path: Path) -> None:
    cascade = hire.Cascade(hire.LowRank(16, dtype="int8"), hire.Quantized(8), survivors=512)
    rules = (
        hire.Rule(kind="head", path=r'^head/0$|"quoted" \d', predictor=cascade, candidates=32),
        hire.Rule(kind="head", predictor=hire.Quantized(4, columns=64), density=0.25, tail="dropped"),
        hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=128, certify="strict", spread=True),
        hire.Rule(kind="ffn", predictor=hire.LowRank(8), recall=0.97, group=8, score="l2", common=0),
        hire.Rule(kind="ffn", predictor=hire.Exact(), max_batch=4),
        hire.Rule(kind="ffn", dense=True),
    )
    config = hire.Config(rules=rules, exact=False, shard_recall=0.9)
    write_rules(config, tmp_path / "rules.toml")
    assert read_rules(tmp_path / "rules.toml").config == config
    assert dataclasses.asdict(read_rules(tmp_path / "rules.toml").config) == dataclasses.asdict(config)


def test_only_toml_is_written(tmp_path: Path) -> None:
    found = hire.Tuned(config=hire.Config(), calibration=Calibration(moments={"w[2]": Moment(np.eye(2), 4)}))
    with pytest.raises(hire.ConfigError, match=r"name a file that ends in \.toml"):
        found.save(tmp_path / "rules.json")
