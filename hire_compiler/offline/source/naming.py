"""Which tensor of a weights file is which argument of the program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hire_compiler.errors import WeightError
from hire_compiler.offline.disk.tensors import Tensors, TensorSpec
from hire_compiler.offline.source.source import Source

_INDEX = re.compile(r"(?:arg_?|arr_)?(\d+)")  # 7, arg7, arr_7 (what np.savez writes)


def assign(source: Source, weights: Tensors, mapping: Mapping[str, str] | None = None) -> dict[int, str]:
    """From leaves of a program to the tensors that hold their values; see :func:`match_names`."""
    return match_names(
        source.name, source.names, [TensorSpec(*type_) for type_ in source.types], weights, mapping or {}
    )


def assign_names(sources: Mapping[str, TensorSpec], weights: Tensors, mapping: Mapping[str, str]) -> Tensors:
    """The tensors of a file under the names that an artifact has for its model's weights.

    Raises:
      WeightError: as :func:`match_names`.
    """
    names, types = list(sources), list(sources.values())
    if set(names) <= set(weights.specs) and not mapping:
        return weights.renamed({name: name for name in names})
    if not names:
        return weights
    chosen = match_names("the artifact", names, types, weights, mapping)
    return weights.renamed({names[leaf]: tensor for leaf, tensor in chosen.items()})


def match_names(
    owner: str, names: Sequence[str], types: Sequence[TensorSpec], weights: Tensors, mapping: Mapping[str, str]
) -> dict[int, str]:
    """From arguments, by their position in ``names``, to the tensors that hold their values.

    A tensor belongs to the argument whose name it has: exactly (``params['layers'][0]['w']``), dotted
    (``params.layers.0.w``), or dotted without the first part (``layers.0.w``); or by position (``7``, ``arg7``,
    ``arr_7``) if none of the tensors has a name.

    Args:
      owner: whose arguments they are, for messages.
      names, types: of the arguments.
      weights: the tensors.
      mapping: for what names do not settle, from arguments (name, dotted name or position) to tensors.

    Raises:
      WeightError: a name fits nothing or several things, or shapes or dtypes differ.
    """
    spellings = _spellings(names)
    chosen: dict[int, str] = {}
    for argument, tensor in mapping.items():
        leaf = _find(argument, spellings, len(names))
        if leaf is None:
            raise WeightError(f"the map names {argument!r}, which is no argument of {owner}: {_some(names)}")
        if tensor not in weights.specs:
            raise WeightError(
                f"the map names the tensor {tensor!r}, which is not in {weights.origin}: {_some(weights.specs)}"
            )
        chosen[leaf] = tensor
    by_position = bool(weights.specs) and all(_INDEX.fullmatch(name) for name in weights.specs)
    taken = set(chosen.values())
    for tensor in weights.specs:
        if tensor in taken:
            continue
        leaf = _find(tensor, spellings, len(names), positions=by_position)
        if leaf is None:
            continue
        if leaf in chosen and chosen[leaf] not in mapping.values():
            raise WeightError(f"both {chosen[leaf]!r} and {tensor!r} of {weights.origin} fit {names[leaf]}")
        chosen.setdefault(leaf, tensor)
    if not chosen:
        raise WeightError(
            f"no tensor of {weights.origin} has the name of an argument: tensors {_some(weights.specs)}; arguments "
            f"{_some(names)}; say which is which with a map (argument = tensor)"
        )
    for leaf, tensor in chosen.items():
        check_type(names[leaf], types[leaf], tensor, weights)
    return chosen


def check_type(name: str, wanted: TensorSpec, tensor: str, weights: Tensors) -> None:
    """Refuse a tensor whose type is not that of its argument.

    Raises:
      WeightError: says which, and both types.
    """
    found = weights.specs[tensor]
    if found == wanted:
        return
    turned = " (it is the transpose)" if found.shape == wanted.shape[::-1] != wanted.shape else ""
    raise WeightError(f"{name} is {wanted}, but the tensor {tensor!r} of {weights.origin} is {found}{turned}")


def _spellings(names: Sequence[str]) -> dict[str, int | None]:
    """Every way to write the name of a leaf; None where two leaves share it."""
    found: dict[str, int | None] = {}
    for leaf, name in enumerate(names):
        dotted = ".".join(part for part in re.split(r"[\[\]'\".]+", name) if part)
        for spelling in {name, dotted, dotted.partition(".")[2]} - {""}:
            found[spelling] = None if spelling in found else leaf
    return found


def _find(name: str, spellings: Mapping[str, int | None], count: int, positions: bool = True) -> int | None:
    if name in spellings:
        leaf = spellings[name]
        if leaf is None:
            raise WeightError(f"{name!r} is the name of several arguments: write it out with its first part")
        return leaf
    match = _INDEX.fullmatch(name) if positions else None
    return int(match[1]) if match and int(match[1]) < count else None


def _some(names: Sequence[str] | Mapping[str, TensorSpec]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f", … ({len(listed)} in all)" if len(listed) > 5 else "")
