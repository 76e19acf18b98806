"""Dealing: which rows of a matrix go to which shard, so that the hot ones are spread."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Dealing:
    """Which rows each shard gives to which, so that hot ones are spread.

    Every shard gives each shard the same number of rows: one all-to-all moves them, and no device holds more than it
    did.

    Attributes:
      sends: int32 ``[layers, shards, rows of a shard]``: the rows of a shard, counted within it, by receiver and then
        ascending. One entry for all layers, or one each.
    """

    sends: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The rows that each shard gets, counted among all, ascending: int32 ``[shards, rows of a shard]``."""
        sends = self.sends[0]
        shards, part = sends.shape
        by_receiver = (sends + part * np.arange(shards)[:, None]).reshape(shards, shards, part // shards)
        return by_receiver.transpose(1, 0, 2).reshape(shards, part).astype(np.int32)

    def __repr__(self) -> str:  # part of what names a prepared array, here and in another process
        return f"dealt {hashlib.sha256(np.ascontiguousarray(self.sends).tobytes()).hexdigest()[:12]}"


def deal(hotness: np.ndarray, shards: int, group: int = 1) -> Dealing:
    """Deal rows to shards so that the hot ones are spread evenly.

    Every shard deals its own rows, the hottest first, to all in turn; who is first moves on with every round and from
    shard to shard.

    Args:
      hotness: ``[n]`` or ``[layers, n]``: how often each row (or group) wins; where equal, the first is first.
      shards: how many; n is divisible by its square.
      group: rows that stay together.
    """
    own = hotness.reshape(-1, shards, hotness.shape[-1] // shards)
    rank = np.argsort(np.argsort(-own, axis=-1, kind="stable"), axis=-1)
    receiver = (rank + rank // shards + np.arange(shards)[:, None]) % shards
    sends = np.argsort(receiver, axis=-1, kind="stable")[..., None] * group + np.arange(group)
    return Dealing(sends.reshape(*own.shape[:-1], -1).astype(np.int32))
