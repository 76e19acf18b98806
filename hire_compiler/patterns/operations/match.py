"""The one way a pattern says no."""

from __future__ import annotations

from hire_compiler.graph.graph import Op

EXPERTS = 5  # the depth of a reason that is certainly about experts


class NoMatch(Exception):
    """A pattern does not hold; the message is the reason that the user reads.

    Attributes:
      depth: how far the match had come; of several attempts at one dot the deepest reason is reported.
      final: nothing else can claim the operations involved (a head cannot begin with a block's first product).
      involved: other operations (earlier products of the same block) that the reason speaks for.
    """

    def __init__(self, reason: str, *, depth: int = 0, involved: tuple[Op, ...] = (), final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.depth = depth
        self.involved = involved
        self.final = final
