"""A new user with a Flax NNX model of their own: from the model to a tuned and verified step, in five lines of ours."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

D, VOCABULARY = 64, 2048


class Model(nnx.Module):
    """Nothing of ours in it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, D, rngs=rngs)
        self.up, self.down = nnx.Linear(D, 4 * D, rngs=rngs), nnx.Linear(4 * D, D, rngs=rngs)
        self.head = nnx.Linear(D, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        return self.head(x + self.down(nnx.gelu(self.up(x))))


@nnx.jit  # type: ignore[untyped-decorator]
def decode(model: Model, token: jax.Array) -> jax.Array:
    return jnp.argmax(model(token), axis=-1)


@nnx.jit  # type: ignore[untyped-decorator]
def logits(model: Model, tokens: jax.Array) -> jax.Array:
    return model(tokens)


@pytest.mark.slow
def test_five_lines_tune_and_verify_a_step_of_a_flax_nnx_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hire_compiler.tuning.timed.SECONDS", 0.01)
    monkeypatch.setattr("hire_compiler.tuning.settings.RANKS", (0.5,))
    monkeypatch.setattr("hire_compiler.comparison.turns.SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    model, token = Model(nnx.Rngs(0)), jnp.array([7])
    text = np.random.default_rng(0).integers(0, VOCABULARY, (4, 4, 64))
    batches = [(model, jnp.asarray(tokens, jnp.int32)) for tokens in text]

    import hire_compiler as hire  # 1

    tuned = hire.tune(decode, model, token, forward=logits, batches=batches, recall=0.99)  # 2
    tuned.save("rules.toml")  # 3
    step = hire.transform(decode, tuned.config, calibration=tuned.calibration)  # 4
    print(found := hire.compare(step, model, token))  # 5

    assert {tried.site for tried in tuned.chosen} == {"head/0", "ffn/0"}
    assert tuned.rows == 512
    assert found.tokens == (1, 1)
    assert "1 of 1" in capsys.readouterr().out
    assert Path("rules.toml").exists()
