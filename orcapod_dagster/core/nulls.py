"""Nulls where a type takes none: the rows that hold one, at any depth, and a value under those that Parquet refuses."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import (
    decoded,
    is_list,
    list_array,
    list_parts,
    map_array,
    map_parts,
    struct_array,
)


def forbidden_nulls(array: pa.Array, *, nullable: bool) -> pa.Array | None:
    """Find rows with a null where the type takes none, at any depth.

    Args:
        array: its type says which children may be null.
        nullable: whether the rows themselves may be.

    Returns:
        Boolean array, one per row, or `None` where all is well.
    """
    array = _with_plain_nulls(array)
    found = None if nullable or not array.null_count else array.is_null()
    t = array.type
    if isinstance(t, pa.BaseExtensionType):
        return _either(found, forbidden_nulls(array.storage, nullable=True))
    if is_list(t):
        lengths, items = list_parts(array)
        inner = forbidden_nulls(items, nullable=t.value_field.nullable)
        return _either(found, None if inner is None else rows_with(inner, lengths))
    if pa.types.is_map(t):
        lengths, keys, items = map_parts(array)
        inner = _either(forbidden_nulls(keys, nullable=False), forbidden_nulls(items, nullable=t.item_field.nullable))
        return _either(found, None if inner is None else rows_with(inner, lengths))
    if pa.types.is_struct(t):
        for field, child in zip(t.fields, array.flatten(), strict=True):
            inner = forbidden_nulls(child, nullable=field.nullable)
            # A null struct has null children, which is right.
            found = _either(found, None if inner is None else pc.and_(inner, array.is_valid()))
    return None if found is None or not pc.any(found).as_py() else found


def _with_plain_nulls(array: pa.Array) -> pa.Array:
    """Decode a dictionary or run-end encoding whose values hold nulls, which `null_count` and `is_null` do not see."""
    if pa.types.is_dictionary(array.type):
        values = array.dictionary
        return decoded(array) if values.null_count or pa.types.is_nested(values.type) else array
    return decoded(array) if pa.types.is_run_end_encoded(array.type) else array


def _either(one: pa.Array | None, other: pa.Array | None) -> pa.Array | None:
    if one is None or other is None:
        return other if one is None else one
    return pc.or_(one, other)


def rows_with(inner: pa.Array, lengths: pa.Array) -> pa.Array:
    """Return which rows have an item that is true in `inner`."""
    zero = pa.array([0], pa.int64())
    running = pa.concat_arrays([zero, pc.cumulative_sum(inner.cast(pa.int64()))])
    ends = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64()))
    starts = pa.concat_arrays([zero, ends.slice(0, max(len(ends) - 1, 0))]).slice(0, len(ends))
    return pc.greater(running.take(ends), running.take(starts))


def covered(array: pa.Array) -> pa.Array:
    """Put some value under null structs, in fields that take no null; Parquet writers refuse a null there.

    Args:
        array: without `forbidden_nulls`, in types in which Delta holds columns.
    """
    t = array.type
    if not _needs_cover(t):
        return array
    if pa.types.is_map(t):
        lengths, keys, items = map_parts(array)
        return map_array(lengths, covered(keys), covered(items), t)
    if is_list(t):
        lengths, items = list_parts(array)
        return list_array(lengths, covered(items), t)
    null = array.is_null()
    children = [
        covered(child) if field.nullable or not child.null_count else covered(_with_some_value(child, null))
        for child, field in zip(array.flatten(), t.fields, strict=True)
    ]
    return struct_array(children, t, null if array.null_count else None, len(array))


@lru_cache(maxsize=1024)
def _needs_cover(t: pa.DataType) -> bool:
    if pa.types.is_map(t):
        return _needs_cover(t.key_type) or _needs_cover(t.item_type)
    if is_list(t):
        return _needs_cover(t.value_type)
    return pa.types.is_struct(t) and any(not field.nullable or _needs_cover(field.type) for field in t.fields)


def _with_some_value(child: pa.Array, null: pa.Array) -> pa.Array:
    value = _some_value(child.type)
    last = pa.array([len(child)], pa.int64())[0]
    positions = pc.if_else(null, last, pa.array(range(len(child)), pa.int64()))
    return pa.concat_arrays([child, value]).take(positions)


def _some_value(t: pa.DataType) -> pa.Array:
    """Return an array of one value of a type in which Delta holds columns."""
    is_ = pa.types
    if is_.is_struct(t):
        return pa.StructArray.from_arrays([_some_value(field.type) for field in t.fields], fields=list(t.fields))
    if is_.is_map(t) or is_.is_list(t):
        return pa.array([[]], t)
    if is_.is_string(t) or is_.is_binary(t):
        return pa.array([""]).cast(t)
    return pa.nulls(1, t) if is_.is_null(t) else pa.Array.from_buffers(t, 1, [None, pa.py_buffer(bytes(16))])
