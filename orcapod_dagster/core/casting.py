"""Casts between Arrow types that keep every value, at any depth: what Arrow's own casts do, and what they lack.

Arrow casts most nested types by itself. It does not decode run-end encoding, cannot make a fixed-size list under a
null struct, rounds float64 to float32 in silence, lets large decimals wrap around, and takes integers above 2**53 for
inexact floats even where they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc

_INT32_MAX: Final = 2**31 - 1


def is_list(t: pa.DataType) -> bool:
    """Tell whether a type is any kind of list: plain, large, fixed-size or view."""
    is_ = pa.types
    return (
        is_.is_list(t)
        or is_.is_large_list(t)
        or is_.is_fixed_size_list(t)
        or is_.is_list_view(t)
        or is_.is_large_list_view(t)
    )


def is_string(t: pa.DataType) -> bool:
    """Tell whether a type is any kind of string."""
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


def is_binary(t: pa.DataType) -> bool:
    """Tell whether a type is any kind of binary, fixed-size included."""
    is_ = pa.types
    return is_.is_binary(t) or is_.is_large_binary(t) or is_.is_binary_view(t) or is_.is_fixed_size_binary(t)


def repeated_name(struct: pa.DataType) -> str | None:
    """Return a name that two fields of a struct share, if any; everything here goes by names."""
    names = [field.name for field in struct.fields]
    return next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None


def unencoded(t: pa.DataType) -> pa.DataType:
    """Return the plain type of the same values: no dictionary, large or view form; list items called "element"; UTC."""
    is_ = pa.types
    if isinstance(t, pa.BaseExtensionType) or is_.is_fixed_size_binary(t):
        return t
    if is_.is_dictionary(t) or is_.is_run_end_encoded(t):
        return unencoded(t.value_type)
    if is_string(t):
        return pa.string()
    if is_binary(t):
        return pa.binary()
    if is_.is_timestamp(t) and t.tz:
        return pa.timestamp(t.unit, "UTC")
    if is_.is_map(t):
        return pa.map_(unencoded(t.key_type), pa.field("value", unencoded(t.item_type), t.item_field.nullable))
    if is_.is_struct(t):
        return pa.struct([pa.field(f.name, unencoded(f.type), f.nullable) for f in t.fields])
    if is_list(t):
        element = pa.field("element", unencoded(t.value_type), t.value_field.nullable)
        return pa.list_(element, t.list_size if is_.is_fixed_size_list(t) else -1)
    return t


def unencoded_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with every column `unencoded`."""
    return pa.schema([field.with_type(unencoded(field.type)) for field in schema], metadata=schema.metadata)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column as one array, without copying where it is one chunk."""
    if isinstance(column, pa.ChunkedArray):
        if not column.num_chunks:
            return pa.nulls(0, column.type)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def recast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Bring an array to another type of the same meaning, every value unchanged.

    Args:
        array: any type; dictionaries, run-end encodings and extension types are read by value.
        target: a type that can hold the values.

    Returns:
        Array of exactly the type `target`, with the same nulls.

    Raises:
        pyarrow.ArrowInvalid: a value would change. pyarrow.ArrowNotImplementedError: there is no such cast.
    """
    source = array.type
    if source == target:
        return array
    if isinstance(source, pa.BaseExtensionType):
        return recast(array.storage, target)
    array = without_views(array)
    source = array.type
    if source == target:
        return array
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, recast(array, target.storage_type))
    if pa.types.is_run_end_encoded(source):
        return recast(pc.run_end_decode(array), target)
    if pa.types.is_run_end_encoded(target):
        return pc.run_end_encode(recast(array, target.value_type), target.run_end_type)
    if pa.types.is_dictionary(target):
        return _encode(recast(array, target.value_type), target)
    if pa.types.is_dictionary(source):
        return recast(array.dictionary_decode(), target)
    if is_list(source) and is_list(target):
        return _recast_list(array, target)
    if pa.types.is_struct(source) and pa.types.is_struct(target):
        return _recast_struct(array, target)
    if pa.types.is_map(source) and pa.types.is_map(target):
        lengths, keys, items = map_parts(array)
        return map_array(lengths, recast(keys, target.key_type), recast(items, target.item_type), target)
    return _recast_leaf(array, target)


