"""A few programs of the fuzzer with fixed seeds, so that the suite notices when it breaks or finds something.

The long run is ``python -m tests.fuzz``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.fuzz import check_blocks, check_heads, reproduce
from tests.fuzz.blocks import Block
from tests.fuzz.heads import Head
from tests.fuzz.oracle import answer

HEAD = Head(
    rule="true", dtype="float32", layout="vd", form="matmul", before="", after=(), readers=("argmax", "max"), k=1,
    loop="", batch=4, rows=1024, d=33, candidates=64, weight_kinds=("gaussian", "spikes", "norm_ratios"),
    plain_share=0.5, seed=3,
)  # fmt: skip
HEADS = {
    "float32, bias and softcap": dataclasses.replace(HEAD, after=(("bias", 1.0), ("softcap", 30.0))),
    "bfloat16, [d, V], top-k": dataclasses.replace(HEAD, dtype="bfloat16", layout="dv", readers=("top_k",), k=8),
    "float16, widened, in a scan": dataclasses.replace(HEAD, dtype="float16", loop="scan", after=(("widen", 1.0),)),
}
BLOCK = Block(
    rule="exact_budget", gated=False, activation="relu", c=0.5, dtype="float32", layout="in_out", bias=-1.0,
    down_bias=True, batch=2, d=33, width=512, layers=0, group=1, weight_kinds=("gaussian", "integers"),
    plain_share=0.8, seed=4,
)  # fmt: skip
BLOCKS = {
    "float32": BLOCK,
    "bfloat16, gated": dataclasses.replace(BLOCK, dtype="bfloat16", gated=True),
    "certified": dataclasses.replace(BLOCK, rule="certified", batch=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_a_head_answers_as_promised(name: str) -> None:
    outcome = check_heads.run(HEADS[name], rows=96)
    assert [fault.what for fault in outcome.faults] == []
    assert outcome.status == "rewritten"
    assert outcome.rows >= 96
    assert outcome.hard > outcome.rows / 4


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_equals_dense(name: str) -> None:
    outcome = check_blocks.run(BLOCKS[name], rows=48)
    assert [fault.what for fault in outcome.faults] == []
    assert outcome.status == "rewritten"
    assert outcome.rows >= 48


# ------------------------------------------------------------------------------- the checks themselves can fail


def one_call(program: Head) -> tuple[dict[str, np.ndarray], np.ndarray, list[np.ndarray]]:
    _, p, x, _, _ = next(check_heads.calls(program, 4))
    dense, _ = check_heads.build(program)
    return p, x, [np.asarray(a) for a in dense({"w": jnp.asarray(p["w"])}, jnp.asarray(x), {})]


def test_a_wrong_index_is_a_fault_and_a_near_one_only_where_order_was_promised() -> None:
    program = dataclasses.replace(HEAD, weight_kinds=("ties",), plain_share=1.0)
    p, x, right = one_call(program)
    assert check_heads.compare(program, "true", p, x, {}, right, right)[0] == ""
    order = np.argsort(-answer(program, p, x, {}).compared, axis=1, kind="stable")
    tied = [order[:, 1].astype(right[0].dtype), right[1]]  # another row with the same numbers
    far = [order[:, -1].astype(right[0].dtype), right[1]]
    assert check_heads.compare(program, "true", p, x, {}, tied, right)[0] == ""
    assert "4 of 4 indices differ" in check_heads.compare(program, "strict", p, x, {}, tied, right)[0]
    assert "4 of 4 rows are no valid answer" in check_heads.compare(program, "true", p, x, {}, far, right)[0]
    larger = [right[0], right[1] * 1.001]
    assert "values differ" in check_heads.compare(program, "true", p, x, {}, larger, right)[0]


def test_a_lost_neuron_and_a_hidden_nan_are_faults() -> None:
    rng = np.random.default_rng(0)
    p = BLOCK.weights("gaussian", rng)
    x, _, _ = dataclasses.replace(BLOCK, plain_share=1.0).call(rng, p)
    dense, _ = check_blocks.build(BLOCK)
    right = np.asarray(dense({name: jnp.asarray(a) for name, a in p.items()}, jnp.asarray(x), {})[0])
    z = np.maximum(x @ p["gate"] + p["b"], 0)
    z[:, np.argmax(z.sum(0))] = 0
    lost = (z @ p["down"] + p["db"]).astype(np.float32)
    assert check_blocks.compare(BLOCK, p, x, right, right) == ""
    assert "differs from dense" in check_blocks.compare(BLOCK, p, x, lost, right)
    assert "hidden" in check_blocks.compare(BLOCK, p, x, right, np.full_like(right, np.nan))


def test_a_fault_is_written_as_a_file_that_fails_while_it_is_there(tmp_path: Path) -> None:
    program = dataclasses.replace(HEAD, dtype="bfloat16", batch=1, rows=128)
    _, p, x, q, _ = next(check_heads.calls(program, 1))
    fault = check_heads.Fault("strict, and 1 of 1 indices differ", program, p, x, q, "weights gaussian")
    path = reproduce.write(fault, tmp_path / "fault.py")
    text = path.read_text()
    assert program.source() in text
    undisturbed = text.replace("hire.transform(dense, ", "(lambda f, _: f)(dense, ").replace(
        "print(rewritten.report())", ""
    )
    namespace: dict[str, object] = {"__file__": str(path)}
    exec(compile(undisturbed, str(path), "exec"), namespace)
    np.testing.assert_array_equal(np.asarray(namespace["x"]), x)
    np.testing.assert_array_equal(np.asarray(namespace["p"]["w"]), p["w"])
    assert namespace["failed"] is False
