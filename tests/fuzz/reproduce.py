"""Make a fault small, and write it down as a file that runs by itself."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz.check_heads import Fault, Outcome

Array = np.ndarray
LARGEST = 400_000  # bytes of arrays that are written into the file itself

HEADER = '''"""{title}

Found by `python -m tests.fuzz`: {describe}
Values: {kinds}. Exits with 1 while the fault is there.
"""

import base64
import io
import os
import sys

{environment}import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import hire_compiler as hire

'''

MAIN = """
KINDS = {kinds!r}


def read(data, prefix):
    return {{
        name[len(prefix):]: array.view(KINDS[name]).reshape(array.shape) if KINDS[name] != str(array.dtype) else array
        for name, array in data.items()
        if name.startswith(prefix)
    }}


data = np.load({source})
{place}p = {{name: place(name, array) for name, array in read(data, "p_").items()}}
q = {{name: jnp.asarray(array) for name, array in read(data, "q_").items()}}
x = place("x", read(data, "x_")["x"])
dense = jax.jit(step)
rewritten = hire.transform(dense, {config})
wanted = [np.asarray(a) for a in jax.tree.leaves(dense(p, x, q))]
got = [np.asarray(a) for a in jax.tree.leaves(rewritten(p, x, q))]
print(rewritten.report())
failed = False
for i, (a, b) in enumerate(zip(got, wanted)):
    differ = (a != b) & ~((a != a) & (b != b))
    print(f"result {{i}}: {{differ.sum()}} of {{a.size}} differ")
    if differ.any():
        print("  rewritten", a[differ][:8], "dense", b[differ][:8])
    failed |= bool({judge})
if failed:
    print({what!r})
    sys.exit(1)
"""

PLACE_ONE = "place = lambda name, array: jnp.asarray(array)\n"


def minimise(fault: Fault, run: Callable[..., Outcome], rows: int, seconds: float) -> Fault:
    """Try simpler programs with the same kinds of numbers, as long as time lasts."""
    end = time.monotonic() + seconds
    kind = fault.what.split(",")[0].split(":")[0]
    smaller = True
    while smaller and time.monotonic() < end:
        smaller = False
        for program in fault.program.simpler():
            if time.monotonic() > end:
                break
            found = [f for f in run(program, rows, stop_after=1).faults if f.what.split(",")[0].split(":")[0] == kind]
            if found:
                fault, smaller = found[0], True
                break
    return fault


def write(fault: Fault, path: Path, *, environment: str = "", place: str = PLACE_ONE) -> Path:
    """Write the reproducer, and its arrays beside it where they are large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {**{f"p_{k}": v for k, v in fault.p.items()}, "x_x": fault.x, **{f"q_{k}": v for k, v in fault.q.items()}}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    kinds = {name: str(array.dtype) for name, array in arrays.items()}
    stored = {
        name: array.view(np.uint16) if array.dtype.name == "bfloat16" else array for name, array in arrays.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)
    if buffer.tell() <= LARGEST:
        text = base64.b85encode(buffer.getvalue()).decode()
        lines = "\n".join(f"    {text[i : i + 110]!r}" for i in range(0, len(text), 110))
        source, data = "io.BytesIO(base64.b85decode(DATA))", f"\nDATA = (\n{lines}\n)\n"
    else:
        path.with_suffix(".npz").write_bytes(buffer.getvalue())
        source, data = 'os.path.splitext(__file__)[0] + ".npz"', ""
    exact = fault.what.startswith("strict")
    judge = "differ.any() and a.dtype.kind in 'iu'" if exact else "differ.any()"
    head = HEADER.format(
        title=fault.what.replace('"', "'").capitalize() + ".", describe=fault.program.describe(), kinds=fault.kinds,
        environment=environment,
    )  # fmt: skip
    body = MAIN.format(
        kinds=kinds, source=source, config=fault.program.config_source(), what=f"FAULT: {fault.what}", place=place,
        judge=judge,
    )  # fmt: skip
    path.write_text(head + fault.program.source() + data + body)
    return path
