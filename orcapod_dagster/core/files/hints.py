"""`File` and `Directory`, and where in a type, and in an array of it, such paths stand."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.casting import item_rows, list_array, list_parts, map_array, map_parts
from orcapod_dagster.core.converter import field_hint, split_optional, unaliased
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.files.digests import Kind

# The markers are plain text, so that a function annotated with them reaches workers that lack this package.
File: TypeAlias = Annotated[Path, "orcapod.file"]
"""A path to a file that counts by its bytes. The function receives a `Path`; in Arrow it is a string."""

Directory: TypeAlias = Annotated[Path, "orcapod.directory"]
"""A path to a directory that counts by what is below it: names, structure, and the bytes of the files."""

_KINDS: Final[dict[str, Kind]] = {"orcapod.file": "file", "orcapod.directory": "directory"}

Leaf: TypeAlias = Callable[[pa.Array, Kind, pa.Array], pa.Array]
"""(paths, what they are declared as, the row of each) → the array in their place."""


def path_kind(hint: Any) -> Kind | None:
    """Return what a type declares a path to be, or `None` for any other type."""
    hint = unaliased(hint)
    if get_origin(hint) is not Annotated:
        return None
    return next((_KINDS[mark] for mark in get_args(hint)[1:] if isinstance(mark, str) and mark in _KINDS), None)


def holds_paths(hint: Any) -> bool:
    """Tell whether a type is, or has somewhere inside, a `File` or `Directory`."""
    return path_kind(hint) is not None or any(map(holds_paths, _inner(hint)))


def _inner(hint: Any) -> tuple[Any, ...]:
    hint = unaliased(hint)
    if _is_record(hint):
        return tuple(map(field_hint, typing.get_type_hints(hint, include_extras=True).values()))
    return get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)


def _is_record(hint: Any) -> bool:
    if not isinstance(hint, type) or get_origin(hint) is not None:
        return False
    return dataclasses.is_dataclass(hint) or typing.is_typeddict(hint) or hasattr(hint, "_fields")


def file_columns(schema: Mapping[str, Any], owner: str = "") -> tuple[str, ...]:
    """Return the columns that hold paths of files or directories, also inside lists, map values and records.

    Raises:
        DefinitionError: a column holds them where content cannot stand for a path: in a set, or as the key of a map.
    """
    names = tuple(name for name, hint in schema.items() if holds_paths(hint))
    for name in names:
        if not _countable(schema[name]):
            raise DefinitionError(
                f"{owner + ', ' if owner else ''}column {name!r}: {schema[name]} holds files where they cannot count by "
                "their content. Use them alone, in lists, tuples and values of dicts, or as fields of records."
            )
    return names


def _countable(hint: Any) -> bool:
    plain = unaliased(split_optional(hint)[0])
    if path_kind(plain) is not None or not holds_paths(plain):
        return True
    origin = get_origin(plain)
    if origin is dict and holds_paths(get_args(plain)[0]):
        return False
    return (origin in (list, tuple, dict, Annotated) or _is_record(plain)) and all(map(_countable, _inner(plain)))


def replace_paths(array: pa.Array, hint: Any, rows: pa.Array, leaf: Leaf) -> pa.Array:
    """Rebuild an array with every array of paths inside it replaced; nulls stay.

    Args:
        array: of the hint's Arrow type.
        hint: one that `file_columns` has nothing against.
        rows: the row that each value belongs to, `int64`.
        leaf: makes what stands in the place of paths.
    """
    plain = unaliased(split_optional(hint)[0])
    kind = path_kind(plain)
    if kind is not None:
        return leaf(array, kind, rows)
    if not holds_paths(plain):
        return array
    if get_origin(plain) is Annotated:
        return replace_paths(array, get_args(plain)[0], rows, leaf)
    if pa.types.is_struct(array.type):
        hints = _field_hints(plain, array.type)
        parts = [replace_paths(part, h, rows, leaf) for part, h in zip(array.flatten(), hints, strict=True)]
        fields = [pa.field(field.name, part.type) for field, part in zip(array.type.fields, parts, strict=True)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=array.is_null())
    return _replace_in_items(array, get_args(plain), rows, leaf)


def _field_hints(plain: Any, struct: Any) -> list[Any]:
    if get_origin(plain) is tuple:
        return list(get_args(plain))
    hints = typing.get_type_hints(plain, include_extras=True)
    return [field_hint(hints[field.name]) for field in struct.fields]


def _replace_in_items(array: pa.Array, args: tuple[Any, ...], rows: pa.Array, leaf: Leaf) -> pa.Array:
    """Rebuild a list, or a map with its keys as they are."""
    if pa.types.is_map(array.type):
        lengths, keys, items = map_parts(array)
        found = replace_paths(items, args[1], rows.take(item_rows(lengths)), leaf)
        return map_array(lengths, keys, found, pa.map_(keys.type, found.type))
    lengths, items = list_parts(array)
    found = replace_paths(items, args[0], rows.take(item_rows(lengths)), leaf)
    return list_array(lengths, found, pa.list_(found.type))
