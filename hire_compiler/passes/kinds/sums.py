"""How far a platform's product may be from the real numbers, and whether it reads what the author rounded."""

from __future__ import annotations

from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.runtime.certify import rounded_terms
from hire_compiler.runtime.target import Target


def why_sums_are_unbounded(dot: WeightDot, rows: int, target: Target, *, exact_terms: bool = False) -> str:
    """Why no bound is known of a product's rounding; or ''.

    Args:
      rows: of its input, that are read.
      exact_terms: its operands are so narrow that a matrix unit multiplies them exactly.
    """
    if target.sums_in_full:
        return ""
    if not (dot.precise or exact_terms):
        return f"the product is not computed in full float32 on {target.platform}, so its rounding is not bounded"
    if dot.result.dtype == "float16" and rounded_terms(rows, "float16", target):
        return (
            f"a product of one row is multiplied in float16 on {target.platform}, where single terms may overflow or "
            "vanish; ask for a float32 result (preferred_element_type=jnp.float32)"
        )
    return ""


def may_lose_its_rounding(dot: WeightDot, target: Target) -> bool:
    """Whether dense may multiply the input as it was before it was rounded to bfloat16.

    XLA:CPU does of one row, and of several in some forms, where the result is float32.
    """
    if dot.x.dtype != "bfloat16" or dot.result.dtype not in target.drops_roundings:
        return False
    made = dot.x
    while made.op is not None and made.op.name in (*LAYOUT, "gather"):
        made = made.op.operands[0]
    return made.op is not None and made.op.name not in ("convert", "constant", "optimization_barrier")
