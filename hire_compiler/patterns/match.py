"""The one way a pattern says no."""

from __future__ import annotations


class NoMatch(Exception):
    """A pattern does not hold; the message is the reason that the user reads.

    Attributes:
      depth: how far the match had come; of several attempts at one dot the deepest reason is reported.
    """

    def __init__(self, reason: str, *, depth: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.depth = depth
