"""Where the weight of a product comes from."""

from __future__ import annotations

from dataclasses import dataclass

from hire_compiler.graph.graph import Value
from hire_compiler.graph.weight import Weight


@dataclass(frozen=True)
class Origin:
    """A weight, and the loop counter that picks its layer where it is stacked."""

    weight: Weight
    layer: Value | None = None
