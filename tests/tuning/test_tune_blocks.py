"""``hire.tune`` on feed-forward blocks: for a recall of their active neurons, and for the loss of the whole program."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.learned.calibration import Calibration
from hire_compiler.tuning.batches import calibrated, captured, rows_read
from hire_compiler.tuning.blocks import exact_settings, judged, left_alone, trial_of, tried_rule, with_neurons
from hire_compiler.tuning.budget import Budget
from hire_compiler.tuning.choice import choose
from hire_compiler.tuning.loss_search import LossSearch
from hire_compiler.tuning.losses import Losses, Rise
from hire_compiler.tuning.search import Interrupted
from hire_compiler.tuning.simulate import Simulated, simulate
from hire_compiler.tuning.timed_blocks import alike, time_blocks
from hire_compiler.tuning.tuned import Tried
from hire_compiler.tuning.tuned_sites import find_sites
from tests.support.drawn import drawn

D, M, L, V = 32, 512, 2, 64


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


def weights(rng: np.random.Generator) -> dict[str, jax.Array]:
    def normal(*shape: int) -> jax.Array:
        return drawn(rng.standard_normal(shape) / np.sqrt(shape[-2]), jnp.float32)

    return {
        "embed": normal(V, D) * 6,
        "head": normal(D, V) * 2,
        "up": normal(L, D, M),
        "bias": jnp.full((L, M), -1.0, jnp.float32),
        "down": normal(L, M, D) * 0.5,
        "gelu": normal(D, M),
        "back": normal(M, D) * 0.1,
    }


def forward(p: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """A stack of ReLU blocks, one GELU block, logits."""

    def layer(x: jax.Array, w: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        up, bias, down = w
        return x + jax.nn.relu(x @ up + bias) @ down, None

    x, _ = lax.scan(layer, p["embed"][tokens], (p["up"], p["bias"], p["down"]))
    x = x + jax.nn.gelu(x @ p["gelu"]) @ p["back"]
    return x @ p["head"]


def step(p: dict[str, jax.Array], token: jax.Array) -> jax.Array:
    return jnp.argmax(forward(p, token), axis=-1)


@functools.cache
def following() -> np.ndarray:
    """How likely each token follows each: the model predicts its own text well."""
    return np.asarray(jax.nn.softmax(jax.jit(forward)(weights(np.random.default_rng(0)), jnp.arange(V))), np.float64)


def text(rng: np.random.Generator, length: int = 40) -> jax.Array:
    """What the model itself would write."""
    tokens = [rng.integers(0, V, 4)]
    for _ in range(length - 1):
        chances = following()[tokens[-1]].cumsum(axis=1)
        tokens.append((rng.random((4, 1)) * chances[:, -1:] < chances).argmax(axis=1))
    return jnp.asarray(np.stack(tokens, axis=1), jnp.int32)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less timing, fewer settings."""
    monkeypatch.setattr("hire_compiler.tuning.timed.SECONDS", 0.01)
    monkeypatch.setattr("hire_compiler.tuning.timed_blocks.INPUTS", 1)
    monkeypatch.setattr("hire_compiler.tuning.blocks.RANKS", (0.5,))
    monkeypatch.setattr("hire_compiler.tuning.loss_search.RANKS", (0.5,))
    monkeypatch.setattr("hire_compiler.tuning.loss_search.SHARES", (0.5,))


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any, Any, Calibration, list[Any]]:
    """The blocks of the step, the arguments, held-out batches, and what was learned."""
    rng = np.random.default_rng(0)
    p = weights(rng)
    wrapped = UserFunction(step)
    leaves, tree = wrapped.flatten((p, jnp.zeros(1, jnp.int32)), {})
    program = capture(wrapped, leaves, tree)
    batches = captured(forward, [(p, text(rng)), (p, text(rng))])
    learned = calibrated(batches[:1], None, quiet)
    blocks = [block.knowing(learned) for block in find_sites(program, "cpu")[1]]
    return blocks, [*program.constants, *leaves], batches[1:], learned, leaves


# --------------------------------------------------------------------------- recall


