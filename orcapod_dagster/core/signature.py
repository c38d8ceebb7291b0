"""What a function's signature says about its packets, with everything refused at definition that cannot be right."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import converter
from orcapod_dagster.core.columns import refuse_reserved
from orcapod_dagster.core.errors import DefinitionError, UnsupportedTypeError
from orcapod_dagster.core.types import Schema

_VERSION: Final = re.compile(r"v?(\d+)\.(.+)")


def name_of(function: Callable[..., Any], given: str | None) -> str:
    """Return the canonical name of a function: what is given, or its own.

    Raises:
        DefinitionError: it has none.
    """
    name = given or getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise DefinitionError("A lambda has no name of its own. Give it one: function_name='...'.")
    return name


def parse_version(version: str, owner: str) -> tuple[int, str]:
    """Return major and minor version of `v<major>.<minor>`."""
    if not isinstance(version, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users give anything
        raise DefinitionError(f"{owner}: version={version!r} is no text. Give 'v<major>.<minor>', e.g. 'v1.0'.")
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{owner}: version {version!r} is not 'v<major>.<minor>', e.g. 'v1.0'. Give both numbers.")
    return int(match[1]), match[2]


def source_file(function: Callable[..., Any]) -> str | None:
    """Return the file that a function's code came from, if any."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else code.co_filename


def type_hints(function: Callable[..., Any], owner: str) -> dict[str, Any]:
    """Return the resolved type hints of a callable."""
    plain = inspect.unwrap(function)
    while isinstance(plain, functools.partial):
        plain = inspect.unwrap(plain.func)
    target = plain if inspect.isroutine(plain) else getattr(plain, "__call__", plain)  # noqa: B004  # its hints, not a test
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{owner}: a type hint names something unknown: {error}. Import it where the function is."
        ) from error


def given_schema(schema: Mapping[str, Any] | pa.Schema | None) -> Mapping[str, Any] | None:
    """Return a schema argument as a mapping; the fields of an Arrow schema stand for types."""
    if schema is None or not isinstance(schema, pa.Schema):
        return schema
    fields: list[pa.Field] = list(schema)
    return {field.name: field for field in fields}


def input_schema(
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    owner: str,
    no_columns: Collection[str] = (),
) -> Schema:
    """Return names and types of the parameters; those with a default are optional, and `no_columns` are left out.

    Raises:
        DefinitionError: a parameter has no hint, takes any number of values, or has a reserved name.
    """
    fields: dict[str, Any] = {}
    optional: set[str] = set()
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"{owner}: parameter {parameter} takes any number of values; name each input column.")
        if name in no_columns:
            if given is not None and name in given:
                raise DefinitionError(
                    f"{owner}: input_schema names {name!r}, which is worker state and no column. Remove it."
                )
            continue
        if given is not None and name in given:
            fields[name] = given[name]
        elif name in hints:
            fields[name] = hints[name]
        else:
            raise DefinitionError(f"{owner}: parameter {name!r} has no type hint. Add one, or give input_schema.")
        if parameter.default is not parameter.empty:
            optional.add(name)
    unknown = sorted(set(given or {}) - set(signature.parameters))
    if unknown:
        raise DefinitionError(f"{owner}: input_schema names {unknown}, which are no parameters. Remove them.")
    refuse_reserved(fields, owner)
    return Schema(fields, optional)


def _record_fields(hint: Any) -> dict[str, Any] | None:
    plain, _ = converter.split_optional(hint)
    if not isinstance(plain, type):
        return None
    if dataclasses.is_dataclass(plain) or typing.is_typeddict(plain) or hasattr(plain, "_fields"):
        return typing.get_type_hints(plain, include_extras=True)
    return None


def output_keys(
    keys: str | Sequence[str] | None, returned: Any, schema: Mapping[str, Any] | None
) -> tuple[Any, tuple[str, ...]]:
    """Return the record type that names the columns (or None), and the output keys."""
    if keys is None and schema is not None:
        return None, tuple(schema)
    if keys is not None:
        return None, (keys,) if isinstance(keys, str) else tuple(keys)
    fields = _record_fields(returned)
    return (returned, tuple(fields)) if fields else (None, ())


def output_schema(
    keys: tuple[str, ...], record: Any, hints: Mapping[str, Any], given: Mapping[str, Any] | None, owner: str
) -> Schema:
    """Return names and types of the output columns.

    Raises:
        DefinitionError: they do not fit the return type, repeat, or are reserved.
    """
    if len(set(keys)) < len(keys):
        raise DefinitionError(f"{owner}: output_keys {list(keys)} repeat a name. Give each output column its own.")
    refuse_reserved(keys, owner)
    if given is not None:
        if set(given) != set(keys):
            raise DefinitionError(
                f"{owner}: output_schema has {sorted(given)}, output_keys {sorted(keys)}. Make them the same."
            )
        return Schema({key: given[key] for key in keys})
    if record is not None:
        return Schema(_record_fields(record) or {})
    if not keys:
        return Schema()
    if "return" not in hints:
        raise DefinitionError(f"{owner}: the return value has no type hint. Add one, or give output_schema.")
    returned = hints["return"]
    if len(keys) == 1:
        return Schema({keys[0]: returned})
    args = typing.get_args(returned)
    if typing.get_origin(returned) is tuple and len(args) == 2 and args[1] is Ellipsis:  # tuple[T, ...]
        args = (args[0],) * len(keys)
    elif typing.get_origin(returned) is list and len(args) == 1:
        args = args * len(keys)
    if len(args) != len(keys):
        raise DefinitionError(
            f"{owner}: there are {len(keys)} output_keys {list(keys)}, but the return type {returned} names {len(args)} "
            "values. Return tuple[...] with one type per key, or give output_schema."
        )
    return Schema(zip(keys, args, strict=True))


def checked_arrow_schema(schema: Schema, owner: str, kind: str) -> pa.Schema:
    """Return the Arrow schema; a type without counterpart is refused with the name of its `kind` (parameter, output)."""
    fields: list[pa.Field] = []
    for name, hint in schema.items():
        try:
            fields.append(converter.arrow_field(name, hint))
        except UnsupportedTypeError as error:
            raise DefinitionError(f"{owner}, {kind} {name!r}: {error}") from error
    return pa.schema(fields)


def former_names(given: str | Sequence[str], own: str, owner: str) -> tuple[str, ...]:
    """Return the names that a function had, each once.

    Raises:
        DefinitionError: one is empty, or the name that it has.
    """
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for name in names:
        if not name or name == own:
            raise DefinitionError(
                f"{owner}: formerly names {name!r}, which is no other name of it. Give the names that it had."
            )
    return names
