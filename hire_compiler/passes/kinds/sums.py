"""Whether it is known how far a platform's product may be from the real numbers."""

from __future__ import annotations

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
