"""Check a folder of lowered modules: ``python tests/zoo/folder.py FOLDER`` prints one row for each.

A module is ``NAME.mlir`` or ``NAME.mlir.gz``; ``NAME.json`` beside it may say how many ``ffn_sites`` and
``lm_head_sites`` a perfect detector finds. Every site is rewritten, on random arguments: at full width the outputs
are compared with the dense module's, at a quarter of the width with its graph masked down to the same selection.
A head that samples, or whose tokens follow from code of its own, is certified instead at the small width: with the same
keys, so the same noise, its tokens have to be those of the masked graph.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from lowered import every_site

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.capture.program import Argument, Program
from hire_compiler.passes.pipeline import rewrite_program
from tests.support.drawn import drawn
from tests.support.masked import largest_difference, masked_flat


def load(path: Path) -> Program:
    """A module's program, its arguments named by number."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    with _mlir.fresh_context():
        module = _mlir.parse_any(data, path.name)
        types = _mlir.main_function(module).type
        arguments = tuple(Argument(f"arg{i}", *_mlir.tensor_type(t)) for i, t in enumerate(types.inputs))
        results = [_mlir.tensor_type(t) for t in types.results]
        bytecode = _mlir.to_bytecode(module)
    avals = tuple(jax.core.ShapedArray(shape, jnp.dtype(dtype)) for shape, dtype in results)
    return Program(path.name.split(".")[0], bytecode, arguments, out_avals=avals)


def random_values(program: Program) -> list[jax.Array]:
    """Random arguments; matrices scaled so that activations stay of size one."""
    rng = np.random.default_rng(0)
    values = []
    for argument in program.arguments:
        if argument.dtype == "bool":
            values.append(jnp.ones(argument.shape, bool))
        elif "int" in argument.dtype:
            values.append(jnp.asarray(rng.integers(1, 4, size=argument.shape), argument.dtype))
        else:
            scale = np.sqrt(argument.shape[-1]) if len(argument.shape) > 1 else 1.0
            values.append(drawn(rng.normal(size=argument.shape) / scale, argument.dtype))
    return values


def run(module: bytes, program: Program, operands: list[Any], counters: tuple[Any, ...] = ()) -> list[Any]:
    """Outputs of a module, without what it measures of itself."""
    measured = [jax.core.ShapedArray(counter.shape, jnp.dtype(counter.dtype)) for counter in counters]
    avals = (*program.out_avals, *measured)
    results = jax.jit(lambda *o: _mlir.run_module(module, avals, o), keep_unused=True)(*operands)
    return results[: len(program.out_avals)]


def rewritten(program: Program, config: hire.Config, values: list[Any]) -> tuple[hire.Report, list[Any]]:
    """The report and the outputs of the rewritten module."""
    outcome = rewrite_program(program, config, None, "cpu")
    spliced = outcome.spliced
    if spliced is None:
        return outcome.report, run(program.module, program, values)
    built = {key: p.traced(*[values[i] for i in p.arguments]) for key, p in spliced.preparations.items()}
    operands = [values[i] for i in spliced.kept] + [built[e.preparation][e.name] for e in spliced.prepared]
    return outcome.report, run(spliced.module, program, operands, spliced.counters)


def small_configs(report: hire.Report) -> tuple[hire.Config, hire.Config]:
    """What is rewritten at the small width, and what the author's graph is masked by."""
    every = every_site(0.25, group=4)
    if not any("sampling" in site.consumers for site in report.sites):
        return every, every
    blocks = every.rules[0]
    certified = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=128, certify="strict", max_batch=4096)
    left = hire.Rule(kind="head", dense=True)
    return hire.Config(rules=(blocks, certified)), hire.Config(rules=(blocks, left))


def row(path: Path) -> str:
    """One module's row of the table."""
    program = load(path)
    description = path.with_name(f"{program.name}.json")
    expected = json.loads(description.read_text()) if description.exists() else {}
    values = random_values(program)
    dense = run(program.module, program, values)
    report, full = rewritten(program, every_site(1.0), values)
    selected, masked = small_configs(report)
    try:
        _, small = rewritten(program, selected, values)
    except hire.ConfigError:  # nothing can be certified (a plain top-p reads all logits), so nothing has winners either
        selected = masked = every_site(0.25, group=4)
        _, small = rewritten(program, selected, values)
    oracle = masked_flat(program, masked, values)
    counts = [sum(site.kind == kind for site in report.sites) for kind in ("ffn", "head")]
    wanted = [expected.get("ffn_sites", "?"), expected.get("lm_head_sites", "?")]
    dtype = report.sites[-1].dtype if report.sites else ""
    return (
        f"| {program.name} | {dtype} | {counts[0]} of {wanted[0]} | {counts[1]} of {wanted[1]} | "
        f"{len(report.rewritten)} | {largest_difference(full, dense):.1e} | {largest_difference(small, oracle):.1e} |"
    )


def main(folder: Path) -> None:
    """Print the table."""
    print("| module | dtype | blocks | heads | rewritten | full width against dense | small width against oracle |")
    print("|---|---|---|---|---|---|---|")
    for path in sorted([*folder.glob("*.mlir"), *folder.glob("*.mlir.gz")]):  # one that fails does not stop the others
        try:
            print(row(path), flush=True)
        except Exception as error:
            print(f"| {path.name} | {type(error).__name__}: {str(error).splitlines()[0][:200]} | | | | | |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
