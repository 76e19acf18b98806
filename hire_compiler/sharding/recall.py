"""How arrays lie on a mesh of devices, and how many candidates a shard must keep: plain data and closed forms.

DaT-Top-k takes the top candidates of every shard by itself. Under random placement the number of true top rows in a
shard is hypergeometric, so the expected recall of "every shard keeps K'" is a closed form (method.md), and the slack
c = s·K'/K over an even split follows from a recall target.
"""

from __future__ import annotations

from math import ceil, exp, lgamma


def expected_recall(n: int, k: int, shards: int, kept: int) -> float:
    """Expected share of the true top ``k`` of ``n`` that is kept when each of ``shards`` equal parts keeps its best.

    Under random placement a part holds a hypergeometric number r of the true top k and loses r − kept of them:
    ``1 − (s/k) Σ_{r > kept} (r − kept) C(k, r) C(n − k, n/s − r) / C(n, n/s)``.

    Args:
      n: rows, or groups of rows where groups are chosen; divisible by ``shards``.
      kept: how many each part keeps.
    """
    part = n // shards
    whole = _log_choose(n, part)
    lost = sum(
        (r - kept) * exp(_log_choose(k, r) + _log_choose(n - k, part - r) - whole)
        for r in range(kept + 1, min(k, part) + 1)
        if part - r <= n - k
    )
    return 1 - shards * lost / k


def kept_per_shard(n: int, k: int, shards: int, recall: float) -> int:
    """The fewest rows (or groups) that every shard must keep for an expected recall of the global top ``k``.

    At least an even split, ⌈k/s⌉; at most all that there are.
    """
    part = n // shards
    kept = min(max(1, ceil(k / shards)), part)
    while kept < min(k, part) and expected_recall(n, k, shards, kept) < recall:
        kept += 1
    return kept


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
