"""Plain trees: what a program takes and returns as nested dicts and tuples, whatever it was exported with.

A custom pytree node (a named tuple, a dataclass, a module's state) can only be read where its class is
registered. An artifact runs anywhere, so its trees are rebuilt from the paths of their leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from hire_compiler.errors import CaptureError

Path = tuple[str | int, ...]


def leaf_paths(tree: Any) -> list[Path]:
    """The path to every leaf of a tree structure: names in dicts and attributes, numbers in sequences."""
    dummy = jax.tree.unflatten(tree, range(tree.num_leaves))
    return [tuple(_key(key) for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(dummy)[0]]


def _key(key: Any) -> str | int:
    for attribute in ("idx", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key.key if isinstance(key, jax.tree_util.FlattenedIndexKey) else str(key.key)


def nest(paths: Sequence[Path], values: Sequence[Any]) -> Any:
    """The plain tree with these values at these paths; a place of a tuple without any leaf holds None.

    Raises:
      CaptureError: two leaves have the same path once it is plain.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if list(paths).count(path) > 1)
        raise CaptureError(f"two arguments are both called {dotted(twice)} in a plain tree: rename one")
    if list(paths) == [()]:
        return values[0]
    groups: dict[str | int, list[tuple[Path, Any]]] = {}
    for path, value in zip(paths, values, strict=True):
        groups.setdefault(path[0], []).append((path[1:], value))
    built = {key: nest([p for p, _ in group], [v for _, v in group]) for key, group in groups.items()}
    numbers = [key for key in built if isinstance(key, int)]
    if len(numbers) == len(built):
        return tuple(built.get(i) for i in range(max(numbers, default=-1) + 1))
    return {str(key): value for key, value in built.items()}


def pick(tree: Any, path: Path) -> Any:
    """What a plain tree holds at a path."""
    for key in path:
        tree = tree[key]
    return tree


def dotted(path: Path) -> str:
    """A path as one name: ``params.layers.0.w``."""
    return ".".join(str(key) for key in path)
