"""Artifacts outlive JAX's promise: portable StableHLO beside every blob, used where a blob is refused, and renewed."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.cli import main
from hire_compiler.offline.artifact.portable import call_of
from hire_compiler.offline.disk.manifest import File, read_manifest
from tests.support.exports import CERTIFIED, exported, inputs, parameters, step, write_all

WANTED = step(parameters(), *inputs())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgrade")
    write_all(folder)
    with jax.default_matmul_precision("highest"):  # or nothing is certified on a GPU
        (folder / "model.jax_export").write_bytes(exported(platforms=("cpu", "cuda")).serialize())
    model, weights = folder / "model.jax_export", folder / "weights.safetensors"
    artifact = hire.rewrite(model, CERTIFIED, weights=weights, platforms=("cpu", "cuda"))
    artifact.save(folder / "model.folder")
    artifact.save(folder / "model.hire")
    return folder


def replaced(folder: Path, contents: dict[str, bytes]) -> None:
    """Put other files into an artifact, with a manifest that fits them."""
    manifest = read_manifest((folder / "manifest.json").read_bytes(), "manifest.json")
    files = dict(manifest.files)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        files[name] = File(len(data), hashlib.sha256(data).hexdigest())
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files).to_bytes())


def check(artifact: hire.Artifact) -> None:
    found = artifact(*inputs())
    np.testing.assert_array_equal(found["token"], WANTED["token"])
    np.testing.assert_allclose(found["best"], WANTED["best"], rtol=1e-5)
    np.testing.assert_array_equal(found["cache"], WANTED["cache"])


@pytest.mark.slow
def test_the_manifest_says_what_wrote_it_and_until_when_it_loads(good: Path) -> None:
    manifest = hire.load(good / "model.hire").manifest
    assert manifest.versions["jax"] == jax.__version__
    assert set(manifest.versions) >= {"jaxlib", "libtpu", "stablehlo", "calling_convention", "loads_until"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest.versions["stablehlo"])
    programs = {file for entry in manifest.platforms.values() for file in (entry.step, entry.check)}
    programs |= {p.program for entry in manifest.platforms.values() for p in entry.preparations}
    assert set(manifest.portable) == programs
    for file, portable in manifest.portable.items():
        blob = jax.export.deserialize(bytearray((good / "model.folder" / file).read_bytes()))
        assert (good / "model.folder" / portable.file).read_bytes() == blob.mlir_module_serialized


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no blob at all", "an old calling convention", "a StableHLO of the future"])
def test_a_refused_blob_falls_back_to_the_portable_form_with_a_note(how: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a")
    weights = good / "weights.safetensors"
    blobs = {}
    for path in sorted((tmp_path / "a").glob("*.jax_export")):
        blob = jax.export.deserialize(bytearray(path.read_bytes()))
        if how == "an old calling convention":
            blob = dataclasses.replace(blob, calling_convention_version=5)
        if how == "a StableHLO of the future":
            module = re.sub(rb"StableHLO_v\d\.", b"StableHLO_v9.", blob.mlir_module_serialized, count=1)
            blob = dataclasses.replace(blob, mlir_module_serialized=module)
        blobs[path.name] = b"\0" * 64 if how.startswith("no blob") else bytes(blob.serialize())
    replaced(tmp_path / "a", blobs)
    artifact = hire.load(tmp_path / "a")
    with pytest.warns(
        hire.HireWarning, match=r"cannot be read by jax .*: its portable form is used; hire-compiler upg"
    ):
        check(artifact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        prepared = hire.load(tmp_path / "a").with_weights(weights).prepare()
        assert artifact.step_program("cuda").platforms == ("cuda",)  # and for machines that are not here
    for name, array in hire.load(good / "model.folder").weights().items():
        np.testing.assert_array_equal(np.asarray(prepared[name]), np.asarray(array))


@pytest.mark.slow
def test_upgrade_writes_blobs_that_load_and_leaves_the_rest(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a")
    replaced(tmp_path / "a", {p.name: b"\0" * 64 for p in (tmp_path / "a").glob("*.jax_export")})
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir() if p.suffix != ".jax_export"}
    before.pop("manifest.json")
    assert main(["run", str(tmp_path / "a"), "--inputs", str(good / "inputs.npz")]) == 0
    err = capsys.readouterr().err
    assert all(line.startswith("hire-compiler: note: ") for line in err.splitlines())
    assert "hire-compiler upgrade" in err
    assert main(["upgrade", str(tmp_path / "a"), "-o", str(tmp_path / "b.hire")]) == 0
    assert main(["upgrade", str(tmp_path / "a")]) == 0
    assert {name: (tmp_path / "a" / name).read_bytes() for name in before} == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a", "b.hire"):
            artifact = hire.load(tmp_path / name)
            assert artifact.manifest.versions["first_written_by"] == jax.__version__
            check(artifact)
            check(artifact.with_weights(good / "weights.safetensors"))
            assert artifact.step_program("cuda").platforms == ("cuda",)
    assert main(["verify", str(tmp_path / "a"), "--original", str(good / "model.jax_export"), "--weights",
                 str(good / "weights.safetensors")]) == 0  # fmt: skip


def test_where_neither_form_can_be_read_one_line_says_so(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a")
    replaced(
        tmp_path / "a", {p.name: b"\0" * 64 for p in (tmp_path / "a").iterdir() if p.suffix in (".jax_export", ".vhlo")}
    )
    for verb in (["run"], ["upgrade"], ["upgrade", "-o", str(tmp_path / "b")]):
        assert main([verb[0], str(tmp_path / "a"), *verb[1:]]) == 2
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1, err
        assert not out
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_programs_that_changed_places_are_told_apart(good: Path, tmp_path: Path) -> None:
    folder = good / "model.folder"
    names = sorted(p.name for p in folder.glob("*.jax_export"))
    assert len(names) >= 6  # steps and checks of two platforms, two preparations
    told, alike, kinds = set(), 0, lambda *files: tuple(sorted(file.partition(".")[0] for file in files))
    for one in names:
        for other in names:
            if one == other:
                continue
            shutil.copytree(folder, tmp_path / "a")
            data = {one: (folder / other).read_bytes(), other: (folder / one).read_bytes()}
            for a, b in ((one, other), (other, one)):  # and their portable forms with them
                portable = hire.load(folder).manifest.portable
                data[portable[a].file] = (folder / portable[b].file).read_bytes()
            replaced(tmp_path / "a", data)
            artifact = hire.load(tmp_path / "a")
            shutil.rmtree(tmp_path / "a")
            if kinds(one, other) == ("prepare", "prepare") and _takes(one, artifact) == _takes(other, artifact):
                alike += 1  # only the checksums tell them apart
                continue
            with pytest.raises(hire.ArtifactError, match="than the manifest says: is it another program"):
                artifact.program(one)
            told.add(kinds(one, other))
    expected = {("check", "step"), ("prepare", "step"), ("check", "prepare"), ("prepare", "prepare"), ("step", "step")}
    assert told >= expected
    assert alike <= 4


def _takes(file: str, artifact: hire.Artifact) -> Any:
    call, portable = call_of(file, artifact.manifest, artifact.constants.specs), artifact.manifest.portable[file]
    return call.types, dataclasses.replace(portable, file="")


# --------------------------------------------------------------------------- custom calls

KERNEL = """
module @jit_step attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {
  func.func public @main(%x: tensor<1x64xf32>, %w: tensor<512x64xf32>) -> (tensor<1xi32>) {
    %y = stablehlo.custom_call @some_kernel(%x) {api_version = 2 : i32, backend_config = "\\01\\02\\FFpayload {\\22a\\22: 1}", kernel_name = "k", operand_layouts = [dense<[1, 0]> : tensor<2xindex>], result_layouts = [dense<[1, 0]> : tensor<2xindex>]} : (tensor<1x64xf32>) -> tensor<1x64xf32>
    %z = stablehlo.dot_general %y, %w, contracting_dims = [1] x [1] : (tensor<1x64xf32>, tensor<512x64xf32>) -> tensor<1x512xf32>
    %i = stablehlo.iota dim = 1 : tensor<1x512xi32>
    %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %zero = stablehlo.constant dense<0> : tensor<i32>
    %best:2 = stablehlo.reduce(%z init: %low), (%i init: %zero) across dimensions = [1] : (tensor<1x512xf32>, tensor<1x512xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
      reducer(%a: tensor<f32>, %b: tensor<f32>) (%c: tensor<i32>, %d: tensor<i32>) {
      %gt = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %nan = stablehlo.compare NE, %a, %a, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %or = stablehlo.or %gt, %nan : tensor<i1>
      %eq = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %lt = stablehlo.compare LT, %c, %d, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      %and = stablehlo.and %eq, %lt : tensor<i1>
      %first = stablehlo.or %or, %and : tensor<i1>
      %v = stablehlo.select %or, %a, %b : tensor<i1>, tensor<f32>
      %n = stablehlo.select %first, %c, %d : tensor<i1>, tensor<i32>
      stablehlo.return %v, %n : tensor<f32>, tensor<i32>
    }
    return %best#1 : tensor<1xi32>
  }
}
"""  # noqa: E501


def kernels(module: bytes) -> set[str]:
    """Every call of the kernel, with all of its attributes, as printed."""
    with _mlir.fresh_context():
        text = _mlir.to_text(_mlir.parse_portable(module))
    found = {re.sub(r"%[\w#:]+", "%", line.strip()) for line in text.splitlines() if "@some_kernel" in line}
    return {line.partition("=")[2] for line in found}


def test_a_kernel_passes_through_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "m.mlir").write_text(KERNEL)
    w = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64, certify="strict")
    artifact = hire.rewrite(tmp_path / "m.mlir", hire.Config(rules=(rule,)), weights={"arg1": w}, platforms=("cpu",))
    assert [d["action"] for d in artifact.report()["cpu"]["decisions"]] == ["rewritten"]
    artifact.save(tmp_path / "a.hire")
    artifact = hire.load(tmp_path / "a.hire")
    with _mlir.fresh_context():
        author = _mlir.to_text(_mlir.parse(KERNEL))
    (written,) = [line for line in author.splitlines() if "@some_kernel" in line]
    expected = re.sub(r"%[\w#:]+", "%", written.strip()).partition("=")[2]
    assert '"\\01\\02\\FFpayload {\\22a\\22: 1}"' in expected
    assert kernels(artifact.step_program().mlir_module_serialized) == {expected}
    artifact.upgrade(tmp_path / "b.hire")
    renewed = hire.load(tmp_path / "b.hire")
    assert kernels(renewed.step_program().mlir_module_serialized) == {expected}
    assert kernels(renewed.step_program(counted=True).mlir_module_serialized) == {expected}
