"""One table says all there is to know of a platform: what is not in it is refused, and code asks for no name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import hire_compiler
from hire_compiler.errors import ConfigError
from hire_compiler.runtime.target import JAX_PLATFORMS, PLATFORMS, lowering_platform, stand_in, target_for


def test_a_name_means_one_platform() -> None:
    assert len(set(JAX_PLATFORMS)) == len(JAX_PLATFORMS)
    assert [target_for(name).platform for name in PLATFORMS] == list(PLATFORMS)
    assert {target_for(name).platform for name in JAX_PLATFORMS} == set(PLATFORMS)


def test_nothing_is_assumed_of_a_platform_that_is_not_known() -> None:
    """A plan that takes it for a GPU would trust the rounding of another machine."""
    with pytest.raises(ConfigError, match=f"platform 'npu' is unknown: use one of {', '.join(PLATFORMS)}"):
        target_for("npu")


def test_what_differs_between_platforms_is_said_by_their_target() -> None:
    """Code that asks for a platform's name would be forgotten with the next platform."""
    root = Path(hire_compiler.__file__).parent
    asking = re.compile(r"target\.platform (==|!=|in|not in) ")
    assert not [path for path in root.rglob("*.py") if asking.search(path.read_text())]


def test_a_stand_in_is_a_platform_like_others_and_leaves_again() -> None:
    npu = replace(target_for("gpu"), platform="npu", names=("neuron",))
    with stand_in(npu):
        assert target_for("npu") is target_for("neuron") is npu
        assert lowering_platform("npu") == "neuron"
    with pytest.raises(ConfigError, match="unknown"):
        target_for("npu")
