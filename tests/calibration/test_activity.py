"""What a calibration learns of neurons: against NumPy on the hidden activations themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.learned.activity import Activity
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from tests.support.drawn import drawn

D, WIDTH, LAYERS = 16, 128, 3
Params = dict[str, jax.Array]


def weights(seed: int = 0, dtype: Any = jnp.float32) -> Params:
    rng = np.random.default_rng(seed)
    shapes = {"gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D)}
    w = {name: drawn(rng.normal(size=(LAYERS, *s)) / np.sqrt(s[0]), dtype) for name, s in shapes.items()}
    return w | {"bias": drawn(rng.normal(size=(LAYERS, WIDTH)) - 1, dtype)}


def hidden(w: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + w["bias"])


def gated(w: Params, x: jax.Array) -> jax.Array:
    return jax.nn.silu(x @ w["gate"]) * (x @ w["up"])


def stack(block: Any) -> Any:
    def run(w: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def layer(x: jax.Array, w: Params) -> tuple[jax.Array, jax.Array]:
            h = block(w, x)
            return x + h @ w["down"], h

        return jax.lax.scan(layer, x, w)

    return run


def inputs(seed: int, rows: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, D)), jnp.float32)


def the_activity(learned: hire.Calibration) -> Activity:
    (activity,) = learned.activities.values()
    return activity


def by_groups(active: np.ndarray, group: int) -> np.ndarray:
    return active.reshape(*active.shape[:-1], -1, group).any(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 8, 32])
def test_frequencies_and_unions_are_those_of_the_neurons_that_are_not_zero(group: int) -> None:
    w, batches = weights(), [inputs(1, 12), inputs(2, 12), inputs(3, 5)]
    learned = the_activity(hire.calibrate(stack(hidden), [(w, x) for x in batches], kind="ffn"))
    seen = [np.asarray(stack(hidden)(w, x)[1]) != 0 for x in batches]  # [layers, rows, width]
    everything = by_groups(np.concatenate(seen, axis=1), group)
    assert learned.strongest is None
    assert learned.rows == 29
    np.testing.assert_allclose(learned.frequency(group), everything.mean(axis=1), atol=1e-6)
    assert learned.union(group) == pytest.approx(everything.mean(), abs=1 / 256)
    # Four rows of a call are taken as far apart as they stand: row, row + n/4, …
    sets = [by_groups(s[:, : s.shape[1] // 4 * 4].reshape(LAYERS, 4, -1, WIDTH).any(1), group) for s in seen]
    together = np.concatenate(sets, axis=1)
    assert learned.union(group, 4) == pytest.approx(together.mean(), abs=1 / 256)
    shares = together.mean(axis=2)  # [layers, sets]
    enough = learned.most(group, 4, 1.0)
    assert shares.max() <= enough <= shares.max() + 1 / 256
    median = learned.most(group, 1, 0.5)
    assert ((everything.mean(axis=2) <= median).mean(axis=1) >= 0.5).all()


@pytest.mark.slow
def test_where_nothing_is_zero_the_strongest_are_active() -> None:
    w, x = weights(), inputs(4, 32)
    learned = the_activity(hire.calibrate(stack(gated), [(w, x)], kind="ffn", strongest=0.05))
    size = np.abs(np.asarray(stack(gated)(w, x)[1]))
    active = size >= np.sort(size, axis=-1)[..., -7, None]  # 5 % of 128, rounded up
    assert learned.strongest == 0.05
    np.testing.assert_allclose(learned.frequency(1), active.mean(axis=1), atol=1e-6)


def test_counts_are_summed_in_token_loops_and_of_separate_layers() -> None:
    w = weights()
    one = {name: array[0] for name, array in w.items()}

    def generate(w: Params, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x + hidden(w, x) @ w["down"]), x)

    learned, x, seen = the_activity(hire.calibrate(generate, [(one, inputs(5, 3))])), inputs(5, 3), []
    for _ in range(5):
        seen.append(np.asarray(hidden(one, x)) != 0)
        x = jnp.tanh(x + hidden(one, x) @ one["down"])
    assert learned.rows == 15
    np.testing.assert_allclose(learned.frequency(1), np.concatenate(seen).mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_neurons_that_fire_together_touch_few_groups() -> None:
    """Nine percent of neurons on their own touch half of all groups of 8; in groups they touch nine percent."""
    rng = np.random.default_rng(6)
    alone = rng.random((400, 1024)) < 0.09
    together = np.repeat(rng.random((400, 128)) < 0.09, 8, axis=1)
    for active, wanted in ((alone, 1 - 0.91**8), (together, 0.09)):
        w = {"up": jnp.eye(1024), "down": jnp.zeros((1024, 1024))}
        learned = hire.calibrate(lambda w, x: jax.nn.relu(x @ w["up"]) @ w["down"], [(w, jnp.asarray(active, float))])
        assert the_activity(learned).union(1) == pytest.approx(0.09, abs=0.01)
        assert the_activity(learned).union(8) == pytest.approx(wanted, abs=0.01)


def test_more_rows_than_were_seen_together_are_taken_for_independent() -> None:
    learned = the_activity(hire.calibrate(stack(hidden), [(weights(), inputs(7, 4))] * 3, kind="ffn"))
    assert learned.measured(4) == learned.measured(16) == 4
    assert learned.union(1, 16) == pytest.approx(1 - (1 - learned.union(1, 4)) ** 4)
    assert learned.union(1) < learned.union(1, 2) < learned.union(1, 4)
    assert learned.union(1, 3) == learned.union(1, 4)


@pytest.mark.slow
def test_what_was_learned_survives_a_file(tmp_path: Path) -> None:
    learned = hire.calibrate(stack(hidden), [(weights(), inputs(8, 16))])
    save_calibration(learned, tmp_path / "learned.safetensors")
    read = load_calibration(tmp_path / "learned.safetensors")
    (key,) = learned.activities
    assert list(read.activities) == [key]
    assert read.digest == learned.digest
    np.testing.assert_array_equal(read.activities[key].counts, learned.activities[key].counts)
    assert the_activity(read).union(8, 4) == the_activity(learned).union(8, 4)
    assert "of 128 neurons active a row" in str(read)


@pytest.mark.parametrize("share", [0, 1, -0.1, 2.0, "some", True, float("nan")])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(hire.ConfigError, match=r"strongest is .*such as 0\.1"):
        hire.calibrate(stack(gated), [(weights(), inputs(0, 2))], strongest=share)