def without_views(array: pa.Array) -> pa.Array:
    """Return nested arrays with plain strings and binaries in place of views, which have no kernels to filter or take them."""
    plain = _type_without_views(array.type) if pa.types.is_nested(array.type) else array.type
    return array if plain == array.type else array.cast(plain)


@lru_cache(maxsize=1024)
def _type_without_views(t: pa.DataType) -> pa.DataType:
    is_ = pa.types
    if is_.is_string_view(t) or is_.is_binary_view(t):
        return unencoded(t)
    if is_.is_struct(t):
        return pa.struct([field.with_type(_type_without_views(field.type)) for field in t.fields])
    if is_.is_map(t):
        item = t.item_field.with_type(_type_without_views(t.item_type))
        return pa.map_(_type_without_views(t.key_type), item)
    if is_.is_fixed_size_list(t):
        return pa.list_(t.value_field.with_type(_type_without_views(t.value_type)), t.list_size)
    if is_.is_large_list(t):
        return pa.large_list(t.value_field.with_type(_type_without_views(t.value_type)))
    # List views stay: they are flattened, without a kernel for their items, and Arrow's own cast of them is not safe.
    return pa.list_(t.value_field.with_type(_type_without_views(t.value_type))) if is_.is_list(t) else t


def _encode(array: pa.Array, target: pa.DataType) -> pa.Array:
    found = array.dictionary_encode()
    if found.type == target:
        return found
    return pa.DictionaryArray.from_arrays(
        found.indices.cast(target.index_type), found.dictionary, ordered=target.ordered
    )


def _recast_list(array: pa.Array, target: pa.DataType) -> pa.Array:
    lengths, items = list_parts(array)
    child = recast(items, target.value_type)
    if pa.types.is_fixed_size_list(target):
        return list_array(lengths, child, pa.large_list(target.value_field)).cast(target)
    return list_array(lengths, child, target)


def _recast_struct(array: pa.Array, target: pa.DataType) -> pa.Array:
    if repeated_name(array.type) is not None:
        raise pa.ArrowInvalid(f"{array.type} has two fields of one name")
    # flatten() gives a null struct null children, without which a fixed-size list below it could not be made.
    children = dict(zip((f.name for f in array.type.fields), array.flatten(), strict=True))
    arrays = [recast(children[field.name], field.type) for field in target.fields]
    return struct_array(arrays, target, array.is_null() if array.null_count else None, len(array))


def _recast_leaf(array: pa.Array, target: pa.DataType) -> pa.Array:
    is_ = pa.types
    if is_.is_floating(target) and (is_.is_integer(array.type) or is_.is_floating(array.type)):
        return _exact_float(array, target)
    if is_.is_decimal(array.type) and is_.is_decimal(target) and target.scale > array.type.scale:
        return _more_digits(array, target)
    return array.cast(target)


