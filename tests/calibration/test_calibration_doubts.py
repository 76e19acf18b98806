"""Calibrations are not believed blindly: none, few rows, the same row again and again, another model's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.learned.calibration import Calibration, Moment
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from tests.support.models import said

D, WIDTH, ROWS = 64, 512, 256
LOW_RANK = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.LowRank(rank=16), density=0.25, group=1),))


def block(w: dict[str, Any], x: Any) -> Any:
    return x + jax.nn.relu(x @ w["up"]) @ w["down"]


def weights(d: int = D, width: int = WIDTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"up": rng.standard_normal((d, width), np.float32), "down": rng.standard_normal((width, d), np.float32)}


def rows(count: int, d: int = D) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, d), np.float32)


def learned(x: np.ndarray, w: Any = None) -> Calibration:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        return hire.calibrate(jax.jit(block), [(w or weights(x.shape[1]), x)])


def notes(calibration: Calibration | None, config: hire.Config = LOW_RANK) -> str:
    step = hire.transform(jax.jit(block), config, calibration=calibration)
    step(weights(), rows(1))
    return "\n".join(f"note {note}" for note in step.report().notes)


def test_a_low_rank_without_a_calibration_is_said_in_the_report() -> None:
    assert "note ffn/0: not calibrated, so the factors are a plain SVD" in notes(None)


@pytest.mark.slow
def test_enough_rows_are_no_doubt() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = hire.calibrate(jax.jit(block), [(weights(), rows(ROWS))])
    assert notes(enough) == ""


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (rows(1), "rests on 1 row of calibration, too few for inputs of 64 numbers"),
        (rows(40), "rests on 40 rows of calibration, too few"),
        (np.repeat(rows(1), 4, axis=0), "rests on 4 rows of calibration, too few"),
        (np.repeat(rows(1), ROWS, axis=0), "that span only 1 of 64 dimensions"),
        (np.repeat(rows(5), ROWS // 4, axis=0), "that span only 5 of 64 dimensions"),
        (np.zeros((ROWS, D), np.float32), "that span only 0 of 64 dimensions"),
    ],
    ids=["one row", "few rows", "few identical rows", "identical rows", "five rows again and again", "zeros"],
)
def test_rows_that_say_little_are_a_warning_and_a_line_in_the_report(seen: np.ndarray, expected: str) -> None:
    with pytest.warns(hire.HireWarning, match=r"the calibration says too little: w\['up'\]\[64\]: "):
        little = hire.calibrate(jax.jit(block), [(weights(), seen)])
    assert expected in notes(little)


def test_of_stacked_layers_the_poorest_counts() -> None:
    full = rows(ROWS).T @ rows(ROWS)
    poor = np.outer(rows(1)[0], rows(1)[0])
    assert Moment(np.stack([full, full]).astype(np.float64), ROWS).doubt(16) == ""
    assert "span only 1 of 64" in Moment(np.stack([full, poor]).astype(np.float64), ROWS).doubt(16)


def test_room_for_active_neurons_by_few_rows_is_a_line_in_the_report() -> None:
    exact = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact()),))
    w, x = weights(), np.abs(rows(1))
    w["up"] = np.where(np.arange(WIDTH) < 16, 1, -1).astype(np.float32) * np.abs(w["up"])  # sixteen active neurons
    step = hire.transform(jax.jit(block), exact, calibration=learned(x, w))
    step(w, x)
    assert "note ffn/0: the room for active neurons rests on 1 row of calibration" in said(step.report())


@pytest.mark.slow
@pytest.mark.parametrize(("d", "width"), [(128, WIDTH), (D, 256), (128, 256)])
@pytest.mark.parametrize("config", [LOW_RANK, hire.Config()])
def test_another_models_widths_are_an_error(d: int, width: int, config: hire.Config) -> None:
    other = learned(rows(ROWS, d), weights(d, width))
    step = hire.transform(jax.jit(block), config, calibration=other)
    with pytest.raises(hire.ConfigError, match=r"the calibration saw .* another model's"):
        step(weights(), rows(1))


@pytest.mark.slow
def test_another_models_activity_alone_is_an_error() -> None:
    """Not even where no second moment gives it away."""
    other = learned(rows(ROWS), weights(D, 256))
    other = Calibration({}, other.activities)
    step = hire.transform(jax.jit(block), calibration=other)
    with pytest.raises(hire.ConfigError, match=r"saw 256 neurons of w\['up'\].*, and there are 512"):
        step(weights(), rows(1))


@pytest.mark.slow
def test_another_models_layers_are_an_error() -> None:
    mine = learned(rows(ROWS))
    ((key, moment),) = mine.moments.items()
    stacked = Calibration({key: Moment(np.stack([moment.total] * 3), ROWS)})
    step = hire.transform(jax.jit(block), LOW_RANK, calibration=stacked)
    with pytest.raises(hire.ConfigError, match=r"is \[3, 64, 64\], not \[64, 64\]"):
        step(weights(), rows(1))


@pytest.mark.slow
def test_another_models_names_are_a_line_in_the_report() -> None:
    def renamed(p: Any, x: Any) -> Any:
        return block(p, x)

    other = hire.calibrate(jax.jit(renamed), [(weights(), rows(ROWS))])
    said = notes(other)
    assert "the calibration knows none of these sites: it saw p['up'][64], and this program reads w['up'][64]" in said
    assert "not calibrated" in said


def test_what_is_no_calibration_is_an_error() -> None:
    with pytest.raises(hire.ConfigError, match=r"calibration is a dict: pass what hire\.calibrate"):
        hire.transform(jax.jit(block), LOW_RANK, calibration={"up": 1})  # type: ignore[arg-type]
    with pytest.raises(hire.ConfigError, match=r"calibration is a dict: pass what hire\.calibrate"):
        hire.rewrite(jax.jit(block).lower(weights(), rows(1)), calibration={"up": 1})  # type: ignore[arg-type]
    broken = learned(rows(ROWS))
    next(iter(broken.moments.values())).total[0, 0] = np.nan
    step = hire.transform(jax.jit(block), LOW_RANK, calibration=broken)
    with pytest.raises(hire.ConfigError, match="holds NaN or Inf"):
        step(weights(), rows(1))


# --------------------------------------------------------------------------- from files


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, d in (("model", D), ("other", 128)):
        types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights(d))
        exported = jax.export.export(jax.jit(block))(types, jax.ShapeDtypeStruct((1, d), jnp.float32))
        (tmp_path / f"{name}.jax_export").write_bytes(exported.serialize())
        save_file(weights(d), tmp_path / f"{name}.safetensors")
        np.savez(tmp_path / f"{name}.npz", x=rows(1, d))
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\nkind = "ffn"\npredictor = { type = "LowRank", rank = 16 }\ndensity = 0.25\ngroup = 1\n'
    )
    return tmp_path


def command(files: Path, verb: str, model: str, *options: str) -> list[str]:
    given = [str(files / f"{model}.jax_export"), "--weights", str(files / f"{model}.safetensors")]
    return [verb, *given, *(str(files / o) if "." in o else o for o in options)]


@pytest.mark.slow
def test_the_command_line_says_the_same(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite = ["--platform", "cpu", "--rules", "rules.toml"]
    assert main(command(files, "rewrite", "model", *rewrite, "-o", "a.hire")) == 0
    assert "note ffn/0: not calibrated" in " ".join(capsys.readouterr().out.split())
    assert main(command(files, "calibrate", "model", "--inputs", "model.npz", "-o", "one.st")) == 0
    assert "note  w['up'][64]: 1 row of calibration, too few" in capsys.readouterr().out
    assert main(command(files, "rewrite", "model", *rewrite, "--calibration", "one.st", "-o", "b.hire")) == 0
    assert "rests on 1 row of calibration" in capsys.readouterr().out
    assert main(command(files, "calibrate", "other", "--inputs", "other.npz", "-o", "other.st")) == 0
    capsys.readouterr()
    assert main(command(files, "rewrite", "model", *rewrite, "--calibration", "other.st", "-o", "c.hire")) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "the calibration saw w['up'] with inputs of 128 numbers, and here they have 64" in err
    assert not (files / "c.hire").exists()


@pytest.mark.parametrize("change", ["rows", "shape", "nan"])
def test_a_file_with_an_impossible_moment_is_refused(change: str, tmp_path: Path) -> None:
    total, count = rows(ROWS).T.astype(np.float64) @ rows(ROWS), ROWS
    if change == "nan":
        total[3, 3] = np.nan
    save_calibration(
        Calibration({"w[64]": Moment(total[:, :5] if change == "shape" else total, 0 if change == "rows" else count)}),
        tmp_path / "c.st",
    )
    with pytest.raises(hire.HireError, match=r"c\.st is a damaged calibration"):
        load_calibration(tmp_path / "c.st")
