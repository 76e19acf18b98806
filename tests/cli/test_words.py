"""The command line speaks its own words, not Python's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hire_compiler
from hire_compiler.cli.words import on_the_command_line

ROOT = Path(hire_compiler.__file__).parent
ROOMS = ("authors", "calibration", "config", "offline", "passes", "patterns", "pictures")  # reached by the command line
PYTHON = re.compile(r"hire\.\w+|(calibration|platforms|config|dims|weights)=|new=True")
# What has to be done in Python, where the model is exported, or is only said there.
MEANT = (
    "export it with platforms=[…,",  # by the author
    "before the export, with hire.with_sampler(step, …)",
    "hire.transform(hire.with_sampler(step, …))",
    "hire.transform",
    "hire.Rule",
    "hire.Config",
    "hire.group_topk",
    "hire.tag",
    "hire.Plan",
)


def messages(path: Path) -> Iterator[str]:
    """Every text of a module that is no docstring; X stands for what is filled in."""
    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "'X'" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


@pytest.mark.parametrize("room", ROOMS)
def test_every_remedy_in_python_has_words_for_the_command_line(room: str) -> None:
    spoken = 0
    for path in sorted((ROOT / room).rglob("*.py")):
        for message in messages(path):
            if " " not in message or not PYTHON.search(message):
                continue
            said = on_the_command_line(message)
            for meant in MEANT:
                said = said.replace(meant, "")
            spoken += 1
            assert not PYTHON.search(said), (path.name, message)
    assert spoken > 0 or room == "patterns"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("rewrite the model with platforms=('tpu', …)", "rewrite the model with --platform tpu"),
        ("give dims={…} (on the command line --dim b=1)", "give --dim b=1"),
        (
            r'(if nobody reads it: Config(unused=("\\[0\\]", "b",)) certifies the head)',
            r'unused = ["\\[0\\]", "b"] in a file of rules certifies',
        ),
        ("say so (new=True, --new-weights)", "say so (--new-weights)"),
        ("hire.inspect(…) says what was found", "hire-compiler inspect says what was found"),
        ("leave certify out, or fold the sampler in with hire.with_sampler", "fold the sampler in (--sampler greedy)"),
        ("to measure: pass calibration=hire.calibrate(…, config=…) with this rule among the config's", "--rules RULES"),
    ],
)
def test_remedies_are_said_in_options(python: str, words: str) -> None:
    assert words in on_the_command_line(python)
