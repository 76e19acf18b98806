"""How golden stories print modules: without what differs between releases of JAX, and without what teaches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from hire_compiler import _mlir

TELLING = {
    "stablehlo.all_gather",
    "stablehlo.all_reduce",
    "stablehlo.all_to_all",
    "stablehlo.collective_permute",
    "stablehlo.custom_call",
    "stablehlo.dot_general",
    "stablehlo.composite",
    "chlo.top_k",
}  # what a replacement does in large steps; the arithmetic between them is left out
BRANCHING = {"stablehlo.case": "case", "stablehlo.if": "if", "stablehlo.while": "while"}
PLACING = {"sdy.manual_computation": "on each device"}
_REDUCER = re.compile(r"^( +reducer)\(.*\{\n(?:.*\n)*?  +\}\n", re.MULTILINE)
_FUNCTION = re.compile(r"^  func\.func private @(\S+?)\((.*) \{\n(?:.*\n)*?  \}\n", re.MULTILINE)


def print_module(module: Any) -> str:
    """Text of a module without what differs between the supported releases of JAX, and without bodies of reductions."""
    text = _REDUCER.sub(r"\1 { … }\n", _mlir.to_text(module).strip())
    return text.replace("is_stable = true, ", "")  # newer releases say so of chlo.top_k, older ones mean it


def print_spliced(module: Any, bodies: str) -> str:
    """Text of a step program.

    Of the functions that jax.numpy itself lowers to (sort, take, argmax …) there are at most the heads, for their
    bodies are neither ours nor the same in every release.

    Args:
      bodies: of the replacements: ``whole``; ``outlined``: their products, gathers, choices, branches and exchanges, in
        order, through all functions that they call; ``heads``.
    """

    def told(found: re.Match[str]) -> str:
        name, head = found[1], f"  func.func private @{found[1]}({found[2]}"
        if not name.startswith("hire_"):
            return f"{head} {{ … }}\n" if bodies == "whole" else ""
        if bodies == "whole":
            return found[0]
        if bodies == "heads" or name.startswith("hire_author"):
            return f"{head} {{ … }}\n"
        return f"{head} {{\n{_outline(module, name)}  }}\n"

    return _FUNCTION.sub(told, re.sub(r' \{jax\.result_info = "[^"]*"\}', "", print_module(module)))


def _outline(module: Any, name: str) -> str:
    views = (view.operation for view in module.body.operations)
    functions = {str(op.attributes["sym_name"]).strip('"'): op for op in views if op.name == "func.func"}
    lines = _steps(functions[name].regions[0], functions, "    … ")
    return "".join(f"{line}{_times(list(same))}\n" for line, same in groupby(lines))


def _times(same: list[str]) -> str:
    return f"  ×{len(same)}" if len(same) > 1 else ""


def _steps(region: Any, functions: dict[str, Any], indent: str) -> Iterator[str]:
    for view in region.blocks[0].operations:
        op = view.operation
        if op.name == "func.call":
            callee = str(op.attributes["callee"]).lstrip("@")
            if callee.startswith("hire_"):
                yield f"{indent}call @{callee}"
            else:
                yield from _steps(functions[callee].regions[0], functions, indent)
        elif op.name in BRANCHING or op.name in PLACING:
            yield from _branches(op, functions, indent)
        elif op.name == "stablehlo.gather":
            if _reads_rows(op):
                yield f"{indent}gather {_types(op.operands[:1])} → {_types(op.results)}"
        elif op.name in TELLING:
            yield f"{indent}{_name(op)} {_types(op.operands)} → {_types(op.results)}"


def _reads_rows(gather: Any) -> bool:
    """Whether it reads rows of a matrix, and no single numbers of a vector or of one row."""
    shape, dtype = _mlir.tensor_type(gather.operands[0].type)
    return len(shape) > 1 and shape[0] > 1 and dtype not in ("bool", "int32")


def _branches(op: Any, functions: dict[str, Any], indent: str) -> Iterator[str]:
    """A branch or a loop, if anything in it is told."""
    branches = [list(_steps(region, functions, f"  {indent}")) for region in op.regions]
    if not any(branches):
        return
    opened = f"{(BRANCHING | PLACING)[op.name]} {{"
    for branch in branches:
        if not branch:
            opened += " } {"
            continue
        yield f"{indent}{opened}"
        yield from branch
        opened = "} {"
    yield f"{indent}{opened.removesuffix(' {')}"


def _name(op: Any) -> str:
    named = {"stablehlo.composite": "name", "stablehlo.custom_call": "call_target_name"}.get(op.name)
    name = str(op.attributes[named]).strip('"') if named else op.name
    return name.rsplit(".", 1)[-1]


def _types(values: Any) -> str:
    return ", ".join(str(value.type).removeprefix("tensor<").removesuffix(">") for value in values)
