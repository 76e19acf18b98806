"""``hire-compiler tune``: the rules of a model that came as exports of its step and of a forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.config.read_toml import read_rules

D, N, ROWS = 32, 2048, 128


def step(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ params["head"].T, axis=-1)


def write_exports(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    head = rng.standard_normal((N, D)).astype(np.float32)
    params = {"head": jax.ShapeDtypeStruct((N, D), jnp.float32)}
    for name, rows in (("step", 1), ("forward", ROWS)):
        exported = jax.export.export(jax.jit(step))(params, jax.ShapeDtypeStruct((rows, D), jnp.float32))
        (folder / f"{name}.jax_export").write_bytes(exported.serialize())
    np.savez(folder / "weights.npz", head=head)
    for number in range(2):
        np.savez(folder / f"text{number}.npz", x=rng.standard_normal((ROWS, D)).astype(np.float32))
    names = ("step.jax_export", "forward.jax_export", "weights.npz", "text0.npz", "text1.npz")
    model, forward, weights, *text = (str(folder / name) for name in names)
    return [model, "--forward", forward, "--weights", weights, "--inputs", *text]


@pytest.mark.slow
def test_rules_are_written_and_rewrite_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hire_compiler.tuning.timed.SECONDS", 0.01)
    monkeypatch.setattr("hire_compiler.tuning.settings.RANKS", (0.5,))
    given, rules = write_exports(tmp_path), tmp_path / "rules.toml"
    assert main(["tune", *given, "--recall", "0.9", "-o", str(rules), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["recall"], found["rows"], found["output"]) == (0.9, ROWS, str(rules))
    (chosen,) = [tried for tried in found["table"] if tried["chosen"]]
    assert chosen["site"] == "head/0"
    assert hire.Tuned.load(rules).config == read_rules(rules).config
    assert len(read_rules(rules).config.rules) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recall", "0.9", "-o", "rules.json"], "name a file that ends in .toml"),
        (["--recall", "2", "-o", "rules.toml"], "recall is 2.0: give a share between 0 and 1"),
        (["-o", "rules.toml"], "one of the arguments --recall --loss is required"),
        (["--loss", "0.01", "-o", "rules.toml"], "returns no logits for a text"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["tune", *write_exports(tmp_path), *options])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
