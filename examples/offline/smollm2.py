"""SmolLM2-135M with its real weights: exported, rewritten without its code, and run by a process with only jax.

python -m examples.offline.smollm2 [--folder DIR] [--tokens 64] [--python PYTHON] [PROMPT]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from safetensors.flax import save_file

import hire_compiler as hire
from examples.models import MissingWheelError, Model, load_model
from examples.models.generate import generate

LENGTH = 256


def export_model(model: Model, folder: Path) -> None:
    """What a model's owner would ship: the exported step and a file of weights."""
    cache = model.init_cache(1, LENGTH)
    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (model.params, cache))
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def step(params: Any, tokens: jax.Array, cache: Any) -> Any:
        return model.greedy_step(params, tokens, cache)

    exported = jax.export.export(jax.jit(step, donate_argnums=2))(types[0], tokens, types[1])
    (folder / "smollm2.jax_export").write_bytes(exported.serialize())
    leaves = jax.tree_util.tree_flatten_with_path(model.params)[0]
    named = {".".join(str(getattr(k, "key", getattr(k, "idx", ""))) for k in path): leaf for path, leaf in leaves}
    save_file(named, folder / "smollm2.safetensors")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="The lighthouse keeper opened the door and saw")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with jax and safetensors")
    options = parser.parse_args(arguments)
    try:
        model = load_model("smollm2-135m")
    except MissingWheelError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        export_model(model, folder)

        # From here on the model's code is not needed: two files in, a directory out.
        artifact = hire.rewrite(
            folder / "smollm2.jax_export", weights=folder / "smollm2.safetensors", platforms=("cpu",)
        )
        saved = artifact.save(folder / "smollm2.artifact", overwrite=True)

        ids = model.tokenizer.encode(options.prompt, add_bos=True)
        command = [options.python, str(Path(__file__).with_name("run.py")), str(saved), str(options.tokens)]
        done = subprocess.run([*command, *map(str, ids)], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
    dense = generate(model, ids, options.tokens, cache_length=LENGTH)
    print(f"{options.prompt}{model.tokenizer.decode(found['tokens'])}\n")
    equal = sum(a == b for a, b in zip(dense.tokens, found["tokens"], strict=False))
    print(f"{equal} of {len(dense.tokens)} tokens equal dense decoding")
    print(f"{found['milliseconds']:.1f} ms a token from the artifact, {dense.median_milliseconds():.1f} ms dense")


if __name__ == "__main__":
    main()
