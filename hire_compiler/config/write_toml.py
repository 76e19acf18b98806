"""A configuration as a TOML file of rules."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from hire_compiler.config.rules import Config
from hire_compiler.files.atomic import new_file


def write_rules(config: Config, path: Path) -> None:
    """Write a configuration as a TOML file of rules, which :func:`read_rules` reads; whole or not at all."""
    lines = [f"{f.name} = {_toml(value)}" for f, value in _changed(config) if f.name != "rules"]
    for rule in config.rules:
        lines += ["", "[[rule]]", *(f"{f.name} = {_toml(value)}" for f, value in _changed(rule))]
    with new_file(path) as temporary:
        temporary.write_text("\n".join(lines).strip() + "\n", "utf-8")


def _changed(of: Any) -> list[tuple[Field[Any], Any]]:
    """The fields of a configuration that are not as they are by default."""
    return [(f, getattr(of, f.name)) for f in fields(of) if f.default is MISSING or getattr(of, f.name) != f.default]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    parts = [f'type = "{type(value).__name__}"', *(f"{f.name} = {_toml(v)}" for f, v in _changed(value))]
    return f"{{ {', '.join(parts)} }}"
