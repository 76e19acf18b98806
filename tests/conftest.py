"""Options and fixtures that every test file shares."""

from __future__ import annotations

import numpy as np
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden/<pass>/*.mlir with what the compiler does now; read the diff before you commit it",
    )


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Fresh random numbers for every test, the same ones in every run of it."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def small_heads_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default heads of a few megabytes stay dense; those of these tests are smaller, and stand for large ones."""
    monkeypatch.setattr("hire_compiler.passes.defaults.CHOICE_BYTES", 0)
