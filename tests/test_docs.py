"""The pages: what they show runs, every public name has an example, and no link inside them is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hire_compiler as hire

ROOT = Path(hire.__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
RECORDS = [page for page in PAGES if re.match(r"\d{4}-", page.name)]  # of decisions
WRITTEN = [ROOT / "README.md", *(page for page in PAGES if page not in RECORDS)]
RUN = re.compile(r"<!-- run -->\n+```python\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
FENCED = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
SHOWN = [page for page in PAGES if RUN.search(page.read_text())]
REFERENCE = [page for page in PAGES if page.parent.name == "reference"]
NEEDED = ("flax", "equinox", "matplotlib")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    heads = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.slow  # each compiles a few programs: a minute together
@pytest.mark.parametrize("page", SHOWN, ids=named)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = RUN.findall(page.read_text())
    for module in NEEDED:
        if any(f"import {module}" in block or f"from {module}" in block for block in blocks):
            pytest.importorskip(module)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, named(page), "exec"), namespace)


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_python_on_a_page_is_python(page: Path) -> None:
    for block in PYTHON.findall(page.read_text()):
        compile(block, named(page), "exec")


def test_every_public_name_has_an_example_that_runs() -> None:
    code = "".join(block for page in REFERENCE for block in RUN.findall(page.read_text()))
    missing = [name for name in hire.__all__ if not re.search(rf"\bhire\.{name}\b", code)]
    assert not missing


def test_every_public_name_has_a_place_in_the_reference() -> None:
    text = "".join(page.read_text() for page in REFERENCE)
    missing = [name for name in hire.__all__ if f"::: hire_compiler.{name}\n" not in text and name != "__version__"]
    assert not missing


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_links_inside_the_pages_lead_somewhere(page: Path) -> None:
    check_links(page)


def check_links(page: Path) -> None:
    for target, anchor in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"\w+:", target):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{named(page)} links {target}"
        assert not anchor or anchor in anchors(found), f"{named(page)} links {target}#{anchor}"


def test_every_decision_has_its_number_date_and_row() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    numbers = [int(page.name[:4]) for page in RECORDS]
    assert len(set(numbers)) == len(numbers) > 100
    for number, page in zip(numbers, RECORDS, strict=True):
        check_links(page)
        title, _, dated = page.read_text().splitlines()[:3]
        assert title.startswith(f"# {number}. "), title
        assert re.match(r"Date: \d{4}-\d{2}-\d{2}\. Context: .+\.$", dated), dated
        assert f"| {number} | [{title.split('. ', 1)[1]}]({page.name})" in index


def test_the_site_has_every_page() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page not in RECORDS}
    assert pages == listed
