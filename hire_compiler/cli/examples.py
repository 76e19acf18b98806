"""What each verb's ``--help`` shows last: commands to start from."""

from __future__ import annotations

EXAMPLES = {
    "inspect": (
        "model.jax_export",
        "model.mlir --json",
        "symbolic.jax_export --dim b=1",
    ),
    "calibrate": (
        "model.jax_export --weights model.safetensors --inputs text-*.npz -o learned.safetensors",
        "model.jax_export --weights model.safetensors --inputs text-*.npz --kind head -o head.safetensors",
    ),
    "rewrite": (
        "model.jax_export --weights model.safetensors -o model.hire          # one file",
        "model.jax_export --weights shards/ --rules rules.toml -o model          # a directory",
        "model.jax_export --weights model.npz --map \"params['embed']=wte\" -o model.hire",
        "model.jax_export --weights model.safetensors --sampler top_k -k 64 -o model.hire",
        "model.jax_export --parameters '^params' --platform tpu -o model.hire    # weights come later",
    ),
    "prepare": (
        "model.hire --weights model.safetensors",
        "model.hire --weights finetuned.safetensors --new-weights -o finetuned.hire",
    ),
    "upgrade": (
        "model.hire",
        "model.hire -o renewed.hire",
    ),
    "run": (
        "model.hire",
        "model.hire --inputs inputs.npz -o outputs.npz --repeat 20",
    ),
    "verify": (
        "model.hire --original model.jax_export --weights model.safetensors",
        "model.hire --original model.jax_export --weights model.safetensors --inputs a.npz b.npz --tolerance 1e-4",
        "model.hire --original model.jax_export --weights model.safetensors --time",
    ),
    "adapt": (
        "model.hire --original model.jax_export --weights model.safetensors --inputs text-*.npz",
        "model.hire --original model.jax_export --weights model.safetensors --inputs text-*.npz -o adapted.hire",
    ),
    "compare": (
        "model.jax_export --weights model.safetensors",
        "model.jax_export --weights model.safetensors --rules rules.toml --inputs a.npz b.npz",
        "model.jax_export --weights model.safetensors --sampler greedy",
    ),
    "tune": (
        "step.jax_export --forward forward.jax_export --weights model.safetensors --inputs text-*.npz --recall 0.999 "
        "-o rules.toml",
        "step.jax_export --forward forward.jax_export --weights model.safetensors --inputs text-*.npz --loss 0.005 "
        "-o rules.toml",
    ),
    "estimate": (
        "model.hire --tpu v5e:2x2",
        "model.hire --original model.jax_export",
    ),
    "report": (
        "model.hire",
        "model.hire --json",
    ),
}
