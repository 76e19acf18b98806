"""Run one sharded head as written and rewritten, both on the same devices."""

from __future__ import annotations

from tests.fuzz import check_heads
from tests.fuzz.shards import ShardedHead


def run(program: ShardedHead, rows: int = 400, stop_after: int = 3) -> check_heads.Outcome:
    """Compare one program on many calls."""
    return check_heads.run(program, rows, stop_after, place=program.put)
