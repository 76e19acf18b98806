"""``docs/rewrites.md``: a page of the first sentences of all golden stories, written by ``pytest --update-golden``."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from tests.support import golden

PAGE = Path(__file__).parents[2] / "docs" / "rewrites.md"

_OPENING = """\
# What the compiler does to your graph

One line a story. `splice/ffn_gated` is the file `tests/golden/splice/ffn_gated.mlir`: a small module, the report, and
the module after the pass. The tests compare these files whole; `pytest tests/test_golden.py --update-golden` writes
what the compiler does now, and this page from their first sentences.
"""

_CHAPTERS = {
    "specialize": ("Specialize an export", "What an exported module leaves open is decided, before anything reads it."),
    "normalize": ("Normalize", "Your module is brought into one form. What it computes does not change."),
    "detect": ("Detect", "Products with weights become sites, or misses with a reason."),
    "plan": ("Plan", "For every site: what is done with it, and why."),
    "splice ffn": ("Splice: feed-forward blocks", "A block becomes a call that reads the neurons that matter."),
    "splice head": ("Splice: heads", "The product with the vocabulary becomes a call that reads the rows that matter."),
    "splice experts": ("Splice: experts", "The sum over all experts becomes a call that reads those that were chosen."),
    "splice dense": ("Splice: what stays dense", "No site, but a form that its platform reads faster."),
    "splice sharded": ("Splice: several devices", "Every device chooses among its own rows (DaT-Top-k)."),
    "verify": ("Verify", "No branch may hold an exchange between devices that some of them could skip."),
}


def index() -> str:
    """The page, from the golden files as they are now."""
    told = sorted((_chapter(stage, path), path) for stage, path in golden.stories())
    parts = [_OPENING]
    for chapter, entries in groupby(told, key=lambda entry: entry[0]):
        title, line = list(_CHAPTERS.values())[chapter]
        parts.append(f"## {title}\n\n{line}\n\n" + "".join(_line(path) for _, path in entries))
    return "\n".join(parts)


def _chapter(stage: str, path: Path) -> int:
    prefix = path.stem.partition("_")[0]
    return list(_CHAPTERS).index(f"{stage} {prefix}" if stage == "splice" else stage)


def _line(path: Path) -> str:
    return f"- `{path.parent.name}/{path.stem}`: {first_sentence(path.read_text())}\n"


def first_sentence(text: str) -> str:
    """Of the comment above a story."""
    opening = " ".join(line.removeprefix("//").strip() for line in text.split("\n\n", 1)[0].splitlines())
    return re.split(r"(?<=[.!?]) (?=[A-Z\"`(])", opening, maxsplit=1)[0]
