"""Search a captured program: the stages from its module to its sites, for those who only look."""

from __future__ import annotations

from typing import Any

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.graph.graph import Graph
from hire_compiler.passes.detect.detect import Detection, detect
from hire_compiler.passes.normalize.fold import folded_graph
from hire_compiler.passes.normalize.normalize import normalize


def search(program: Program) -> tuple[Any, Graph, Detection]:
    """A copy of the program's module, normalized, in the current context; its graph; and what was found in it."""
    module = _mlir.parse(program.module)
    normalize(module)
    graph = folded_graph(module)
    return module, graph, detect(graph, program.arguments)
