"""Run one sharded head or block as written and rewritten, both on the same devices."""

from __future__ import annotations

from tests.fuzz import check_blocks, check_heads
from tests.fuzz.shards import ShardedBlock, ShardedHead


def run(program: ShardedHead, rows: int = 400, stop_after: int = 3) -> check_heads.Outcome:
    """Compare one head on many calls."""
    return check_heads.run(program, rows, stop_after, place=program.put)


def run_block(program: ShardedBlock, rows: int = 100, stop_after: int = 3) -> check_heads.Outcome:
    """Compare one block on many calls."""
    return check_blocks.run(program, rows, stop_after, place=program.put)
