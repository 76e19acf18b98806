"""Compile a serialized ``jax.export`` for a TPU topology, with no TPU present: the child process of ``estimate``.

python -P compile_for_tpu.py PROGRAM TOPOLOGY RESULT

A process of its own, because the TPU compiler reads the environment once, holds on to what it finds there, and ends
its process when it meets something it did not expect. It knows nothing of the rest of the package.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import jax.export
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding


def main(program: str, topology: str, result: str) -> None:
    """Compile, and write the compiled text and its memory figures as JSON."""
    exported = jax.export.deserialize(bytearray(Path(program).read_bytes()))
    if "tpu" not in exported.platforms:
        exported = dataclasses.replace(exported, platforms=("tpu",))
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    if exported.nr_devices > len(devices):
        sys.exit(f"the program is for {exported.nr_devices} devices, the topology {topology} has {len(devices)}")
    chosen = np.asarray(devices[: exported.nr_devices])
    single = SingleDeviceSharding(chosen[0])
    given = (
        exported.in_shardings_jax(mesh_of(exported, chosen)) if len(chosen) > 1 else [single] * len(exported.in_avals)
    )
    leaves = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding or single)
        for aval, sharding in zip(exported.in_avals, given, strict=True)
    ]

    def flat(*values: jax.Array) -> object:
        args, kwargs = jax.tree.unflatten(exported.in_tree, values)
        return exported.call(*args, **kwargs)

    flat.__name__ = exported.fun_name
    compiled = jax.jit(flat, donate_argnums=donated(exported), keep_unused=True).lower(*leaves).compile()
    memory = compiled.memory_analysis()
    found = {
        "text": compiled.as_text(),
        "devices": len(chosen),
        "compiler": f"libtpu {version('libtpu')}",
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }
    Path(result).write_text(json.dumps(found))


def mesh_of(exported: jax.export.Exported, devices: np.ndarray) -> Mesh:
    """The devices as the mesh that the program names, or in one row."""
    named = re.search(r"sdy\.mesh @\w+ = <\[([^\]]+)\]", exported.mlir_module())
    axes = re.findall(r'"([^"]+)"=(\d+)', named.group(1)) if named else [("devices", len(devices))]
    return Mesh(devices.reshape([int(size) for _, size in axes]), [name for name, _ in axes])


def donated(exported: jax.export.Exported) -> list[int]:
    """The arguments whose buffers the author gave away; ``Exported.call`` alone forgets them."""
    head = re.search(r"func\.func public @main\((.*?)\) ->", exported.mlir_module(), re.DOTALL)
    arguments = re.split(r"%arg\d+: ", head.group(1))[1:] if head else []
    given = [i for i, text in enumerate(arguments) if "jax.buffer_donor" in text or "tf.aliasing_output" in text]
    kept = exported.module_kept_var_idx
    return [kept[i] for i in given if i < len(kept)]


if __name__ == "__main__":
    main(*sys.argv[1:])
