"""What a CPU user would run instead: the same head in torch and onnxruntime, the whole step in llama.cpp.

They are optional (``pip install "hire-compiler[rivals]"``); what is not
installed is left out, with a line that says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

Run = Callable[[jax.Array], Any]


def _installed(*names: str) -> bool:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        print(f"{names[0]} is left out: {', '.join(missing)} not installed (pip install 'hire-compiler[rivals]')")
    return not missing


def rival_heads(embed: jax.Array) -> dict[str, tuple[Run, int]]:
    """Greedy heads of other engines, and the bytes of weights that each reads a call.

    Args:
      embed: ``[n, d]``.
    """
    rows = np.asarray(embed.astype(np.float32))
    found: dict[str, tuple[Run, int]] = {}
    if _installed("torch"):
        found |= dict(_torch(rows))
    if _installed("onnxruntime", "onnx"):
        found |= dict(_onnxruntime(rows))
    return found


def _wide(x: jax.Array) -> np.ndarray:
    return np.array(x.astype(np.float32))


def _torch(rows: np.ndarray) -> Iterator[tuple[str, tuple[Run, int]]]:
    import torch

    linear = torch.nn.Linear(rows.shape[1], len(rows), bias=False)
    linear.weight = torch.nn.Parameter(torch.from_numpy(rows.copy()), requires_grad=False)

    def run_of(layer: Any, dtype: Any) -> Run:
        def run(x: jax.Array) -> np.ndarray:
            with torch.inference_mode():
                return layer(torch.from_numpy(_wide(x)).to(dtype)).argmax(-1).numpy()

        return run

    yield "torch, float32", (run_of(linear, torch.float32), rows.nbytes)
    narrow = torch.nn.Linear(rows.shape[1], len(rows), bias=False, dtype=torch.bfloat16)
    narrow.weight = torch.nn.Parameter(linear.weight.to(torch.bfloat16), requires_grad=False)
    yield "torch, bfloat16", (run_of(narrow, torch.bfloat16), rows.nbytes // 2)
    quantize = torch.ao.quantization.quantize_dynamic
    small = quantize(torch.nn.Sequential(linear), {torch.nn.Linear}, dtype=torch.qint8)
    yield "torch, int8 (dynamic)", (run_of(small, torch.float32), rows.nbytes // 4)


def _onnxruntime(rows: np.ndarray) -> Iterator[tuple[str, tuple[Run, int]]]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def session(nodes: list[Any], **constants: np.ndarray) -> Run:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, rows.shape[1]])
        wanted = helper.make_tensor_value_info("token", TensorProto.INT64, [None])
        nodes = [*nodes, helper.make_node("ArgMax", ["logits"], ["token"], axis=1, keepdims=0)]
        held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "head", [given], [wanted], held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda x: running.run(None, {"x": _wide(x)})[0]

    product = helper.make_node("MatMul", ["x", "w"], ["logits"])
    yield "onnxruntime, float32", (session([product], w=np.ascontiguousarray(rows.T)), rows.nbytes)
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-30) / 127
    q = np.rint(rows / scale[:, None]).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "q", "xz", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "xs"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "ws"], ["logits"]),
    ]
    constants = {"q": np.ascontiguousarray(q.T), "zero": np.zeros((), np.int8), "ws": scale.astype(np.float32)}
    yield "onnxruntime, int8 (dynamic)", (session(nodes, **constants), rows.nbytes // 4)


def llama_step_ms(path: Path, prompt: list[int], steps: int = 40) -> float | None:
    """Median milliseconds of a greedy token in llama.cpp, from its own weights; None where it is not installed."""
    if not _installed("llama_cpp"):
        return None
    from llama_cpp import Llama

    threads = len(os.sched_getaffinity(0))
    llama = Llama(str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False)
    llama.eval(prompt)
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        token = llama.sample(temp=0.0)
        llama.eval([token])
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e3
