"""``make demo`` with a model of no size: it runs from the prompt to the picture, and both sides write the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import demo
from examples.models import MissingWheelError
from tests.support.drawn import drawn

D, VOCABULARY = 64, 4096


class Letters:
    """A tokenizer of characters."""

    stop = frozenset[int]()

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return [ord(letter) % VOCABULARY for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + token % 26) for token in ids)


def tiny(_name: str) -> Any:
    rng = np.random.default_rng(0)
    params = {"embed": drawn(rng.standard_normal((VOCABULARY, D)), jnp.float32)}

    def hidden_states(params: Any, tokens: jax.Array, cache: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.tanh(params["embed"][tokens] + cache)
        return x, jnp.sin(3 * x[:, -1:])

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["embed"].T

    def greedy_step(params: Any, tokens: jax.Array, cache: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, cache = hidden_states(params, tokens, cache)
        return jnp.argmax(logits(params, x[:, -1]), axis=-1).astype(jnp.int32), cache

    return SimpleNamespace(
        name="tiny",
        params=params,
        tokenizer=Letters(),
        init_cache=lambda batch, length=1: jnp.zeros((batch, 1, D), jnp.float32),
        hidden_states=hidden_states,
        logits=logits,
        greedy_step=greedy_step,
    )


def test_the_demo_runs_from_the_prompt_to_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "CALLS", 3)
    assert demo.main(["--prompt", "bread", "--tokens", "4"], load=tiny) == 0
    said = capsys.readouterr().out
    for words in (
        "--- dense, ",
        "--- rewritten, ",
        "4 of 4 tokens are equal",
        "the exact default",
        "3 of 3",
        "hire_compiler: ",
    ):
        assert words in said
    assert (tmp_path / "demo.svg").exists() or "no picture" in said


def test_a_model_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise MissingWheelError("pip install it")

    with pytest.raises(SystemExit, match="pip install it"):
        demo.main([], load=missing)


def test_help_says_what_the_demo_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--prompt", "--model", "--tokens", "--tune"))
