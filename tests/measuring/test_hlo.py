"""Reading compiled programs: three of XLA:TPU's (tests/hlo, libtpu 0.0.52, v5e:2x2), and what XLA:CPU prints here."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hire_compiler.errors import HireError
from hire_compiler.measuring.hlo.text import Array, HloProgram, read_hlo

STORED = Path(__file__).parents[1] / "hlo"


def stored(name: str) -> HloProgram:
    return read_hlo((STORED / f"{name}.hlo").read_text())


def test_arrays_have_layout_memory_space_and_bytes() -> None:
    program = stored("scan")
    gather = next(i for i, _ in program.walk() if i.name == "gather_fusion")
    assert gather.results == (Array("bf16", (16, 8, 256), (2, 1, 0), space=1),)
    assert gather.nbytes == 16 * 8 * 256 * 2
    assert Array("s4", (3, 5)).nbytes == 8  # packed, rounded up
    assert Array("pred", (3,)).nbytes == 3


def test_a_loop_runs_as_often_as_its_condition_says() -> None:
    program = stored("scan")
    (loop,) = [i for i, _ in program.walk() if i.op == "while"]
    assert program.trip_count(loop) == 3
    repeats = {i.name: repeat for i, repeat in program.walk()}
    assert repeats["gather_fusion"] == 3
    assert repeats["while"] == 1


def test_the_compilers_cycles_are_read() -> None:
    program = stored("scan")
    cycles = {i.name: i.estimated_cycles for i, _ in program.walk()}
    assert cycles["fusion.25"] == 2366
    assert cycles["gather_fusion"] is None


def test_operands_and_called_computations() -> None:
    program = stored("cond")
    conditional = next(i for i, _ in program.walk() if i.op == "conditional")
    assert conditional.operands == ("convert_element_type.5", "cond.2", "tuple.2")
    assert conditional.called == ("region_1.3", "region_3.4")
    assert [p.name for p in program.main.parameters] == ["w.1", "x.1"]
    assert [u.op for u in program.main.users("convert_element_type.5")] == ["conditional"]


def test_what_xla_prints_here_is_read() -> None:
    def step(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(w @ x), x), jnp.argsort(x)

    compiled = jax.jit(step).lower(jnp.zeros((64, 64)), jnp.zeros((64,))).compile()
    program = read_hlo(compiled.as_text())
    assert [p.results[0].shape for p in program.main.parameters] == [(64, 64), (64,)]
    (loop,) = [i for i, _ in program.walk() if i.op == "while"]
    assert program.trip_count(loop) == 7
    assert any(i.op == "sort" for i, _ in program.walk())
    assert any("jit(step)" in i.path for i, _ in program.walk())


def test_text_that_is_no_program_is_refused() -> None:
    with pytest.raises(HireError, match="no ENTRY"):
        read_hlo("module @jit_f {}")
    with pytest.raises(HireError, match="cannot read this line"):
        read_hlo("HloModule m\n\nENTRY %main () -> f32[] {\n  what is this\n}\n")
