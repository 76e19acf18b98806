"""The prose that comes with the examples: one text to calibrate on, another to judge by.

Both were written for this purpose. They share no topic, so figures on the held-out text say how
well something carries over.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent.parent / "text"


def calibration_text() -> str:
    """About 3600 tokens of ordinary prose to collect statistics on."""
    return (DIRECTORY / "calibration.txt").read_text(encoding="utf-8")


def heldout_text() -> str:
    """About 2600 tokens of prose on other topics, to measure on and never to calibrate on."""
    return (DIRECTORY / "heldout.txt").read_text(encoding="utf-8")


def prompts() -> list[str]:
    """Ten short beginnings to continue."""
    return (DIRECTORY / "prompts.txt").read_text(encoding="utf-8").splitlines()
