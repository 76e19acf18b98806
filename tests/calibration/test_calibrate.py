"""Calibration: the sums that an instrumented program returns, against float64 on the captured inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, WIDTH, VOCABULARY, LAYERS = 32, 64, 128, 3


@pytest.fixture
def weights() -> dict[str, jax.Array]:
    rng = np.random.default_rng(7)
    return {
        "up": drawn(rng.normal(size=(LAYERS, D, WIDTH)), jnp.float32),
        "down": drawn(rng.normal(size=(LAYERS, WIDTH, D)) / 16, jnp.float32),
        "embed": drawn(rng.normal(size=(VOCABULARY, D)), jnp.float32),
    }


def inputs(seed: int, rows: int = 5) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, D)), jnp.float32)


def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return x + jax.nn.relu(x @ w["up"]) @ w["down"], x


def forward(weights: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Winner, input of the head, and the input of every layer."""
    x, seen = jax.lax.scan(layer, x, {"up": weights["up"], "down": weights["down"]})
    return jnp.argmax(x @ weights["embed"].T, axis=-1), x, seen


def second_moment(rows: Any) -> np.ndarray:
    wide = np.asarray(rows, np.float64)
    return np.einsum("...bi,...bj->...ij", wide, wide)


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_moments_are_summed_over_batches_and_kept_apart_by_layer(weights: dict[str, jax.Array]) -> None:
    batches = [inputs(0), inputs(1)]
    learned = hire.calibrate(forward, [(weights, x) for x in batches])
    runs = [forward(weights, x) for x in batches]
    assert set(learned.moments) == {f"weights['up'][{D}]", f"weights['embed'][{D}]"}
    assert_close(learned.moments[f"weights['up'][{D}]"].total, sum(second_moment(seen) for _, _, seen in runs))
    assert_close(learned.moments[f"weights['embed'][{D}]"].total, sum(second_moment(x) for _, x, _ in runs))
    assert learned.moments[f"weights['embed'][{D}]"].rows == 10


def test_sums_are_carried_through_a_token_loop_around_the_layers(weights: dict[str, jax.Array]) -> None:
    def generate(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 4, lambda _, x: weights["embed"][forward(weights, x)[0]], x)

    x = inputs(2)
    learned = hire.calibrate(generate, [(weights, x)])
    heads, layers = 0, 0
    for _ in range(4):
        token, last, seen = forward(weights, x)
        heads, layers = heads + second_moment(last), layers + second_moment(seen)
        x = weights["embed"][token]
    assert_close(learned.moments[f"weights['up'][{D}]"].total, layers)
    assert_close(learned.moments[f"weights['embed'][{D}]"].total, heads)


def test_batches_of_another_shape_add_to_the_same_moments(weights: dict[str, jax.Array]) -> None:
    learned = hire.calibrate(forward, [(weights, inputs(0, rows=2)), (weights, inputs(1, rows=7))], kind="head")
    want = sum(second_moment(forward(weights, inputs(s, rows=n))[1]) for s, n in ((0, 2), (1, 7)))
    assert set(learned.moments) == {f"weights['embed'][{D}]"}
    assert_close(learned.moments[f"weights['embed'][{D}]"].total, want)


def test_the_programs_own_results_are_unchanged(weights: dict[str, jax.Array]) -> None:
    results: list[Any] = []
    hire.calibrate(forward, [(weights, inputs(0))], progress=lambda done, result: results.append((done, result)))
    ((done, (token, last, seen)),) = results
    want = forward(weights, inputs(0))
    assert done == 1
    np.testing.assert_array_equal(token, want[0])
    np.testing.assert_allclose(last, want[1], rtol=1e-5, atol=1e-5)
    assert seen.shape == want[2].shape


def test_what_was_learned_finds_rows_that_a_plain_decomposition_misses(weights: dict[str, jax.Array]) -> None:
    # Inputs that live near a plane: a factor of rank 4 can be nearly exact there, and only there.
    rng = np.random.default_rng(3)
    plane = rng.normal(size=(3, D))

    def near_plane(rows: int) -> jax.Array:
        return drawn(rng.normal(size=(rows, 3)) @ plane + 0.01 * rng.normal(size=(rows, D)), jnp.float32)

    def head(embed: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(x @ embed.T, axis=-1)

    embed = weights["embed"]
    learned = hire.calibrate(head, [(embed, near_plane(100))])
    config = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=4),))
    x = near_plane(16)
    want = np.asarray(head(embed, x))
    calibrated, plain = hire.transform(head, config, calibration=learned), hire.transform(head, config)
    assert (np.asarray(calibrated(embed, x)) == want).mean() >= 0.9
    assert (np.asarray(plain(embed, x)) == want).mean() < 0.9
    assert "not calibrated" in str(plain.report().decisions)
    assert "not calibrated" not in str(calibrated.report().decisions)


def test_without_batches_there_is_nothing_to_learn(weights: dict[str, jax.Array]) -> None:
    with pytest.raises(hire.CaptureError, match="no batches"):
        hire.calibrate(forward, [])


def test_a_function_without_sites_cannot_be_calibrated() -> None:
    with pytest.raises(hire.CaptureError, match=r"no head site.*hire\.inspect"):
        hire.calibrate(lambda x: x + 1, [(inputs(0),)], kind="head")


def test_inputs_that_are_not_finite_teach_nothing(weights: dict[str, jax.Array]) -> None:
    with pytest.raises(hire.WeightError, match=r"batch 2.*NaN or Inf"):
        hire.calibrate(forward, [(weights, inputs(0)), (weights, inputs(0).at[0, 0].set(jnp.nan))])
