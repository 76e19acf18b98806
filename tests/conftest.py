"""Options and fixtures that every test file shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import compiled_once
import numpy as np
import pytest

from hire_compiler.runtime.target import stand_in, target_for
from tests.support.diagonal import mark_the_rest_slow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden/<pass>/*.mlir with what the compiler does now; read the diff before you commit it",
    )


def pytest_unconfigure() -> None:
    compiled_once.remove()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_the_rest_slow(items)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Fresh random numbers for every test, the same ones in every run of it."""
    name = request.node.nodeid.rpartition("/")[2]  # a test keeps its numbers when its file moves
    return np.random.default_rng(list(f"tests/{name}".encode()))


@pytest.fixture(autouse=True)
def small_heads_count() -> Iterator[None]:
    """By default heads of a few megabytes stay dense; those of these tests are smaller, and stand for large ones."""
    targets = [target_for(platform) for platform in ("cpu", "gpu", "tpu")]
    with stand_in(
        *(replace(target, costs=replace(target.costs, choice_bytes=0, copied_rows=None)) for target in targets)
    ):
        yield
