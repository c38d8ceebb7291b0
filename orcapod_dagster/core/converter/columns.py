"""Whole columns: schemas ↔ Arrow schemas, values ↔ arrays, and input columns brought to declared types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import is_binary, is_list, is_string, one_array, recast
from orcapod_dagster.core.converter.codec import Element, Misfit, codec_of, split_optional, type_name
from orcapod_dagster.core.converter.from_arrow import contains_any, origins_of_any
from orcapod_dagster.core.errors import ConversionError, InputError, UnsupportedTypeError
from orcapod_dagster.core.nulls import forbidden_nulls


def arrow_field(name: str, hint: Any) -> pa.Field:
    """Return the Arrow field of a column; nullable exactly where the type is `T | None`.

    Raises:
        UnsupportedTypeError: the type has no Arrow counterpart; for an `Any`, says by which way it came.
    """
    try:
        return Element.of(hint).field(name)
    except UnsupportedTypeError as error:
        if contains_any(hint) and name in origins_of_any:
            raise UnsupportedTypeError(
                f"{error} This 'Any' stands for the Arrow type {origins_of_any[name]}, with which a column {name!r} was read."
            ) from None
        raise


def arrow_schema(schema: Mapping[str, Any]) -> pa.Schema:
    """Return the Arrow schema of a `Schema`, field by field in its order.

    Raises:
        UnsupportedTypeError: names the column whose type has no Arrow counterpart.
    """
    fields: list[pa.Field] = []
    for name, hint in schema.items():
        try:
            fields.append(arrow_field(name, hint))
        except UnsupportedTypeError as error:
            raise UnsupportedTypeError(f"column {name!r}: {error}") from None
    return pa.schema(fields)


# ---------------------------------------------------------------------------- values ↔ arrays


def to_array(values: Sequence[Any], hint: Any, *, column: str, owner: str = "", first_row: int = 0) -> pa.Array:
    """Convert the values of one column.

    Args:
        values: one Python value per row.
        hint: the declared type.
        column, owner: for messages ("function 'f'").
        first_row: the row number of `values[0]`, for messages.

    Returns:
        Array of the type's Arrow type.

    Raises:
        ConversionError: names the first row whose value does not fit, what it is, and where in a nested value.
    """
    try:
        return Element.of(hint).encode(values)
    except Misfit as misfit:
        place = ", ".join([f"column {column!r}", f"row {first_row + misfit.row}", *misfit.where])
        reason = f" ({misfit.reason})" if misfit.reason else ""
        raise ConversionError(
            f"{_of(owner)}{place}: got {misfit.seen}, expected {type_name(hint)}{reason}. Return that type, or change the "
            f"declared type of {column!r}."
        ) from misfit.__cause__


def to_python(array: pa.Array | pa.ChunkedArray, hint: Any) -> list[Any]:
    """Convert one column to Python values of the declared type, one per row; nulls become `None`.

    Raises:
        pyarrow.ArrowInvalid: the column is of another type, to which it cannot be brought without loss.
    """
    codec = codec_of(split_optional(hint)[0])
    return codec.decode(recast(one_array(array), codec.arrow_type))


def _of(owner: str) -> str:
    return f"{owner}: " if owner else ""


# ---------------------------------------------------------------------------- columns → declared types


def conform(column: pa.Array | pa.ChunkedArray, hint: Any, *, name: str, owner: str = "") -> pa.Array:
    """Bring an input column to the type of the parameter that takes it, without loss.

    Widening (int32 → int, large string → str, int → float where exact) happens silently.

    Args:
        column: the column as the upstream has it; nulls are kept, at any depth (see `misfits`).
        hint: the parameter's type.
        name, owner: for messages.

    Returns:
        Array of the parameter's Arrow type.

    Raises:
        InputError: the types do not fit, or a value would change.
    """
    codec = codec_of(split_optional(hint)[0])
    array = one_array(column)
    target, source = codec.arrow_type, array.type
    if source != target:
        if not widens(source, target):
            raise InputError(
                f"{_of(owner)}column {name!r} has type {source}, but the parameter is declared {type_name(hint)} (Arrow {target}). "
                "Change the type hint, or convert the column upstream."
            )
        try:
            array = recast(array, target)
        except pa.ArrowException as error:
            raise InputError(
                f"{_of(owner)}column {name!r} of type {source} holds values that {type_name(hint)} (Arrow {target}) cannot hold "
                "exactly. Change the type hint, or convert the column upstream."
            ) from error
    return codec.arrange(array)


def misfits(array: pa.Array, hint: Any) -> pa.Array | None:
    """Find rows of a conformed column that the declared type does not take.

    A null where there must be none, at any depth; a key twice in a map; a name that is no member of an enum; a date or time
    that Python's classes do not hold.

    Returns:
        Boolean array, one per row, or `None` where every row is good.
    """
    plain, nullable = split_optional(hint)
    nulls = forbidden_nulls(array, nullable=nullable)
    refused = codec_of(plain).refused(array)
    return refused if nulls is None else nulls if refused is None else pc.or_(nulls, refused)


def widens(source: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether values of `source` may be brought to `target` (each value is still checked on the way)."""
    t = pa.types
    if source == target or t.is_null(source):
        return True
    if isinstance(source, pa.BaseExtensionType):
        return widens(source.storage_type, target)
    if isinstance(target, pa.BaseExtensionType):
        return widens(source, target.storage_type)
    if t.is_dictionary(source) or t.is_run_end_encoded(source):
        return widens(source.value_type, target)
    if t.is_dictionary(target) or t.is_run_end_encoded(target):
        return widens(source, target.value_type)
    if t.is_integer(source):
        return t.is_integer(target) or t.is_floating(target)
    if t.is_timestamp(source) and t.is_timestamp(target):
        return (source.tz is None) == (target.tz is None)
    if is_list(source) and is_list(target):
        return widens(source.value_type, target.value_type)
    if t.is_map(source) and t.is_map(target):
        return widens(source.key_type, target.key_type) and widens(source.item_type, target.item_type)
    if t.is_struct(source) and t.is_struct(target):
        return _fields_widen(source, target)
    same_family = (t.is_floating, is_string, is_binary, t.is_date, t.is_time, t.is_duration, t.is_decimal)
    return any(test(source) and test(target) for test in same_family)


def _fields_widen(source: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether two structs have the same field names, in any order, and each field widens."""
    have = {field.name: field.type for field in source.fields}
    if len(have) < source.num_fields:
        return False  # a name twice: which of the two is meant?
    return have.keys() == {field.name for field in target.fields} and all(
        widens(have[field.name], field.type) for field in target.fields
    )
