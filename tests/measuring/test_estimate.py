"""Prices of compiled TPU programs (three stored ones), and the compiler itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.measuring.estimate import LARGE, estimate_both, summarize
from hire_compiler.measuring.hlo.cost import CHIPS, OpCost, price
from hire_compiler.measuring.hlo.text import HloProgram, read_hlo

V5E = CHIPS["v5e"]
STORED = Path(__file__).parents[1] / "hlo"
needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def stored(name: str) -> HloProgram:
    return read_hlo((STORED / f"{name}.hlo").read_text())


def operation(name: str, operations: tuple[OpCost, ...]) -> OpCost:
    return next(op for op in operations if op.name == name)


def program(*lines: str, before: str = "") -> HloProgram:
    body = "\n".join(f"  {line}" for line in lines)
    return read_hlo(f"HloModule m, is_scheduled=true\n\n{before}\nENTRY %main () -> f32[] {{\n{body}\n}}\n")


# --------------------------------------------------------------------------- the cost function


def test_a_gather_reads_the_rows_it_returns_and_runs_once_a_layer() -> None:
    gather = operation("gather_fusion", price(stored("scan"), V5E))
    assert gather.kind == "gather"
    assert gather.repeat == 3
    assert gather.hbm_bytes == 3 * 16 * 8 * 256 * 2  # into VMEM, so nothing is written; the indices live there too
    assert gather.seconds == pytest.approx(gather.hbm_bytes / V5E.hbm)


def test_cycles_are_the_compilers_own() -> None:
    matmul = operation("fusion.25", price(stored("scan"), V5E))
    assert matmul.kind == "matmul"
    assert matmul.cycles == 3 * 2366
    assert matmul.seconds == pytest.approx(3 * 2366 / 1.5e9)


def test_a_collective_costs_its_steps_and_its_bytes() -> None:
    gather = operation("all-gather.10", price(stored("sharded"), V5E, devices=4))
    assert gather.kind == "all-gather"
    assert gather.wire_bytes == 8 * 2048 * 2 * 3 // 4
    assert gather.seconds == pytest.approx(3 * V5E.hop + gather.wire_bytes / V5E.ici)


def test_all_reduce_goes_round_twice_in_its_own_group() -> None:
    read = program(
        "%p = f32[1024]{0} parameter(0)",
        "ROOT %r = f32[1024]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%add",
    )
    (cost,) = price(read, V5E, devices=4)
    assert cost.wire_bytes == 2 * 4096 // 2
    assert cost.seconds == pytest.approx(2 * V5E.hop + 4096 / V5E.ici)


def test_the_predictor_fused_with_its_top_k_reads_the_predictor_once() -> None:
    fused = operation("fusion", price(stored("sharded"), V5E, devices=4))
    assert fused.kind == "matmul + partial top-k"
    assert fused.cycles is None
    assert fused.seconds == pytest.approx((1024 * 256 / 1024 + 2.5 * 8) / V5E.clock)
    # The shard itself was prefetched into VMEM by a copy, which is charged for it.
    copy = operation("copy-start", price(stored("sharded"), V5E, devices=4))
    assert copy.kind == "prefetch"
    assert copy.hbm_bytes == 1024 * 256 * 2
    assert copy.seconds == pytest.approx(copy.hbm_bytes / V5E.hbm)


def test_a_conditional_counts_with_its_cheapest_branch() -> None:
    estimate = summarize(stored("cond"), V5E, name="cond", tpu="v5e:2x2")
    dense = operation("convolution_reduce_fusion", estimate.operations)
    assert dense.rare
    rare = sum(op.seconds for op in estimate.operations if op.rare)
    assert estimate.worst_seconds == pytest.approx(estimate.seconds + rare)  # the cheap branch costs nothing
    assert "dense branch" in str(estimate)


def test_the_worst_case_takes_one_branch_of_each_conditional() -> None:
    branches = "".join(
        f"%b{n} (p: f32[{n},1024]) -> f32[{n},1024] {{\n  %p{n} = f32[{n},1024]{{1,0}} parameter(0)\n"
        f"  ROOT %c{n} = f32[{n},1024]{{1,0}} copy(%p{n})\n}}\n\n"
        for n in (100, 200, 300)
    )
    estimate = summarize(
        program(
            "%i = s32[] parameter(0)",
            "%x = f32[300,1024]{1,0} parameter(1)",
            "ROOT %k = f32[300,1024]{1,0} conditional(%i, %x, %x, %x), branch_computations={%b100, %b200, %b300}",
            before=branches,
        ),
        V5E,
        name="m",
        tpu="v5e:2x2",
    )
    assert estimate.seconds == pytest.approx(2 * 100 * 4096 / V5E.hbm)
    assert estimate.worst_seconds == pytest.approx(2 * 300 * 4096 / V5E.hbm)


def test_a_sort_costs_its_stages_over_padded_vector_registers() -> None:
    text = "%p = f32[1,1000]{1,0:T(8,128)S(1)} parameter(0)", "ROOT %s = f32[1,1000]{1,0:S(1)} sort(%p), dimensions={1}"
    (one,) = price(program(*text), V5E)
    (eight,) = price(program(*(line.replace("[1,", "[8,") for line in text)), V5E)
    assert one.kind == "sort"
    assert one.seconds == eight.seconds == pytest.approx(3 * 10 * 11 / 2 * 8 / V5E.clock)
    (sixteen,) = price(program(*(line.replace("[1,", "[16,") for line in text)), V5E)
    assert sixteen.seconds == pytest.approx(2 * one.seconds)


def test_an_exact_top_k_takes_out_one_maximum_after_the_other() -> None:
    (cost,) = price(
        program(
            "%z = f32[8,8192]{1,0:T(8,128)S(1)} parameter(0)",
            'ROOT %k = (f32[8,64]{1,0:S(1)}, s32[8,64]{1,0:S(1)}) custom-call(%z), custom_call_target="TopK"',
        ),
        V5E,
    )
    assert cost.kind == "top-k"
    assert cost.seconds == pytest.approx(64 * (330 + 4.9 * 64) / V5E.clock)


def test_a_weight_copied_only_to_gather_from_it_is_named() -> None:
    copy = (
        "%p = bf16[2048,2048]{1,0} parameter(0)",
        "%start = (bf16[2048,2048]{1,0:S(1)}, bf16[2048,2048]{1,0}, u32[]{:S(2)}) copy-start(%p)",
        "%done = bf16[2048,2048]{1,0:S(1)} copy-done(%start)",
    )
    gathered = (*copy, "%i = s32[8]{0:S(1)} parameter(1)", "ROOT %g = bf16[8,2048]{1,0:S(1)} gather(%done, %i)")
    estimate = summarize(program(*gathered), V5E, name="m", tpu="v5e:2x2")
    assert [op.name for op in estimate.copies] == ["start"]
    assert estimate.hbm_bytes == 2048 * 2048 * 2 > LARGE
    assert "large copy: start" in str(estimate)
    # Read as a whole, it was going to be read from HBM anyway.
    used = (*copy, "ROOT %d = bf16[2048,2048]{1,0:S(1)} add(%done, %done)")
    assert not summarize(program(*used), V5E, name="m", tpu="v5e:2x2").copies
    assert not summarize(stored("scan"), V5E, name="scan", tpu="v5e:2x2").copies


def test_an_update_in_place_writes_the_update_only() -> None:
    read = program(
        "%p = f32[1000,64]{1,0} parameter(0)",
        "%u = f32[1,64]{1,0} parameter(1)",
        "%i = s32[] constant(3)",
        "ROOT %d = f32[1000,64]{1,0} fusion(%p, %u, %i), kind=kLoop, calls=%body",
        before="%body (a: f32[1000,64], b: f32[1,64], c: s32[]) -> f32[1000,64] {\n"
        "  %a = f32[1000,64]{1,0} parameter(0)\n  %b = f32[1,64]{1,0} parameter(1)\n  %c = s32[] parameter(2)\n"
        "  ROOT %w = f32[1000,64]{1,0} dynamic-update-slice(%a, %b, %c, %c)\n}\n",
    )
    (cost,) = price(read, V5E)
    assert cost.hbm_bytes == 2 * 64 * 4


def test_an_estimate_prints_and_dumps() -> None:
    estimate = summarize(stored("sharded"), V5E, name="head", tpu="v5e:2x2", devices=4, compiler="libtpu")
    assert "an estimate by the TPU compiler" in str(estimate)
    assert "over the links" in str(estimate)
    loaded = json.loads(estimate.to_json())
    assert loaded["collectives"] == {"all-gather": 98304 * 3 // 4}
    assert loaded["seconds"] == estimate.seconds
    both = hire.Estimates(dense=estimate, rewritten=estimate)
    assert both.speedup == 1.0
    assert "an estimate by the TPU compiler" in str(both)
    assert json.loads(both.to_json())["speedup"] == 1.0


# --------------------------------------------------------------------------- bad input


def test_an_unknown_topology_is_refused() -> None:
    with pytest.raises(hire.EstimateError, match="tpu 'v9z:2x2' is not known: use one of v5e:2x2"):
        hire.estimate(b"", tpu="v9z:2x2")


def test_without_the_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name))
    with pytest.raises(hire.EstimateError, match=r"pip install 'hire-compiler\[tpu\]'"):
        hire.estimate(jax.jit(lambda x: x + 1), jnp.zeros(8))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            1,
            "jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory",
            "refused the program: .*Ran out of memory",
        ),
        (-6, "Check failed: x", "ended with signal 6; Check failed: x"),
        (0, "", "refused the program: exit code 0"),
    ],
)
def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, code: int, error: str, message: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def run(*_args: Any, **_kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(hire.EstimateError, match=message):
        hire.estimate(b"no program")


def test_a_compiler_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def run(*_args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("x", kwargs["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(hire.EstimateError, match="did not finish within 3 s"):
        hire.estimate(b"no program", timeout=3)


def test_only_a_transformed_function_is_compared() -> None:
    with pytest.raises(hire.EstimateError, match=r"takes what hire\.transform returned"):
        estimate_both(jax.jit(lambda x: x), jnp.zeros(3))  # type: ignore[arg-type]


def artifact(folder: Path) -> tuple[Path, Path]:
    """A small greedy head as a file, and its artifact."""
    shapes = jax.ShapeDtypeStruct((1 << 18, 256), jnp.float32), jax.ShapeDtypeStruct((1, 256), jnp.float32)
    head = jax.jit(lambda w, x: jnp.argmax(jnp.dot(x, w.T, precision="highest"), axis=-1))
    model, rewritten = folder / "head.jax_export", folder / "head.hire"
    model.write_bytes(bytes(jax.export.export(head)(*shapes).serialize()))
    assert main(["rewrite", str(model), "-o", str(rewritten), "--platform", "tpu"]) == 0
    return model, rewritten


def test_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rewritten = artifact(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name))
    assert main(["estimate", str(rewritten)]) == 2
    assert "pip install 'hire-compiler[tpu]'" in capsys.readouterr().err
    assert main(["estimate", str(rewritten), "--tpu", "v9z:2x2"]) == 2
    assert "use one of v5e:2x2" in capsys.readouterr().err


# --------------------------------------------------------------------------- the compiler itself


@needs_compiler
@pytest.mark.slow
def test_a_program_is_compiled_and_read() -> None:
    x, w = jax.ShapeDtypeStruct((8, 1024), jnp.bfloat16), jax.ShapeDtypeStruct((1024, 4096), jnp.bfloat16)
    estimate = hire.estimate(jax.jit(lambda x, w: x @ w), x, w)
    assert estimate.devices == 1
    assert estimate.compiler.startswith("libtpu")
    assert estimate.hbm_bytes >= 1024 * 4096 * 2
    assert estimate.cycles > 0
    assert estimate.argument_bytes >= 1024 * 4096 * 2


@needs_compiler
@pytest.mark.slow
def test_the_command_compares_an_artifact_with_its_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rewritten = artifact(tmp_path)
    capsys.readouterr()
    assert main(["estimate", str(rewritten), "--original", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rewritten"]["hbm_bytes"] < 0.5 * found["dense"]["hbm_bytes"]
    assert found["rewritten"]["worst_seconds"] > found["rewritten"]["seconds"]  # a certificate may fail
    assert main(["estimate", str(rewritten)]) == 0
    assert "an estimate by the TPU compiler" in capsys.readouterr().out


@needs_compiler
@pytest.mark.slow
def test_what_the_compiler_says_of_a_bad_program_is_quoted() -> None:
    with pytest.raises(hire.EstimateError, match="refused the program"):
        hire.estimate(b"this is no export")
    huge = jax.ShapeDtypeStruct((1 << 20, 1 << 16), jnp.bfloat16)
    with pytest.raises(hire.EstimateError, match="memory"):
        hire.estimate(jax.jit(lambda x: x + 1), huge)


@needs_compiler
@pytest.mark.slow
def test_a_donated_buffer_is_not_copied() -> None:
    cache = jax.ShapeDtypeStruct((4096, 1024), jnp.float32)

    def write(cache: jax.Array, row: jax.Array) -> jax.Array:
        return cache.at[3].set(row)

    row = jax.ShapeDtypeStruct((1024,), jnp.float32)
    kept = hire.estimate(jax.jit(write), cache, row)
    given = hire.estimate(jax.jit(write, donate_argnums=0), cache, row)
    assert given.hbm_bytes < 1e5 < 4096 * 1024 * 4 <= kept.hbm_bytes
