"""Threads, forks and spawned processes that share or inherit a transformed function."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from typing import Any

import jax

import hire_compiler as hire
from benchmarks.soak.model import CONFIG, arguments, parameters, same, step


def two_threads(count: int) -> dict[str, Any]:
    """Two threads, one transformed function, each thread with weights of its own."""
    rewritten, dense = hire.transform(jax.jit(step), CONFIG), jax.jit(step)
    wrong, failed = [0, 0], list[str]()

    def work(which: int) -> None:
        params = parameters(which)
        try:
            for i in range(count):
                token, x = arguments(1000 * which + i)
                wrong[which] += not same(rewritten(params, token, x), dense(params, token, x))
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"calls": 2 * count, "wrong": sum(wrong), "failed": failed}


def spawned(count: int) -> dict[str, Any]:
    """Processes that start anew and make the step for themselves."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        right = pool.map(_one, range(count))
    return {"processes": 2, "calls": count, "wrong": count - sum(right)}


def _one(seed: int) -> bool:
    params, (token, x) = parameters(seed), arguments(seed)
    return same(hire.transform(jax.jit(step), CONFIG)(params, token, x), jax.jit(step)(params, token, x))


_FORK = """
import os, sys
import hire_compiler as hire  # before JAX has threads: what a server does that forks its workers
from benchmarks.soak.together import _one
children = []
for seed in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if _one(seed) else 1)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def forked() -> dict[str, Any]:
    """Workers forked after the import and before the first array, as servers do."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _FORK], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return {"processes": 2, "wrong": int(done.returncode != 0), "said": done.stderr[-300:] if done.returncode else ""}


def lost_process(times: int) -> dict[str, Any]:
    """Four processes decode as one and lose one of them: all have to end, with a sentence."""
    wrong = 0
    for i in range(times):
        command = [sys.executable, "-m", "examples.multiprocess", "--processes", "4", "--tokens", "4"]
        done = subprocess.run(
            [*command, "--lose", str(i % 4)], capture_output=True, text=True, timeout=300, check=False
        )
        wrong += done.returncode != 1 or f"process {i % 4} of 4 was ended by signal 9" not in done.stderr
    return {"runs": times, "wrong": wrong}
