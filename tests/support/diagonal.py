"""Of the stacked parameters of a test the fast suite runs a diagonal, each value at least once; the slow one all.

Compiling is what the suite's time goes into, and a product of five short axes is a hundred programs. Which value of
one axis meets which of another seldom matters, and where it does the slow tests and the fuzzer find it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest


def mark_the_rest_slow(items: Iterable[pytest.Item]) -> None:
    """Mark every test with the marker ``diagonal`` slow whose parameters are off the diagonal.

    ``diagonal(keep=5)`` keeps that many points of it, for a long axis that other tests run along too.
    """
    tests: dict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("diagonal") and not item.get_closest_marker("slow"):
            assert isinstance(item, pytest.Function)
            tests[str(item.path), item.originalname].append(item)
    for products in tests.values():
        marker = products[0].get_closest_marker("diagonal")
        assert marker is not None
        kept = _thinned(_diagonal([_values(item) for item in products]), marker.kwargs.get("keep"))
        for item in products:
            if _values(item) not in kept:
                item.add_marker(pytest.mark.slow)


def _values(item: pytest.Function) -> tuple[str, ...]:
    # One name for each stacked parametrize; pytest's indices count the whole product instead.
    return tuple(item.callspec._idlist)


def _diagonal(products: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    axes = [list(dict.fromkeys(axis)) for axis in zip(*products, strict=True)]
    rows = max(map(len, axes)) * (1 if len(axes) < 3 else 2)
    # Every turn an axis takes starts one further than the last, so that equally long axes do not run in step.
    return [
        tuple(axis[(row + number * (row // len(axis))) % len(axis)] for number, axis in enumerate(axes))
        for row in range(rows)
    ]


def _thinned(points: list[tuple[str, ...]], keep: int | None) -> list[tuple[str, ...]]:
    return points if keep is None or keep >= len(points) else [points[i * len(points) // keep] for i in range(keep)]
