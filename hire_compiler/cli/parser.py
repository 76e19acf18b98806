"""The options of every verb. Nothing heavy is imported here, so that ``--help`` and typing errors are instant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from hire_compiler.cli.examples import EXAMPLES
from hire_compiler.cli.options import (
    MODEL,
    add_artifact,
    add_calls,
    add_dims,
    add_full,
    add_model,
    add_output,
    add_sampler,
    add_trials,
    add_weights,
    count,
    share,
)
from hire_compiler.version import __version__

EPILOG = """\
a model that came as a file, from there to tokens:
  hire-compiler inspect   model.jax_export
  hire-compiler rewrite   model.jax_export --weights model.safetensors -o model.hire
  hire-compiler verify    model.hire --original model.jax_export --weights model.safetensors
  hire-compiler run       model.hire --inputs inputs.npz -o outputs.npz

a file alone is inspected (a model) or reported (an artifact): hire-compiler model.mlir
hire-compiler VERB --help has examples of each; --json prints what a program can read
everything runs on the CPU unless JAX_PLATFORMS says otherwise
exit codes: 0 done, 1 verify found an artifact that is not what it calls itself, 2 bad input (one line says which),
130 interrupted
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=120)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose examples stay as they are written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "formatter_class": _Help})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"hire-compiler: {' '.join(message.split())} (see {self.prog} --help)\n")


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="hire-compiler",
        description="Sparse LLM decoding by rewriting the lowered graph of an exported model.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hire-compiler {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    _inspect(verbs)
    _calibrate(verbs)
    _rewrite(verbs)
    _prepare(verbs)
    _upgrade(verbs)
    _run(verbs)
    _verify(verbs)
    _adapt(verbs)
    _compare(verbs)
    _tune(verbs)
    _estimate(verbs)
    _report(verbs)
    return parser


def with_verb(arguments: Sequence[str]) -> list[str]:
    """The arguments with the verb that is meant where there is none: a model is inspected, an artifact reported."""
    given = list(arguments)
    if not given or given[0].startswith("-") or given[0] in EXAMPLES:
        return given
    path = Path(given[0])
    if not (path.exists() or path.suffix):
        return given  # a typing error in a verb
    artifact = path.suffix == ".hire" or path.is_dir()
    return ["report" if artifact else "inspect", *given]


def _verb(verbs: Any, name: str, summary: str, description: str) -> Any:
    examples = "\n".join(f"  hire-compiler {name} {example}" for example in EXAMPLES[name])
    verb = verbs.add_parser(
        name, help=summary, description=fill(description, 110), epilog=f"examples:\n{examples}", allow_abbrev=False
    )
    verb.add_argument("--json", action="store_true", help="print JSON instead of text")
    return verb


def _inspect(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "inspect",
        "say which sites a lowered model has, and why the others are none",
        "Find feed-forward blocks and LM heads in a lowered model; needs neither weights nor a device.",
    )
    verb.add_argument("file", type=Path, help=MODEL)
    add_full(verb)
    add_dims(verb)


def _calibrate(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "calibrate",
        "learn from real inputs what predictors and plans need",
        "Run the model on real inputs; keep the second moments of its sites' inputs, and which neurons were active.",
    )
    add_model(verb)
    add_calls(verb)
    verb.add_argument("--kind", choices=("head", "ffn"), help="probe only these sites")
    verb.add_argument("--rules", type=Path, metavar="TOML", help="try the predictors of these rules on the inputs")
    verb.add_argument(
        "--strongest",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of activations without exact zeros, the share of neurons that counts as active (default: %(default)s)",
    )
    add_output(verb, "the calibration (safetensors)")


def _rewrite(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "rewrite",
        "make an artifact that runs without this package",
        "Rewrite a model, prepare its weights, and write both as an artifact: one file if its name ends with .hire, "
        "else a directory. Without rules only what is provably exact is done.",
    )
    add_model(verb)
    add_output(verb, "the artifact; NAME.hire makes one file, any other name a directory")
    verb.add_argument("--rules", type=Path, metavar="TOML", help="rules, and a [map] of argument names to tensor names")
    verb.add_argument("--calibration", type=Path, metavar="FILE", help="what calibrate wrote")
    verb.add_argument(
        "--platform",
        action="append",
        metavar="NAME",
        help="cpu, cuda, rocm or tpu; give it again for more (default: cpu and tpu as far as the export allows)",
    )
    verb.add_argument(
        "--parameters",
        default="",
        metavar="REGEX",
        help="arguments so named are weights, given later",
    )
    add_sampler(verb)
    verb.add_argument("--force", action="store_true", help="replace an artifact that stands there")


def _prepare(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "prepare",
        "prepare weights for an artifact that has none, or new ones",
        "Prepare the model's weights for an artifact and store them in it.",
    )
    add_artifact(verb)
    add_weights(verb, required=True)
    verb.add_argument("-o", "--output", type=Path, metavar="PATH", help="write a new artifact, leave this one")
    verb.add_argument("--new-weights", action="store_true", help="accept other numbers than it was first prepared from")
    verb.add_argument("--force", action="store_true", help="replace an artifact that stands at --output")


