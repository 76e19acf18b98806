"""Options that several verbs share, and the values that options take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

MODEL = "the exported model: StableHLO text or bytecode, a VHLO portable artifact, or a serialized jax.export"


def add_trials(verb: Any) -> None:
    """Inputs to try."""
    verb.add_argument("--inputs", type=Path, nargs="+", default=[], metavar="FILE", help="default: random")
    verb.add_argument("--trials", type=count(1), default=4, metavar="N", help="random inputs to try (default 4)")
    verb.add_argument("--seed", type=count(0), default=0, help="of random inputs (default 0)")


def add_model(verb: Any) -> None:
    """The model, its weights and sizes."""
    verb.add_argument("file", type=Path, help=MODEL)
    add_weights(verb)
    add_dims(verb)


def add_full(verb: Any) -> None:
    """Whether to leave nothing out."""
    verb.add_argument("--full", action="store_true", help="leave nothing out: every miss with its place")


def add_artifact(verb: Any) -> None:
    """The artifact."""
    verb.add_argument("artifact", type=Path, help="the artifact, a file or a directory")


def add_calls(verb: Any) -> None:
    """``--inputs``, one file a call."""
    verb.add_argument(
        "--inputs",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="each holds the inputs of one call: npz or safetensors",
    )


def add_weights(verb: Any, required: bool = False) -> None:
    """The model's weights, and which is which."""
    verb.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        required=required,
        metavar="FILE",
        help="safetensors (also shards, a directory or an index) or npz",
    )
    verb.add_argument(
        "--map",
        type=pair,
        action="append",
        default=[],
        metavar="ARGUMENT=TENSOR",
        help="which tensor is which argument (by name or position), where names do not say it",
    )


def add_sampler(verb: Any) -> None:
    """How to choose the next token."""
    group = verb.add_argument_group("sampler", "for a model that returns logits: fold in the choice of the next token")
    group.add_argument("--sampler", choices=("greedy", "top_k", "gumbel"), help="how to choose")
    group.add_argument("--logits", metavar="RESULT", help='which result holds them, as "[\'logits\']" or "[0]"')
    group.add_argument("-k", type=count(1), metavar="K", help="of top_k: how many tokens")
    group.add_argument("--temperature", metavar="T", help="of gumbel: a number, or 'input' for one given at run time")
    group.add_argument("--position", type=int, default=-1, metavar="N", help="whose logits, of several (default: last)")


def add_dims(verb: Any) -> None:
    """Sizes of symbolic dimensions."""
    verb.add_argument(
        "--dim", type=dimension, action="append", default=[], metavar="NAME=SIZE", help="size of a symbolic dimension"
    )


def add_output(verb: Any, what: str) -> None:
    """Where to write."""
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help=what)


# --------------------------------------------------------------------------- values


def pair(text: str) -> tuple[str, str]:
    """``ARGUMENT=TENSOR``."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not ARGUMENT=TENSOR")
    return name, value


def dimension(text: str) -> tuple[str, int]:
    """``NAME=SIZE``."""
    name, _, size = text.partition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SIZE with a size of at least 1")
    return name, int(size)


def count(least: int) -> Any:
    """A whole number of at least so many."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return parse


def share(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return value
