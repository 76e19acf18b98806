"""These tests need eight devices: ``tests/sharding/test_sharded.py`` runs them in a process that has them."""

from __future__ import annotations

import jax
import pytest

DEVICES = 8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if jax.device_count() < DEVICES:
        for item in items:
            if "sharded/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="needs 8 devices; tests/sharding/test_sharded.py runs it"))