@pytest.mark.slow
def test_a_recall_is_of_active_neurons_and_gelu_has_none_to_leave_out(found: Any) -> None:
    blocks, values, held_out, learned, _ = found
    relu, gelu = blocks
    assert left_alone(relu, by_recall=True) == ""
    assert "no neuron is exactly zero" in left_alone(gelu, by_recall=True)
    assert left_alone(gelu, by_recall=False) == ""
    rows = rows_read(held_out, quiet)[relu.key]
    assert rows.shape == (L, 128, D)  # no more of one call
    rule = tried_rule(relu, hire.Quantized(8))
    _, trial = trial_of(relu, rule, rows, values, learned)
    fine, little = (judged(relu, "", rule, trial, recall) for recall in (0.9, 0.2))
    assert fine.recall is not None
    assert fine.recall >= 0.9
    assert little.candidates < fine.candidates < M
    assert with_neurons(relu, replace(rule, group=8), 0.3).candidates == 160  # whole groups


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_block_is_timed_as_it_will_run(found: Any) -> None:
    blocks, values, held_out, _, _ = found
    assert [len(group) for group in alike(blocks)] == [1, 1]
    relu = blocks[0]
    rule = with_neurons(relu, tried_rule(relu, hire.Quantized(8)), 1 / 8)
    wide = with_neurons(relu, rule, 1.0)
    settings = [
        *exact_settings(relu),
        Tried(site="ffn/0", name="few", rule=rule, candidates=64, recall=0.5),
        Tried(site="ffn/0", name="all", rule=wide, candidates=M, recall=1.0),
        Tried(site="ffn/0", name="zeros", rule=hire.Rule(kind="ffn", predictor=hire.Exact(), path="^ffn/0$")),
    ]
    timed = time_blocks([relu], settings, rows_read(held_out, quiet), values, quiet)
    names = ("dense", "few", "all", "zeros")
    dense, few, wide_one, zeros = (next(t for t in timed if t.name == name) for name in names)
    assert dense.ms
    assert zeros.ms  # with the residual stream that it adds
    assert few.ms
    assert dense.read_bytes == 2 * L * D * M * 4
    assert few.read_bytes < dense.read_bytes
    assert wide_one.ms is None
    assert wide_one.why


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_is_chosen_for_a_recall_is_carried_out(rng: np.random.Generator) -> None:
    p = weights(np.random.default_rng(0))
    batches = [(p, text(rng)) for _ in range(4)]
    tuned = hire.tune(jax.jit(step), p, jnp.zeros(1, jnp.int32), forward=step, batches=batches, recall=0.9)
    assert {tried.site for tried in tuned.chosen} >= {"ffn/0", "ffn/1"}
    assert max(map(len, str(tuned).splitlines())) <= 80
    made = hire.transform(jax.jit(step), tuned.config, calibration=tuned.calibration)
    assert made(p, jnp.zeros(1, jnp.int32)).shape == (1,)


# --------------------------------------------------------------------------- loss


