"""Golden files: what each pass does to hand-written StableHLO, compared whole."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
from golden import FOLDER, PASSES, Malformed, Pass, parse, retell
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler import _mlir
from hire_compiler.passes.normalize import normalize

STORIES = [pytest.param(stage, path, id=f"{stage}/{path.stem}") for stage, path in golden.stories()]


@pytest.mark.parametrize(("stage", "path"), STORIES)
def test_the_pass_tells_the_story_of_the_file(stage: str, path: Path, request: pytest.FixtureRequest) -> None:
    assert path.suffix == ".mlir"
    update = request.config.getoption("--update-golden")
    story = parse(path.read_text(), PASSES[stage], told=not update)
    now = retell(story, PASSES[stage])
    if update:
        path.write_text(str(now))
    assert str(now) == str(parse(path.read_text(), PASSES[stage], told=True))


@pytest.mark.parametrize("path", sorted((FOLDER / "normalize").glob("*.mlir")), ids=lambda path: path.stem)
def test_normalizing_never_changes_what_a_module_computes(path: Path, rng: np.random.Generator) -> None:
    text = parse(path.read_text(), PASSES["normalize"], told=True).sections["input"]
    with _mlir.fresh_context():
        before, after = _mlir.parse(text), _mlir.parse(text)
        normalize(after)
        arguments = [_random(type_, rng) for type_ in _mlir.main_function(before).type.inputs]
        wanted, got = hlo.eval_module(before, arguments), hlo.eval_module(after, arguments)
        assert len(wanted) == len(got)
        for one, other in zip(wanted, got):
            np.testing.assert_array_equal(np.array(one), np.array(other))
            assert np.ptp(np.array(one)) > 0  # the module is not degenerate


def _random(type_: ir.Type, rng: np.random.Generator) -> ir.Attribute:
    shape, dtype = _mlir.tensor_type(type_)
    assert dtype == "float32"
    return ir.DenseElementsAttr.get(rng.normal(size=shape).astype(np.float32))


# --------------------------------------------------------------------------- the harness itself

_ECHO = Pass(("input",), ("output",), lambda given: {"output": given["input"].upper()})
_GOOD = "// A story.\n\n// ===== input\nabc\n\n// ===== output\nABC\n"


def test_a_whole_file_survives_a_round_trip() -> None:
    assert str(retell(parse(_GOOD, _ECHO, told=True), _ECHO)) == _GOOD


def test_a_changed_output_is_noticed() -> None:
    story = parse(_GOOD.replace("ABC", "ABD"), _ECHO, told=True)
    assert str(retell(story, _ECHO)) != str(story)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(_GOOD.replace("// A story.", ""), "say in a comment", id="no opening"),
        pytest.param(_GOOD.replace("// A story.", "module {}"), "other than comments", id="code above the sections"),
        pytest.param(_GOOD.replace("abc\n", ""), "'input' is empty", id="empty input"),
        pytest.param(_GOOD.replace("ABC\n", ""), "'output' is empty", id="empty output"),
        pytest.param(_GOOD.replace("input", "inptu"), "'inptu' is of no use", id="misspelled section"),
        pytest.param(_GOOD + "\n// ===== config\nConfig()\n", "'config' is of no use", id="unused section"),
        pytest.param(_GOOD + "\n// ===== input\nabc\n", "'input' stands twice", id="repeated section"),
        pytest.param("// A story.\n\n// ===== output\nABC\n", "'input' is missing", id="no input"),
        pytest.param("// A story.\n\n// ===== input\nabc\n", "--update-golden", id="no output"),
    ],
)
def test_a_malformed_file_fails_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(Malformed, match=complaint):
        parse(text, _ECHO, told=True)


def test_every_pass_has_stories_and_every_story_a_pass() -> None:
    assert {stage for stage, _ in golden.stories()} == set(PASSES)


def test_an_output_section_may_be_missing_only_while_it_is_written() -> None:
    story = parse("// A story.\n\n// ===== input\nabc\n", _ECHO, told=False)
    assert str(retell(story, _ECHO)) == _GOOD
