"""Golden files: what each pass does to hand-written StableHLO, compared whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler import _mlir
from hire_compiler.passes.normalize.normalize import normalize
from tests.support import golden
from tests.support.golden import FOLDER, PASSES, Malformed, Pass, Setting, parse, retell
from tests.support.golden_index import PAGE, first_sentence, index
from tests.support.golden_text import print_spliced

# The interpreter of StableHLO has no devices to exchange with: it aborts the process.
EVALUATED = [path for path in sorted((FOLDER / "normalize").glob("*.mlir")) if "all_reduce" not in path.read_text()]
LONGEST = 70  # lines
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


def test_the_index_of_all_stories_is_up_to_date(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PAGE.write_text(index())
    assert PAGE.read_text() == index(), "run pytest tests/test_golden.py --update-golden"


@pytest.mark.parametrize(("stage", "path"), STORIES)
def test_a_story_is_short(stage: str, path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST, f"{len(lines)} lines: make its input smaller, or print heads only (bodies: heads)"


@pytest.mark.parametrize("path", EVALUATED, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("line", ["platform: abacus", "devices: 3", "platforms: tpu", "tpu"])
def test_a_setting_that_there_is_not_is_refused(line: str) -> None:
    with pytest.raises(Malformed, match="is no setting; there are platform: cpu, gpu, tpu"):
        Setting.parse(line)


def test_a_setting_says_platform_and_devices() -> None:
    assert Setting.parse("platform: tpu\ndevices: 8") == Setting(platform="tpu", devices=8)


def test_a_section_that_may_be_missing_is_read_where_it_stands() -> None:
    stage = Pass(("input",), ("output",), lambda given: {"output": given.get("setting", "none")}, ("setting",))
    with_it = "// A story.\n\n// ===== input\nabc\n\n// ===== setting\nloud\n\n// ===== output\nloud\n"
    without = "// A story.\n\n// ===== input\nabc\n\n// ===== output\nnone\n"
    assert [str(retell(parse(text, stage, told=True), stage)) for text in (with_it, without)] == [with_it, without]


def test_the_first_sentence_ends_at_a_full_stop_before_a_new_one() -> None:
    assert first_sentence("// It reads 0.5 of\n// them (e.g. rows). Then it stops.\n\ncode") == (
        "It reads 0.5 of them (e.g. rows)."
    )


_STEP = """
func.func public @main(%x: tensor<2x2xi8>, %n: tensor<i32>) -> tensor<2x2xi8> {
  %0 = func.call @hire_site(%x, %n) : (tensor<2x2xi8>, tensor<i32>) -> tensor<2x2xi8>
  return %0 : tensor<2x2xi8>
}
func.func private @hire_site(%x: tensor<2x2xi8>, %n: tensor<i32>) -> tensor<2x2xi8> {
  %0 = "stablehlo.case"(%n) ({
    %1 = func.call @twice(%x) : (tensor<2x2xi8>) -> tensor<2x2xi8>
    stablehlo.return %1 : tensor<2x2xi8>
  }, {
    stablehlo.return %x : tensor<2x2xi8>
  }) : (tensor<i32>) -> tensor<2x2xi8>
  return %0 : tensor<2x2xi8>
}
func.func private @twice(%x: tensor<2x2xi8>) -> tensor<2x2xi8> {
  %0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [0] : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi8>
  %1 = stablehlo.dot_general %0, %x, contracting_dims = [1] x [0] : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi8>
  return %1 : tensor<2x2xi8>
}
"""


def test_an_outline_follows_calls_and_branches() -> None:
    with _mlir.fresh_context():
        text = print_spliced(_mlir.parse(_STEP), "outlined")
    assert text.endswith("""{
    … case {
      … dot_general 2x2xi8, 2x2xi8 → 2x2xi8  ×2
    … } { }
  }
}""")
    assert "@twice" not in text


@pytest.mark.parametrize(
    ("bodies", "told"), [("whole", "stablehlo.case"), ("whole", "@twice("), ("heads", "@hire_site")]
)
def test_bodies_are_printed_as_the_setting_asks(bodies: str, told: str) -> None:
    with _mlir.fresh_context():
        assert told in print_spliced(_mlir.parse(_STEP), bodies)