def _more_digits(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast decimals to a larger scale; Arrow's own cast wraps around in silence where the digits take too many bits."""
    found = array.cast(target)
    if not pc.all(pc.equal(found.cast(array.type), array), min_count=0).as_py():
        raise pa.ArrowInvalid(f"values of type {array.type} that {target} does not hold")
    return found


def _exact_float(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast numbers to floats; refused where one is no float of that width, and not only from 2**53 on."""
    is_ = pa.types
    if is_.is_floating(array.type) and array.type.bit_width <= target.bit_width:
        return array.cast(target)
    found = array.cast(target, safe=False)
    if is_.is_floating(array.type):
        same = pc.or_kleene(pc.equal(found.cast(array.type), array), pc.is_nan(array))
    else:
        # 2**63 as a float is no int64; the safe cast back refuses it.
        same = pc.equal(found.cast(pa.float64()).cast(array.type), array)
    if not pc.all(same, min_count=0).as_py():
        raise pa.ArrowInvalid(f"values of type {array.type} that {target} does not hold exactly")
    return found


# ---------------------------------------------------------------------------- nested arrays from their parts


Lengths = pa.Array | Sequence[int | None]
"""Items per row, null for a null row: an array of integers, or (cheaper for a few rows) a list."""


def list_array(lengths: Lengths, child: pa.Array, target: pa.DataType) -> pa.Array:
    """Make an array of lists, plain, large or view.

    Args:
        lengths: items per row.
        child: the items of all rows, one after another.
        target: the type.
    """
    is_ = pa.types
    if is_.is_list_view(target) or is_.is_large_list_view(target):
        plain = list_array(lengths, child, pa.large_list(target.value_field))
        view, number = (
            (pa.ListViewArray, pa.int32()) if is_.is_list_view(target) else (pa.LargeListViewArray, pa.int64())
        )
        starts = plain.offsets.slice(0, len(plain)).cast(number)
        sizes = pc.fill_null(pa.array(lengths, number), 0)
        return view.from_arrays(starts, sizes, child, type=target, mask=_mask(lengths))
    make = pa.LargeListArray if is_.is_large_list(target) else pa.ListArray
    return make.from_arrays(_offsets(lengths, target, len(child)), child, type=target, mask=_mask(lengths))


def map_array(lengths: Lengths, keys: pa.Array, items: pa.Array, target: pa.DataType) -> pa.Array:
    """Make a map array; `lengths` as in `list_array`."""
    return pa.MapArray.from_arrays(_offsets(lengths, target, len(keys)), keys, items, type=target, mask=_mask(lengths))


def struct_array(children: Sequence[pa.Array], target: pa.DataType, null: pa.Array | None, rows: int) -> pa.Array:
    """Make a struct array of its fields; `null` says which rows are null, `None` for no row."""
    if not children:
        return (
            pa.array([{}] * rows, target)
            if null is None
            else pa.array([None if n else {} for n in null.to_pylist()], target)
        )
    return pa.StructArray.from_arrays(list(children), fields=list(target.fields), mask=null)


def list_parts(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the items per row (null for a null row), and the items of all rows, one after another.

    Without a kernel: `flatten` fails for lists of extension types where every row is null.
    """
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        return pc.list_value_length(array), array.flatten()
    lengths = _lengths(array)
    return lengths, _within(array, lengths, array.values)


def map_parts(array: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return the entries per row (null for a null map), and the keys and items of all rows."""
    lengths = _lengths(array)
    return lengths, _within(array, lengths, array.keys), _within(array, lengths, array.items)


def _lengths(array: pa.Array) -> pa.Array:
    offsets = array.offsets.cast(pa.int64())
    lengths = pc.subtract(offsets.slice(1), offsets.slice(0, len(array)))
    return pc.if_else(array.is_valid(), lengths, pa.nulls(len(array), pa.int64())) if array.null_count else lengths


def _within(array: pa.Array, lengths: pa.Array, child: pa.Array) -> pa.Array:
    """Return the part of a child array that the rows of a slice hold, without what lies under null rows."""
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    held = child.slice(first, last - first)
    if len(held) == (pc.sum(lengths).as_py() or 0):
        return held
    everything = pc.subtract(array.offsets.slice(1), array.offsets.slice(0, len(array)))
    return held.filter(array.is_valid().take(item_rows(everything)))


def item_rows(lengths: pa.Array) -> pa.Array:
    """Return for each item the row that it lies in, `int64`; `lengths` as in `list_array`."""
    counts = pc.fill_null(lengths, 0).cast(pa.int64())
    total = pc.sum(counts).as_py() or 0
    return pc.list_parent_indices(list_array(counts, pa.nulls(total), pa.large_list(pa.null()))).cast(pa.int64())


def _offsets(lengths: Lengths, target: pa.DataType, children: int) -> pa.Array:
    number = pa.int64() if pa.types.is_large_list(target) else pa.int32()
    if not pa.types.is_large_list(target) and children > _INT32_MAX:
        raise pa.ArrowInvalid(f"{children} items in one batch, more than {target} can count. Use smaller batches.")
    if not isinstance(lengths, pa.Array):
        return pa.array([0, *accumulate(length or 0 for length in lengths)], number)
    counted = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), counted])
    return offsets.cast(number)


def _mask(lengths: Lengths) -> Any:
    if not isinstance(lengths, pa.Array):
        return pa.array([length is None for length in lengths], pa.bool_()) if None in lengths else None
    array: Any = lengths
    return array.is_null() if array.null_count else None


# ---------------------------------------------------------------------------- what a type does not take


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
        return array.dictionary_decode() if values.null_count or pa.types.is_nested(values.type) else array
    if pa.types.is_run_end_encoded(array.type):
        return pc.run_end_decode(array)
    return array


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