def _upgrade(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "upgrade",
        "write an artifact's programs anew for this JAX",
        "Export the programs of an artifact anew, from the portable StableHLO that it keeps: JAX loads its own exports "
        "for six months, the portable form for five years. Weights, plan and report stay as they are.",
    )
    add_artifact(verb)
    verb.add_argument("-o", "--output", type=Path, metavar="PATH", help="write a new artifact, leave this one")
    verb.add_argument("--force", action="store_true", help="replace an artifact that stands at --output")


def _run(verbs: Any) -> None:
    verb = _verb(verbs, "run", "run an artifact", "Run the step of an artifact on given or random inputs.")
    add_artifact(verb)
    verb.add_argument("--inputs", type=Path, metavar="FILE", help="npz or safetensors (default: random inputs)")
    verb.add_argument("--seed", type=count(0), default=0, help="of random inputs (default 0)")
    verb.add_argument("--repeat", type=count(1), default=1, metavar="N", help="run N times and say the median time")
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the results (safetensors, or FILE.npz)")


def _verify(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "verify",
        "compare an artifact with its original",
        "Run an artifact and its original on the same inputs: largest error, agreeing tokens, recall, certificates. "
        "Exits with 1 if the artifact is not as near as it was planned to be, with 2 if the weights are not its own.",
    )
    add_artifact(verb)
    verb.add_argument("--original", type=Path, required=True, metavar="FILE", help=MODEL)
    add_weights(verb)
    add_dims(verb)
    add_trials(verb)
    verb.add_argument(
        "--tolerance",
        type=share,
        metavar="X",
        help="allow float errors up to X times the largest value (default: what rounding explains if the artifact is "
        "exact or certified, else the error it was planned with)",
    )
    verb.add_argument(
        "--agreement",
        type=share,
        metavar="X",
        help="be content if this share of integers agrees (default: all of an exact or certified artifact, else 0.9)",
    )
    verb.add_argument("--time", action="store_true", help="also run both in turns, and say how fast each is")


def _adapt(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "adapt",
        "run an artifact on real inputs, and mend what does not pay",
        "Count on the inputs of some calls (64 or more say enough) how often proofs hold and how many neurons are "
        "active; give blocks the budgets that they need, leave dense what does not pay, and write the artifact anew. "
        "Results stay as they are, and so does what a rule asked for. The report says what was changed.",
    )
    add_artifact(verb)
    verb.add_argument("--original", type=Path, required=True, metavar="FILE", help=MODEL)
    add_weights(verb)
    add_dims(verb)
    add_calls(verb)
    verb.add_argument("--calibration", type=Path, metavar="FILE", help="what it was made with, if it was with one")
    verb.add_argument("-o", "--output", type=Path, metavar="PATH", help="write a new artifact, leave this one")
    verb.add_argument("--force", action="store_true", help="replace an artifact that stands at --output")


def _compare(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "compare",
        "say how much faster a model would be, and how its results would differ",
        "Rewrite a model in memory, run it and the original in turns on the same inputs, and print times, differences, "
        "proofs, bytes and memory; nothing is written. Without rules only what is provably exact is done.",
    )
    add_model(verb)
    verb.add_argument("--rules", type=Path, metavar="TOML", help="rules, and a [map] of argument names to tensor names")
    verb.add_argument("--calibration", type=Path, metavar="FILE", help="what calibrate wrote")
    add_trials(verb)
    verb.add_argument("--picture", type=Path, metavar="FILE", help="draw it too: .svg, .png or .pdf (extra plot)")
    add_sampler(verb)


def _tune(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "tune",
        "choose, by measuring, the fastest rules that meet a budget",
        "Try predictors on a model's heads and blocks with held-out inputs of a forward pass, time them here, and "
        "write the rules to take, with the calibration that they need beside them (rules.safetensors).",
    )
    add_model(verb)
    verb.add_argument(
        "--forward", type=Path, required=True, metavar="FILE", help="a batched forward pass with the same weights"
    )
    verb.add_argument(
        "--inputs",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="each holds the inputs of one call of the forward pass; the first half calibrates",
    )
    budget = verb.add_mutually_exclusive_group(required=True)
    budget.add_argument("--recall", type=share, metavar="SHARE", help="of what the program reads, such as 0.999")
    budget.add_argument("--loss", type=share, metavar="SHARE", help="by which the loss may rise, such as 0.005")
    verb.add_argument("--memory", type=count(0), metavar="BYTES", help="that all sites together may add (default: any)")
    verb.add_argument("--picture", type=Path, metavar="FILE", help="draw it too: .svg, .png or .pdf (extra plot)")
    add_output(verb, "the rules (TOML)")


def _estimate(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "estimate",
        "estimate an artifact on a TPU that is not there",
        "Compile the artifact's TPU step, and with --original the dense program too, with the TPU compiler (extra "
        "'tpu'), and add up cycles and HBM bytes. An estimate by the compiler, not a measurement.",
    )
    add_artifact(verb)
    verb.add_argument("--original", type=Path, metavar="FILE", help=MODEL)
    add_dims(verb)
    verb.add_argument("--tpu", default="v5e:2x2", metavar="TOPOLOGY", help="default v5e:2x2, of which one chip is used")


def _report(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "report",
        "say what an artifact is and what was done to it",
        "Print the report of the rewrite, or draw it.",
    )
    add_artifact(verb)
    add_full(verb)
    verb.add_argument("--picture", type=Path, metavar="FILE", help="draw it too: .svg, .png or .pdf (extra plot)")
