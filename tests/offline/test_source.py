"""Offline: what may come in, in which form, and which weights are which."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import hire_compiler as hire
from hire_compiler.offline.source.source import read_source
from tests.support.exports import BATCH, FULL, dotted, exported, inputs, parameters, step, structs, write_all
from tests.support.models import D, said
from tests.support.offline import rewritten, same


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_all(folder)
    return folder


@pytest.mark.parametrize("form", ["model.jax_export", "model.vhlo", "model.mlir", "bytecode"])
def test_every_form_of_a_model_is_rewritten_saved_loaded_and_equal_to_dense(
    form: str, files: Path, tmp_path: Path
) -> None:
    path = files / form
    if form == "bytecode":
        from hire_compiler import _mlir

        path = tmp_path / "model.bc"
        with _mlir.fresh_context():
            path.write_bytes(_mlir.to_bytecode(_mlir.parse((files / "model.mlir").read_text())))
    names = None if form == "model.jax_export" else {name: str(i) for name, i in zip("0123", "0123", strict=True)}
    weights: Any = files / "weights.safetensors"
    if names is not None and read_source(path).names[0] == "arg0":  # a module without names: by position
        leaves = jax.tree.leaves(parameters())
        weights = {str(i): leaf for i, leaf in enumerate(leaves)}
    artifact = hire.rewrite(path, FULL, weights=weights, platforms=("cpu",))
    assert rewritten(artifact) == ["ffn/0", "head/0"]
    loaded = hire.load(artifact.save(tmp_path / "model.folder"))
    wanted = step(parameters(), *inputs())
    same(loaded(*inputs()), wanted)
    same(artifact(*inputs()), wanted)


def test_each_platform_of_an_export_gets_its_own_program() -> None:
    def by_platform(params: Any, tokens: Any, cache: Any) -> Any:
        cache = jax.lax.platform_dependent(cache, cpu=lambda c: c * 2, tpu=lambda c: c * 3)
        return step(params, tokens, cache)

    artifact = hire.rewrite(exported(by_platform, platforms=("cpu", "tpu")), FULL, weights={"params": parameters()})
    assert list(artifact.manifest.platforms) == ["cpu", "tpu"]
    same(artifact(*inputs()), by_platform(parameters(), *inputs()))
    for name in ("cpu", "tpu"):
        assert artifact.step_program(name).platforms == (name,)
        assert rewritten(artifact, name) == ["ffn/0", "head/0"]
    text = artifact.step_program("tpu").mlir_module()
    assert "dense<3.0" in text
    assert "dense<2.0" not in text  # the other platform's branch is gone


def test_an_export_for_one_platform_is_not_taken_for_another_where_that_matters() -> None:
    def lapack(params: Any, tokens: Any, cache: Any) -> Any:
        return step(params, tokens, cache + jnp.linalg.cholesky(jnp.eye(4)).sum())

    with pytest.raises(hire.HireError, match=r"exported for cpu, not for tpu: export it with platforms"):
        hire.rewrite(exported(lapack), platforms=("tpu",))
    assert list(hire.rewrite(exported(lapack)).manifest.platforms) == ["cpu"]  # by default only what it was made for


def test_a_symbolic_dimension_needs_a_size_and_takes_one() -> None:
    (b,) = jax.export.symbolic_shape("b")
    symbolic = exported(batch=2 * b)
    report = hire.inspect(symbolic)
    assert not report.sites
    assert "symbolic dimensions (b) have no size" in said(report)
    with pytest.raises(hire.HireError, match=r"symbolic dimensions \(b\) have no size.*--dim b=1"):
        hire.rewrite(symbolic)
    with pytest.raises(hire.HireError, match=r"no symbolic dimension 'c': it has b"):
        hire.rewrite(symbolic, dims={"b": 1, "c": 2})
    assert hire.inspect(symbolic, dims={"b": 1}).sites[0].batch == 2
    artifact = hire.rewrite(symbolic, FULL, dims={"b": 1}, weights=dotted(parameters()), platforms=("cpu",))
    assert rewritten(artifact) == ["ffn/0", "head/0"]
    same(artifact(*inputs()), step(parameters(), *inputs()))


def test_an_export_over_devices_that_names_no_mesh_is_refused_aloud(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "sharded.mlir"
    text = (files / "model.mlir").read_text()
    path.write_text(text.replace("mhlo.num_partitions = 1", "mhlo.num_partitions = 4"))
    with pytest.raises(hire.HireError, match="partitioned over 4 devices, but it names no mesh"):
        hire.rewrite(path)
    assert hire.inspect(path).sites


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_weights_that_are_constants_of_the_module_are_weights(dtype: Any, tmp_path: Path) -> None:
    embed = np.random.default_rng(0).standard_normal((4096, D), np.float32).astype(dtype)

    def closed(x: jax.Array) -> jax.Array:
        return jnp.argmax(x @ jnp.asarray(embed).astype(jnp.float32).T, axis=-1)

    one = jax.export.export(jax.jit(closed))(jax.ShapeDtypeStruct((BATCH, D), jnp.float32))
    artifact = hire.rewrite(one, FULL, platforms=("cpu",))
    assert rewritten(artifact) == ["head/0"]
    assert len(artifact.step_program().serialize()) < embed.nbytes / 2  # the step no longer carries them
    loaded = hire.load(artifact.save(tmp_path / "closed.hire"))
    x = np.random.default_rng(1).standard_normal((BATCH, D), np.float32)
    np.testing.assert_array_equal(loaded(x), closed(x))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_constants_kept_as_resources_are_weights(dtype: Any, tmp_path: Path) -> None:
    embed = np.random.default_rng(0).standard_normal((D, 4096), np.float32).astype(dtype)
    kind = {np.float32: "f32"}.get(dtype, "bf16")

    def head(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.dot(x, w, preferred_element_type=jnp.float32), axis=-1)

    structs = jax.ShapeDtypeStruct((BATCH, D), jnp.dtype(dtype)), jax.ShapeDtypeStruct(embed.shape, jnp.dtype(dtype))
    text = jax.jit(head).lower(*structs).as_text()
    kept = f"%w = stablehlo.constant dense_resource<embedding> : tensor<{D}x4096x{kind}>"
    text = re.sub(r", %arg1: tensor<[^)]*\)", ")", text, count=1)  # the argument becomes a constant
    text = re.sub(r"(func.func public @main.*\{\n)", rf"\1    {kept}\n", text, count=1)
    text = text.replace("%arg1", "%w")
    blob = "0x10000000" + embed.tobytes().hex().upper()
    path = tmp_path / "head.mlir"
    path.write_text(text + f'\n{{-#\n  dialect_resources: {{\n    builtin: {{ embedding: "{blob}" }}\n  }}\n#-}}\n')
    artifact = hire.rewrite(path, FULL, platforms=("cpu",))
    assert rewritten(artifact) == ["head/0"]
    assert len(artifact.step_program().serialize()) < embed.nbytes / 2
    x = np.random.default_rng(1).standard_normal((BATCH, D), np.float32).astype(dtype)
    np.testing.assert_array_equal(hire.load(artifact.save(tmp_path / "head.hire"))(x)[0], head(x, embed))


def test_custom_trees_become_dicts_and_tuples() -> None:
    class State(NamedTuple):
        zebra: jax.Array
        ant: jax.Array

    def named(params: Any, tokens: Any, state: State) -> Any:
        out = step(params, tokens, state.zebra)
        return State(out["cache"], out["token"]), [out["best"]]

    jax.export.register_namedtuple_serialization(State, serialized_name="State")
    params, tokens, cache = structs()
    one = jax.export.export(jax.jit(named))(params, tokens, State(cache, cache))
    artifact = hire.rewrite(one, FULL, weights=dotted(parameters()), platforms=("cpu",))
    tokens, cache = inputs()
    state, (best,) = artifact(tokens, {"zebra": cache, "ant": cache})
    wanted = step(parameters(), tokens, cache)
    same((state["zebra"], state["ant"], best), (wanted["cache"], wanted["token"], wanted["best"]))


def test_unused_and_keyword_arguments_keep_their_places(tmp_path: Path) -> None:
    def spare(params: Any, unused: Any, tokens: Any, *, cache: Any) -> Any:
        return step(params, tokens, cache)

    params, tokens, cache = structs()
    one = jax.export.export(jax.jit(spare))(params, cache, tokens, cache=cache)
    artifact = hire.rewrite(one, FULL, weights=dotted(parameters()), platforms=("cpu",))
    loaded = hire.load(artifact.save(tmp_path / "spare.hire"))
    tokens, cache = inputs()
    same(loaded(cache, tokens, cache=cache), step(parameters(), tokens, cache))


def test_weights_come_from_any_of_the_usual_files(files: Path, tmp_path: Path) -> None:
    named = dotted(parameters())
    shards = tmp_path / "shards"
    shards.mkdir()
    first = {name: named[name] for name in ("embed", "mlp.up")}
    save_file(first, shards / "a.safetensors")
    save_file({name: array for name, array in named.items() if name not in first}, shards / "b.safetensors")
    index = {"weight_map": {name: "a.safetensors" if name in first else "b.safetensors" for name in named}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    wanted = step(parameters(), *inputs())
    for weights in (
        files / "weights.npz",
        shards,
        shards / "model.safetensors.index.json",
        [shards / "a.safetensors", shards / "b.safetensors"],
        {"params": parameters()},
        {f"params.{name}": array for name, array in named.items()},
    ):
        same(hire.rewrite(exported(), FULL, weights=weights, platforms=("cpu",))(*inputs()), wanted)


def test_a_map_says_what_names_do_not() -> None:
    named = {f"model.{i}.weight": array for i, array in enumerate(dotted(parameters()).values())}
    with pytest.raises(hire.WeightError, match=r"no tensor .* has the name of an argument.*say which is which"):
        hire.rewrite(exported(), FULL, weights=named)
    arguments = ("params['embed']", "params.mlp.up", "mlp.down", "1")  # 1 is the second leaf: the bias
    tensors = ("model.0.weight", "model.1.weight", "model.2.weight", "model.3.weight")
    mapping = dict(zip(arguments, tensors, strict=True))
    assert read_source(exported()).names[1] == "params['mlp']['bias']"
    artifact = hire.rewrite(exported(), FULL, weights=named, mapping=mapping, platforms=("cpu",))
    same(artifact(*inputs()), step(parameters(), *inputs()))
    for bad, message in (
        ({**mapping, "nowhere": "model.0.weight"}, "'nowhere', which is no argument"),
        ({**mapping, "mlp.up": "nothing"}, "'nothing', which is not in"),
        ({**mapping, "params.mlp.up": "model.2.weight"}, r"is float32\[16, 64\], but .* \(it is the transpose\)"),
    ):
        with pytest.raises(hire.WeightError, match=message):
            hire.rewrite(exported(), FULL, weights=named, mapping=bad)


def test_a_missing_or_wrong_weight_is_named() -> None:
    named = dotted(parameters())
    with pytest.raises(hire.WeightError, match=r"the weights lack params\['mlp'\]\['down'\]"):
        hire.rewrite(exported(), FULL, weights={name: a for name, a in named.items() if name != "mlp.down"})
    with pytest.raises(hire.WeightError, match=r"params\['embed'\] is float32\[512, 16\], but .*float16\[512, 16\]"):
        hire.rewrite(exported(), FULL, weights={**named, "embed": named["embed"].astype(np.float16)})
    bad = {**named, "embed": np.where(np.arange(D) == 3, np.nan, named["embed"])}
    with pytest.raises(hire.WeightError, match=r"params\['embed'\] holds NaN or Inf"):
        hire.rewrite(exported(), FULL, weights=bad, platforms=("cpu",))(*inputs())


def test_minus_infinity_in_a_bias_is_no_damage() -> None:
    weights = parameters()
    weights["mlp"]["bias"][::3] = -np.inf  # neurons that the author switched off
    named = dotted(weights)
    artifact = hire.rewrite(exported(), FULL, weights=named, platforms=("cpu",))
    same(artifact(*inputs()), step(weights, *inputs()))


def test_weights_may_come_later(files: Path, tmp_path: Path) -> None:
    saved = hire.rewrite(exported(), FULL, platforms=("cpu",)).save(tmp_path / "empty.hire")
    empty = hire.load(saved)
    assert not empty.is_prepared
    with pytest.raises(hire.WeightError, match="holds no weights: prepare it"):
        empty(*inputs())
    # The matrices are prepared from; the bias is read as it is.
    assert set(empty.manifest.sources) == {"params['embed']", "params['mlp']['up']", "params['mlp']['down']"}
    weights = empty.prepare(_by_argument(parameters()))
    read = {"mlp": {"bias": parameters()["mlp"]["bias"]}}
    same(empty.step(weights, read, *inputs()), step(parameters(), *inputs()))


def _by_argument(params: Any) -> dict[str, np.ndarray]:
    return {
        "params['embed']": params["embed"],
        **{f"params['mlp']['{name}']": array for name, array in params["mlp"].items()},
    }


def test_names_may_say_what_is_a_weight(tmp_path: Path) -> None:
    head_only = hire.Config(rules=(FULL.rules[1],))
    artifact = hire.rewrite(exported(), head_only, platforms=("cpu",))
    assert [entry.name for entry in artifact.manifest.inputs][:2] == ["params['mlp']['bias']", "params['mlp']['down']"]
    artifact = hire.rewrite(exported(), head_only, parameters="^params", platforms=("cpu",))
    assert [entry.name for entry in artifact.manifest.inputs] == ["tokens", "cache"]
    with pytest.raises(hire.ConfigError, match="names no argument"):
        hire.rewrite(exported(), head_only, parameters="^weights", platforms=("cpu",))
