"""Decode on several processes that share one model: ``jax.distributed``, on one machine or on a TPU pod.

    python -m examples.multiprocess                      # 4 processes, vocabulary and neurons split over all of them
    python -m examples.multiprocess --mesh 2x2           # batch on one axis of the mesh, model on the other
    python -m examples.multiprocess --lose 2             # process 2 dies while decoding: what happens then
    python -m examples.multiprocess --planned 2x2        # weights prepared for another mesh than the one that decodes

This file is the launcher, too. It starts the processes and watches them: one that ends early, or stays silent, ends
them all, with a sentence and a non-zero exit; a device that waits for a lost one would wait forever.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SILENCE = 40.0  # seconds without a new line from a process that is still running
D, WIDTH, VOCABULARY, LAYERS, BATCH = 256, 2048, 16384, 2, 4


def main() -> None:
    """Launch, or be launched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--mesh", default="", help="processes by batch and model: 1x4 (default), 2x2 …")
    parser.add_argument("--planned", default="", help="prepare the weights on this mesh instead")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--lose", type=int, default=-1, metavar="PROCESS", help="kill this process at its second token")
    parser.add_argument("--silence", type=float, default=SILENCE, help="seconds after which a silent process is lost")
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.mesh = options.mesh or f"1x{options.processes}"
    if options.worker >= 0:
        sys.exit(work(options))
    sys.exit(launch(options))


# --------------------------------------------------------------------------- the launcher


def launch(options: argparse.Namespace) -> int:
    """Start the processes and watch them; the exit status."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="hire-processes-") as folder:
        logs = [Path(folder, f"{i}.log") for i in range(options.processes)]
        processes = []
        for i, log in enumerate(logs):
            command = [sys.executable, "-m", "examples.multiprocess", "--worker", str(i), "--coordinator", coordinator]
            command += ["--processes", str(options.processes), "--mesh", options.mesh, "--planned", options.planned]
            command += ["--tokens", str(options.tokens), "--lose", str(options.lose)]
            with log.open("w") as out:
                processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment))
        try:
            trouble = watch(processes, logs, options.silence)
        finally:
            stop(processes)
        if trouble:
            print(f"multiprocess: {trouble}", file=sys.stderr)
            return 1
        print(logs[0].read_text(), end="")
    return 0


def watch(processes: list[subprocess.Popen[bytes]], logs: list[Path], silence: float) -> str:
    """Wait until all have ended well (''), or say what happened to the first that did not."""
    heard = [(0, time.monotonic()) for _ in processes]
    while True:
        states = [process.poll() for process in processes]
        for i, state in enumerate(states):
            if state:
                how = f"was ended by signal {-state}" if state < 0 else f"ended with status {state}"
                last = last_line(logs[i])
                return f"process {i} of {len(processes)} {how}, so the others were stopped; its last words: {last}"
        if all(state == 0 for state in states):
            return ""
        for i, log in enumerate(logs):
            size = log.stat().st_size
            if size != heard[i][0] or states[i] is not None:
                heard[i] = (size, time.monotonic())
            elif time.monotonic() - heard[i][1] > silence:
                return f"process {i} of {len(processes)} said nothing for {silence:.0f} s, so all were stopped"
        time.sleep(0.1)


def last_line(log: Path) -> str:
    """The last line of a process that says something itself, rather than where it was."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("worker: ")]
    return (own or lines or ["nothing"])[-1]


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


# --------------------------------------------------------------------------- one process


def work(options: argparse.Namespace) -> int:
    """Decode, dense and rewritten; the exit status."""
    import jax

    import hire_compiler as hire

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        options.coordinator, num_processes=options.processes, process_id=options.worker, initialization_timeout=30
    )
    print(f"worker: {jax.process_count()} processes, {jax.device_count()} devices", flush=True)
    try:
        return decode(options)
    except hire.HireError as error:
        print(f"worker: {error}", flush=True)
        os._exit(3)  # the others may be waiting in a collective: no goodbye to them
    return 1


def decode(options: argparse.Namespace) -> int:
    """Decode the same tokens twice."""
    import jax
    import numpy as np

    import hire_compiler as hire

    rules = (
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict"),
        hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.75, group=1),
    )
    dense, step = jax.jit(one_token), hire.transform(jax.jit(one_token), hire.Config(rules=rules))
    params, state, tokens = placed(options.mesh)
    prepared = None
    if options.planned:
        prepared = step.prepare(*placed(options.planned))
    runs: list[list[Any]] = []
    for name, function in (("dense", dense), ("rewritten", step)):
        extra = {"prepared": prepared} if prepared is not None and function is step else {}
        now, memory, found = tokens, state, []
        for position in range(options.tokens):
            if position == 1 and options.lose == options.worker:
                os.kill(os.getpid(), signal.SIGKILL)
            now, memory = function(params, memory, now, **extra)
            found.append(np.asarray(now.addressable_shards[0].data))
            print(f"worker: {name} token {position + 1} of {options.tokens}", flush=True)
        runs.append(found)
    if options.worker == 0:
        print(step.report())
    equal = all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    print(f"tokens of process 0, first batch row: {[int(t.reshape(-1)[0]) for t in runs[1]]}")
    print(f"tokens equal to dense on process {options.worker}: {equal}", flush=True)
    jax.distributed.shutdown()
    return 0 if equal else 1


def one_token(params: dict[str, Any], state: Any, tokens: Any) -> tuple[Any, Any]:
    """A small recurrent decoder: feed-forward blocks on a decaying sum of what was read, and a tied head."""
    import jax
    import jax.numpy as jnp

    state = 0.7 * state + jnp.take(params["embed"], tokens, axis=0)
    x = state
    for up, bias, down in zip(params["up"], params["bias"], params["down"], strict=True):
        x = x + jax.nn.relu(x @ up + bias) @ down
    x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    logits = x @ params["embed"].T
    return jax.lax.top_k(logits, 2)[1][:, 1], state  # the second best, as the best repeats what was read


def placed(mesh_name: str) -> tuple[dict[str, Any], Any, Any]:
    """Random parameters, state and first tokens on a mesh of all processes; the same on each."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import hire_compiler as hire

    sizes = tuple(int(n) for n in mesh_name.split("x"))
    if len(sizes) != 2 or int(np.prod(sizes)) != jax.device_count():
        raise hire.HireError(f"the mesh {mesh_name} has {np.prod(sizes)} devices, and there are {jax.device_count()}")
    mesh = Mesh(np.array(jax.devices()).reshape(sizes), ("batch", "model"))
    rng = np.random.default_rng(0)

    def place(array: np.ndarray, *spec: str | None) -> jax.Array:
        wide = array.astype(np.float32 if array.dtype == np.float64 else array.dtype)
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(wide.shape, sharding, lambda index: wide[index])

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) / np.sqrt(shape[-1])

    params = {
        "embed": place(normal(VOCABULARY, D), "model", None),
        "up": [place(normal(WIDTH, D).T, None, "model") for _ in range(LAYERS)],
        "bias": [place(np.full(WIDTH, -0.1), "model") for _ in range(LAYERS)],
        "down": [place(normal(WIDTH, D), "model", None) for _ in range(LAYERS)],
    }
    state = place(np.zeros((BATCH, D)), "batch", None)
    return params, state, place(rng.integers(VOCABULARY, size=BATCH).astype(np.int32), "batch")


if __name__ == "__main__":
    main()
