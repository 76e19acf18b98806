"""A PyTorch model (Hugging Face OPT, random weights) through torchax: exported, rewritten offline, run with only jax.

python -m examples.offline.torch_opt [--folder DIR] [--python PYTHON]      # extra "zoo", Python 3.11
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import hire_compiler as hire

WINDOW = 8
RUNNER = """
import sys, jax, jax.export
from safetensors.flax import load_file, save_file
step = jax.export.deserialize(bytearray(open(f"{sys.argv[1]}/step.cpu.jax_export", "rb").read()))
ids = load_file(sys.argv[2])["ids"]
save_file({"logits": step.call(load_file(f"{sys.argv[1]}/weights.cpu.safetensors"), ids)}, sys.argv[3])
"""


def import_torchax() -> Any:
    """Import torchax; it names overloads of named tensors, which newer PyTorch no longer has."""
    import torch._ops

    known = torch._ops.OpOverloadPacket.__getattr__

    def tolerant(self: Any, key: str) -> Any:
        try:
            return known(self, key)
        except AttributeError:
            if "ame" not in key:  # dim_Dimname, names_ScalarOpt_dim, …
                raise
            return str(self), key

    torch._ops.OpOverloadPacket.__getattr__ = tolerant
    try:
        import torchax
        import torchax.interop

        torchax.default_env()
    finally:
        torch._ops.OpOverloadPacket.__getattr__ = known
    return torchax


def export_model(folder: Path) -> None:
    """A forward pass over a window of tokens, and the model's state dict as safetensors."""
    os.environ.setdefault("USE_TF", "0")
    torchax = import_torchax()
    import torch
    import transformers

    torch.manual_seed(0)
    settings = transformers.OPTConfig(
        vocab_size=8192, hidden_size=128, word_embed_proj_dim=128, ffn_dim=512, num_attention_heads=4,
        num_hidden_layers=2, max_position_embeddings=64, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    module = transformers.OPTForCausalLM(settings).eval()
    environment = torchax.default_env()
    torchax.enable_globally()
    try:
        module = module.to("jax")
        params = {name: tensor.jax() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    finally:
        torchax.disable_globally()

    def forward(params: Any, ids: Any) -> Any:
        with environment:
            tensors, tokens = torchax.interop.torch_view(params), torchax.interop.torch_view(ids)
            out = torch.func.functional_call(module, tensors, (), {"input_ids": tokens})
            return torchax.interop.jax_view(out.logits)

    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    exported = jax.export.export(jax.jit(forward))(types, jax.ShapeDtypeStruct((1, WINDOW), jnp.int32))
    (folder / "opt.jax_export").write_bytes(exported.serialize())
    save_file({name: np.asarray(array) for name, array in params.items()}, folder / "opt.safetensors")


INT8 = hire.Quantized(bits=8)
CONFIGS = {
    "every row of blocks and head": hire.Config(
        rules=tuple(hire.Rule(kind=kind, predictor=INT8, density=1.0) for kind in ("ffn", "head"))
    ),
    "a tenth of the head, the blocks dense": hire.Config(rules=(hire.Rule(kind="head", predictor=INT8, density=0.1),)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with jax and safetensors")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        export_model(folder)
        model, weights = folder / "opt.jax_export", folder / "opt.safetensors"
        print(hire.inspect(model))
        for name, config in CONFIGS.items():
            artifact = hire.rewrite(model, config, weights=weights, platforms=("cpu",))
            saved = artifact.save(folder / "opt.artifact", overwrite=True)
            print(f"\n{name}:", flush=True)
            verify = ["verify", str(saved), "--original", str(model), "--weights", str(weights), "--trials", "2"]
            subprocess.run([sys.executable, "-m", "hire_compiler", *verify], check=False)
            ids = np.random.default_rng(0).integers(0, 8192, (1, WINDOW)).astype(np.int32)
            save_file({"ids": ids}, folder / "ids.safetensors")
            files = [str(saved), str(folder / "ids.safetensors"), str(folder / "logits.safetensors")]
            subprocess.run([options.python, "-c", RUNNER, *files], check=True)
            logits = load_file(folder / "logits.safetensors")["logits"]
            np.testing.assert_array_equal(logits, artifact(ids))
            print(f"the process with only jax agrees; next tokens {np.argmax(logits[0], axis=-1).tolist()}")


if __name__ == "__main__":
    main()
