"""Rules from a TOML file: the same fields as ``hire.Rule`` and ``hire.Config``, checked the same way.

.. code-block:: toml

    exact = true                       # fields of Config

    [[rule]]                           # one table a rule, tried in order
    kind = "head"
    predictor = { type = "Quantized", bits = 8 }
    candidates = 128
    certify = "strict"

    [map]                              # which tensor of the weights file is which argument
    "params['embed']" = "model.embed_tokens.weight"
"""

from __future__ import annotations

import tomllib
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hire_compiler.config.predictors import Predictor
from hire_compiler.config.rules import Config, Kind, Rule
from hire_compiler.errors import ConfigError

_PREDICTORS = {kind.__name__: kind for kind in typing.get_args(Predictor)}


@dataclass(frozen=True)
class RulesFile:
    """What a rules file says: the configuration, and the names of the weights."""

    config: Config
    mapping: dict[str, str]


def read_rules(path: Path) -> RulesFile:
    """Read a TOML file of rules.

    Raises:
      ConfigError: it is no TOML, or a table, a field or a value is wrong; names it.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    try:
        return _rules(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _rules(content: dict[str, Any]) -> RulesFile:
    tables, mapping = content.pop("rule", []), content.pop("map", {})
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("rules are tables [[rule]], one for each")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise ConfigError('[map] gives a tensor\'s name for each argument: "params[\'w\']" = "model.w"')
    _known_fields(content, Config, {"rules", "plan"}, "the file")
    config = Config(rules=tuple(rule_from(table, f"rule {index}") for index, table in enumerate(tables)), **content)
    return RulesFile(config, mapping)


def rule_table(rule: Rule) -> dict[str, Any]:
    """A rule as a table that :func:`rule_from` reads; what is left at its default is left out."""
    told = {field.name: getattr(rule, field.name) for field in fields(Rule)}
    usual = {field.name: field.default for field in fields(Rule)}
    table = {name: value for name, value in told.items() if name == "kind" or value != usual[name]}
    return table | ({"predictor": _predictor_table(rule.predictor)} if rule.predictor else {})


def _predictor_table(predictor: Predictor) -> dict[str, Any]:
    told = {field.name: getattr(predictor, field.name) for field in fields(predictor) if field.name != "_"}
    nested = {name: _predictor_table(v) if type(v).__name__ in _PREDICTORS else v for name, v in told.items()}
    return {"type": type(predictor).__name__, **nested}


def rule_from(table: dict[str, Any], where: str) -> Rule:
    """A rule from a table of its fields.

    Raises:
      ConfigError: a field or a value is wrong; begins with ``where``.
    """
    _known_fields(table, Rule, set(), where)
    if "kind" not in table:
        raise ConfigError(f"{where} lacks kind: {', '.join(map(repr, typing.get_args(Kind)))}")
    values = {name: _predictor(value, where) if name == "predictor" else value for name, value in table.items()}
    try:
        return Rule(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: a value has the wrong type: {error}") from None


def _predictor(value: Any, where: str) -> Any:
    given = {"type": value} if isinstance(value, str) else value
    names = ", ".join(_PREDICTORS)
    if not isinstance(given, dict) or given.get("type") not in _PREDICTORS:
        raise ConfigError(f'{where}: predictor is {value!r}: write {{ type = "…", … }} with one of {names}')
    kind = _PREDICTORS[given["type"]]
    options = {name: _nested(option, where) for name, option in given.items() if name != "type"}
    _known_fields(options, kind, set(), f"{where}: {kind.__name__}")
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(f"{where}: {kind.__name__}: {error}") from None


def _nested(option: Any, where: str) -> Any:
    return _predictor(option, where) if isinstance(option, dict) and "type" in option else option


def _known_fields(given: dict[str, Any], kind: Any, without: set[str], where: str) -> None:
    known = [f.name for f in fields(kind) if f.name not in without]
    for name in given:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}; there are {', '.join(known)}")
