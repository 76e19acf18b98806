"""The choice of neurons that a model was trained with.

::

    h ── composite "hire.group_topk" {k, group} ──

The composite stands for itself in the expression of a region: it keeps groups of *adjacent* neurons, so its last
axis has to hold all neurons of a product in their order. Not matched: a choice among a part of the neurons.
"""

from __future__ import annotations

import numpy as np

from hire_compiler import _mlir
from hire_compiler.authors.group_topk import NAME
from hire_compiler.graph.graph import Op
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.terms import Node, Stream, Term, topological

GROUP_TOPK = f"composite@{NAME}"


def read_group_topk(op: Op, term: Term) -> Term:
    """The term of a :func:`hire_compiler.group_topk` of a term.

    Raises:
      NoMatch: its last axis is not the neurons of one product in their order.
    """
    value = op.operands[0]
    for leaf in topological(term):
        if isinstance(leaf, Stream):
            rows = np.broadcast_to(leaf.rows, value.shape)
            first = rows[(0,) * (rows.ndim - 1)]
            if not (rows == first).all() or (len(first) > 1 and not (np.diff(first) == first[1] - first[0]).all()):
                raise NoMatch("group_topk chooses among neurons that are not in their order", depth=3)
            batch = np.broadcast_to(leaf.batch, value.shape)
            if not (batch == batch[..., :1]).all():
                raise NoMatch("group_topk chooses along another axis than the neurons", depth=3)
    k, group = _mlir.composite_integer(op.ir, "k"), _mlir.composite_integer(op.ir, "group")
    if not (group and k) or value.shape[-1] % group:
        raise NoMatch("group_topk without k and group", depth=3)
    return Node("group_topk", (term,), op.result.dtype, f"{k}/{value.shape[-1]}/{group}", 2)
