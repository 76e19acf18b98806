"""Messages say what to do in Python; here they say it in the words of the command line."""

from __future__ import annotations

import re

_LEARNED = "give what it learned (--calibration FILE)"
_WORDS = [
    (
        r"pass calibration=hire\.calibrate\(…, config=…\) with this rule among the config's",
        f"calibrate with these rules (hire-compiler calibrate … --rules RULES.toml), and {_LEARNED}",
    ),
    (
        r"pass calibration=hire\.calibrate\(…\) of feed-forward sites",
        f"calibrate the feed-forward sites (hire-compiler calibrate), and {_LEARNED}",
    ),
    (r"calibrate with hire\.calibrate\(…\)", f"calibrate (hire-compiler calibrate), and {_LEARNED}"),
    (r"use hire\.calibrate\b", f"calibrate (hire-compiler calibrate), and {_LEARNED}"),
    (r"hire\.compare\(step, …\) says it", "hire-compiler compare says it (or verify --time)"),
    (r"\(hire\.calibrate\)", "(hire-compiler calibrate)"),
    (r"Config\(dense_forms=True\)", "dense_forms = true in a file of rules"),
    (r"Config\(unused=\((.*?),?\)\) certifies", r"unused = [\1] in a file of rules certifies"),
    (r"\(Rule\(…, dense=True\)\)", "(dense = true)"),
    (r"report\.text\(full=True\) lists", "--full lists"),
    (r"fold the sampler in with hire\.with_sampler", "fold the sampler in (--sampler greedy)"),
    (r"hire\.inspect(\(…\))? says", "hire-compiler inspect says"),
    (r"rewrite the model with platforms=\('(\w+)', …\)", r"rewrite the model with --platform \1"),
    (r"give dims=\{…\} \(on the command line ([^)]*)\)", r"give \1"),
    (r"\(new=True, --new-weights\)", "(--new-weights)"),
    (r"give them \(weights=…\)", "give them (--weights FILE)"),
    (r"tune\(loss=…\)", "tune --loss"),
    (r"pass what hire\.calibrate returned", "give what hire-compiler calibrate wrote"),
]
_PATTERNS = [(re.compile(python), words) for python, words in _WORDS]


def on_the_command_line(message: str) -> str:
    """A message in the words of the command line."""
    for python, words in _PATTERNS:
        message = python.sub(words, message)
    return message
