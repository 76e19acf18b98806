"""Products of one row as the compiler reads them: wide.

::

    dot_general(x: bf16[1, d], w: bf16[n, d]) → f32      becomes      dot_general(convert(x), convert(w)) → f32

XLA:CPU does the same, in front of the pass that drops a rounding which is widened at once: so dense multiplies the
input as it was before it was rounded to bfloat16, if operations of that type made it. Written so from the start, what
replaces the product reads the same numbers.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hire_compiler import _mlir


def widen_single_rows(module: Any) -> int:
    """Widen the operands of such products in ``@main``, in place; how many there were."""
    products = _mlir.operations_named(_mlir.main_function(module).operation, "stablehlo.dot_general")
    found = [op for op in products if _is_wide_product_of_one_row(op)]
    for op in found:
        for position in range(2):
            _mlir.widened(op, position, "float32")
    return len(found)


def _is_wide_product_of_one_row(op: Any) -> bool:
    (left, left_type), (right, right_type), (_, made) = (
        _mlir.tensor_type(value.type) for value in (*op.operands, op.results[0])
    )
    if (left_type, right_type, made) != ("bfloat16", "bfloat16", "float32"):
        return False
    left_batch, right_batch, *contracting = _mlir.dot_dimensions(op)
    if left_batch or right_batch:
        return False
    rows = (prod(n for i, n in enumerate(s) if i not in c) for s, c in zip((left, right), contracting, strict=True))
    return 1 in rows