@pytest.mark.slow
def test_a_simulated_block_leaves_out_what_a_rewritten_one_does(found: Any) -> None:
    blocks, _, (batch, *_), learned, leaves = found
    relu = blocks[0]
    rule = with_neurons(relu, tried_rule(relu, hire.Quantized(8)), 1 / 64)
    made = simulate(batch.program, batch.values, {relu.key: Simulated((rule,), 1)}, learned, "cpu")
    assert made.keys == (relu.key,)
    losses = Losses([batch], {relu.key: Simulated((rule,), 1)}, learned)
    assert losses.rise({}).mean == 0
    assert losses.rise({relu.key: (0, M // (rule.group or 1))}).mean == pytest.approx(0, abs=1e-6)
    p = jax.tree.unflatten(jax.tree.structure(weights(np.random.default_rng(0))), leaves[:-1])
    tokens = np.asarray(batch.values[-1])
    sparse = hire.transform(forward, hire.Config(rules=(rule,), exact=False))
    row_by_row = np.stack([[np.asarray(sparse(p, tokens[b, t][None]))[0] for t in range(8)] for b in range(1)])
    scores = jax.nn.log_softmax(jnp.asarray(row_by_row)[:, :-1])
    wanted = -np.take_along_axis(np.asarray(scores), tokens[:1, 1:8, None], axis=-1)[..., 0]
    got = losses._each({relu.key: (0, (rule.candidates or 0) // (rule.group or 1))}).reshape(4, -1)[:1, :7]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert np.abs(losses._dense.reshape(4, -1)[:1, :7] - wanted).max() > 1e-2


@pytest.mark.slow
def test_no_more_text_is_run_than_shows_that_a_setting_is_too_dear(found: Any) -> None:
    blocks, _, (batch, *_), learned, _ = found
    relu = blocks[0]
    losses = Losses([batch] * 3, {relu.key: Simulated((tried_rule(relu, hire.Quantized(8)),), 1)}, learned)
    nothing_kept = {relu.key: (0, 0)}
    whole = losses.rise(nothing_kept)
    assert whole.tokens == losses.tokens == 3 * 4 * 39
    assert losses.rise(nothing_kept, -1.0).tokens == 4 * 39  # surely more than that
    assert losses.rise(nothing_kept, whole.mean * 2).tokens == losses.tokens


def tuned_for(loss: float, rng: np.random.Generator, progress: Any = quiet) -> hire.Tuned:
    p = weights(np.random.default_rng(0))
    batches = [(p, text(rng)) for _ in range(4)]
    token = jnp.zeros(1, jnp.int32)
    return hire.tune(jax.jit(step), p, token, forward=forward, batches=batches, loss=loss, progress=progress)


@pytest.fixture
def fewer_is_faster(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if fewer neurons always were faster."""

    def fast(group: Any, settings: Any, *_: Any, **__: Any) -> list[Tried]:
        return [replace(t, ms=1.0 if t.rule is None else 1.5e-3 * (t.candidates or M)) for t in settings]

    monkeypatch.setattr("hire_compiler.tuning.loss_search.time_blocks", fast)


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_is_faster")
def test_a_loss_budget_is_spent_on_what_saves_most(rng: np.random.Generator) -> None:
    tuned = tuned_for(0.2, rng)
    sparse = [tried for tried in tuned.chosen if not tried.lossless]
    assert sparse
    assert all(tried.loss is not None and tried.loss < 0.2 for tried in sparse)
    assert any("all together the loss rises by" in note for note in tuned.notes)
    assert tuned.rows == 2 * 4 * 39
    assert max(map(len, str(tuned).splitlines())) <= 80
    assert all(tried.chosen or tried.why for tried in tuned.table)


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_is_faster")
def test_a_block_that_cannot_pay_stays_exact(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hire_compiler.tuning.loss_search.SHARES", (1 / 64,))
    tight = tuned_for(1e-9, rng)
    assert all(tried.lossless for tried in tight.chosen)
    assert any("no approximation of a block meets the budget" in note for note in tight.notes)
    assert any("the loss would rise by" in tried.why for tried in tight.table)


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_is_faster")
def test_what_was_weighed_before_an_interrupt_is_taken(rng: np.random.Generator) -> None:
    weighed: list[str] = []

    def interrupt(what: str, _done: int, _total: int) -> None:
        if what.startswith("weighing") and what not in weighed:
            weighed.append(what)
            if len(weighed) == 2:
                raise KeyboardInterrupt

    found = tuned_for(0.2, rng, progress=interrupt)
    assert any("interrupted: what was not weighed yet" in note for note in found.notes)
    assert [t.site for t in found.chosen if not t.lossless] == [weighed[0].removeprefix("weighing ")]


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_is_faster")
def test_an_interrupt_before_anything_was_weighed_changes_nothing(rng: np.random.Generator) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if "measuring the loss" in what:
            raise KeyboardInterrupt

    found = tuned_for(0.2, rng, progress=interrupt)
    assert "interrupted: no block was weighed, so they stay as they are" in found.notes
    assert not found.config.rules


def test_an_interrupt_while_a_head_is_timed_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("hire_compiler.tuning.loss_search.time_settings", interrupt)
    dense = Tried(site="head/0", name="dense")
    monkeypatch.setattr("hire_compiler.tuning.loss_search.exact_settings_of", lambda _: [dense])
    search, head = (
        LossSearch(0.1, None, Calibration(), quiet),
        SimpleNamespace(key="w", site=SimpleNamespace(id="head/0")),
    )
    with pytest.raises(Interrupted):
        search.head(head, jnp.ones((2, 2)), {"w": np.ones((2, 2))})  # type: ignore[arg-type]
    assert search.tuned().notes == ("interrupted: head/0 was not timed, so it stays as it is",)
    assert not search.tuned().config.rules


def test_a_rise_says_how_many_tokens_would_tell() -> None:
    assert Rise(0.001, 0.001, 400).within(0.005)
    assert not Rise(0.003, 0.002, 400).within(0.005)
    assert "1600 could" in Rise(0.003, 0.002, 400).why_not(0.005)
    assert Rise(0.02, 0.0, 400).why_not(0.005) == "the loss would rise by 2.00%"


# --------------------------------------------------------------------------- memory


def test_memory_goes_where_it_saves_most() -> None:
    def setting(site: str, name: str, ms: float, added: int = 0) -> Tried:
        rule = None if name == "dense" else hire.Rule(kind="ffn", predictor=hire.Quantized(8), candidates=8)
        return Tried(site=site, name=name, ms=ms, added_bytes=added, rule=rule, recall=None if rule is None else 1.0)

    table = [setting(site, "dense", 10.0) for site in ("ffn/0", "ffn/1")]
    table += [setting("ffn/0", "fast", 5.0, 100), setting("ffn/1", "fast", 1.0, 100), setting("ffn/1", "least", 8.0, 1)]
    taken = [tried for tried in choose(table, 100) if tried.chosen]
    assert [(tried.site, tried.name) for tried in taken] == [("ffn/0", "dense"), ("ffn/1", "fast")]
    assert any("worth more at other sites" in tried.why for tried in choose(table, 100))
    assert [tried.name for tried in choose(table, None) if tried.chosen] == ["fast", "fast"]


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tune got neither of recall and loss"),
        ({"recall": 0.9, "loss": 0.1}, "tune got both of recall and loss"),
        ({"loss": -1.0}, "loss is -1.0: give the share by which it may rise"),
    ],
)
def test_a_budget_is_one_number(options: Any, message: str) -> None:
    with pytest.raises(hire.ConfigError, match=message):
        hire.tune(step, {}, forward=forward, batches=[1, 2], **options)


def test_a_budget_may_be_a_number_of_numpy() -> None:
    budget = Budget(recall=np.float32(0.5), memory=np.int64(8))  # type: ignore[arg-type]
    assert (budget, type(budget.recall), type(budget.memory)) == (Budget(recall=0.5, memory=8), float, int)


@pytest.mark.parametrize(
    ("passed", "length", "message"),
    [
        (step, 40, "returns no logits for a text: a loss budget needs a forward pass from whole numbers"),
        (forward, 8, r"56 held-out tokens are too few to measure a loss: it takes 128.*give 256 tokens or more"),
    ],
)
def test_a_loss_needs_logits_and_tokens(passed: Any, length: int, message: str, rng: np.random.Generator) -> None:
    p = weights(np.random.default_rng(0))
    batches = [(p, text(rng, length)) for _ in range(4)]
    with pytest.raises(hire.ConfigError, match=message):
        hire.tune(jax.jit(step), p, jnp.zeros(1, jnp.int32), forward=passed, batches=batches, loss=0.1)


# --------------------------------------------------------------------------- the author's own choice


def test_no_fewer_neurons_are_tried_than_the_author_keeps(rng: np.random.Generator) -> None:
    def kept(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return hire.group_topk(jax.nn.relu(x @ p["gelu"]), 128, 8) @ p["back"]

    wrapped = UserFunction(kept)
    program = capture(wrapped, *wrapped.flatten((weights(rng), jnp.zeros((1, D))), {}))
    (block,) = find_sites(program, "cpu")[1]
    rule = tried_rule(block, hire.Quantized(8))
    assert [with_neurons(block, rule, share).candidates for share in (1 / 2, 1 / 4, 1 / 8)] == [256, 128, 128]
