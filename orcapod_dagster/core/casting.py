"""Casts between Arrow types that keep every value, at any depth: what Arrow's own casts do, and what they lack.

Only single values are left to Arrow's own casts. Those of nested types make invalid arrays of some slices, cannot make a
fixed-size list under a null struct, and have no kernels for views, runs and extension types inside. And of single values,
Arrow rounds float64 to float32 in silence, lets large decimals wrap around, and takes integers above 2**53 for inexact
floats even where they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, pc

_INT32_MAX: Final = 2**31 - 1
_COUNTED: Final = pa.large_list(pa.null())


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
    """Return the column as one array, without copying where it is one chunk; several encoded ones come `unencoded`.

    Arrow puts dictionaries together in which -0.0 has become 0.0, and float16 another number, and runs into the limits of
    narrow indices and run ends.
    """
    if not isinstance(column, pa.ChunkedArray):
        return column
    if not column.num_chunks:
        return pa.nulls(0, column.type)
    if column.num_chunks > 1 and _holds_encoding(column.type):
        plain = unencoded(column.type)
        column = pa.chunked_array([recast(chunk, plain) for chunk in column.chunks], plain)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


@lru_cache(maxsize=1024)
def _holds_encoding(t: pa.DataType) -> bool:
    if isinstance(t, pa.BaseExtensionType):
        return _holds_encoding(t.storage_type)
    if pa.types.is_dictionary(t) or pa.types.is_run_end_encoded(t):
        return True
    return pa.types.is_nested(t) and any(_holds_encoding(t.field(i).type) for i in range(t.num_fields))


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
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, recast(array, target.storage_type))
    if pa.types.is_run_end_encoded(source) or pa.types.is_dictionary(source):
        return recast(decoded(array), target)
    if pa.types.is_run_end_encoded(target):
        return _in_runs(recast(array, _encodable(target.value_type)), target)
    if pa.types.is_dictionary(target):
        return _encode(recast(array, _encodable(target.value_type)), target)
    if is_list(source) and is_list(target):
        return _recast_list(array, target)
    if pa.types.is_struct(source) and pa.types.is_struct(target):
        return _recast_struct(array, target)
    if pa.types.is_map(source) and pa.types.is_map(target):
        lengths, keys, items = map_parts(array)
        return map_array(lengths, recast(keys, target.key_type), recast(items, target.item_type), target)
    return _recast_leaf(array, target)


def taken(array: pa.Array, positions: pa.Array) -> pa.Array:
    """Return the rows at these positions, null for null; also of views and run ends, which have no kernel for it."""
    plain = _with_kernels(array.type)
    return array.take(positions) if plain == array.type else recast(recast(array, plain).take(positions), array.type)


@lru_cache(maxsize=1024)
def _with_kernels(t: pa.DataType) -> pa.DataType:
    """Return a type of the same values that Arrow takes rows of, at any depth."""
    is_ = pa.types
    if isinstance(t, pa.BaseExtensionType):
        storage = _with_kernels(t.storage_type)
        return t if storage == t.storage_type else storage
    if is_.is_run_end_encoded(t):
        return _with_kernels(t.value_type)
    if is_.is_string_view(t) or is_.is_binary_view(t):
        return unencoded(t)
    if is_.is_struct(t):
        return pa.struct([field.with_type(_with_kernels(field.type)) for field in t.fields])
    if is_.is_map(t):
        return pa.map_(_with_kernels(t.key_type), t.item_field.with_type(_with_kernels(t.item_type)))
    if not is_list(t):
        return t
    item = t.value_field.with_type(_with_kernels(t.value_type))
    if is_.is_fixed_size_list(t):
        return pa.list_(item, t.list_size)
    return pa.large_list(item) if is_.is_large_list(t) or is_.is_large_list_view(t) else pa.list_(item)


def decoded(array: pa.Array) -> pa.Array:
    """Return the values of a dictionary or run-end encoding, one per row; Arrow decodes neither of them for every type."""
    if pa.types.is_dictionary(array.type):
        return taken(array.dictionary, array.indices)
    ends = pc.subtract(array.run_ends.cast(pa.int64()), array.offset)  # of all runs, also those outside of a slice
    ends = pc.min_element_wise(pc.max_element_wise(ends, 0), len(array))
    lengths = pc.subtract(ends, pa.concat_arrays([pa.array([0], pa.int64()), ends]).slice(0, len(ends)))
    return taken(array.values, item_rows(lengths))


def _encodable(t: pa.DataType) -> pa.DataType:
    """Return a type of the same values that Arrow encodes."""
    if isinstance(t, pa.BaseExtensionType):
        return _encodable(t.storage_type)
    narrow = pa.types.is_decimal(t) and t.bit_width < 128
    return pa.decimal128(t.precision, t.scale) if narrow else _with_kernels(t)


def _in_runs(array: pa.Array, target: pa.DataType) -> pa.Array:
    found = pc.run_end_encode(array, target.run_end_type)
    if found.type == target:
        return found
    return pa.RunEndEncodedArray.from_arrays(found.run_ends, recast(found.values, target.value_type))


def _encode(array: pa.Array, target: pa.DataType) -> pa.Array:
    found = array.dictionary_encode()
    if found.type == target:
        return found
    return pa.DictionaryArray.from_arrays(
        found.indices.cast(target.index_type), recast(found.dictionary, target.value_type), ordered=target.ordered
    )


def _recast_list(array: pa.Array, target: pa.DataType) -> pa.Array:
    lengths, items = list_parts(array)
    child = recast(items, target.value_type)
    return (_fixed_size_lists if pa.types.is_fixed_size_list(target) else list_array)(lengths, child, target)


def _fixed_size_lists(lengths: pa.Array, child: pa.Array, target: pa.DataType) -> pa.Array:
    """As `list_array`; each row has its place among the items, null ones as well."""
    size = target.list_size
    if not pc.all(pc.equal(lengths, size), min_count=0).as_py():
        raise pa.ArrowInvalid(f"lists of other lengths than {target} holds")
    if not size:
        valid = lengths.is_valid().buffers()[1] if lengths.null_count else None
        return pa.Array.from_buffers(target, len(lengths), [valid], children=[child])
    if lengths.null_count:
        present = lengths.is_valid().take(item_rows(pa.repeat(pa.scalar(size, pa.int64()), len(lengths))))
        positions = pc.subtract(pc.cumulative_sum(present.cast(pa.int64())), 1)
        child = taken(child, pc.if_else(present, positions, pa.scalar(None, pa.int64())))
    return pa.FixedSizeListArray.from_arrays(child, type=target, mask=_mask(lengths))


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

    Without Arrow's own `flatten`, which has no kernels for extension types, views and run ends.
    """
    is_ = pa.types
    if is_.is_list(array.type) or is_.is_large_list(array.type):
        lengths = _lengths(array)
        return lengths, _within(array, lengths, array.values)
    if is_.is_fixed_size_list(array.type):
        size = array.type.list_size
        everything = pa.repeat(pa.scalar(size, pa.int64()), len(array))
        items = array.values.slice(array.offset * size, len(array) * size)
        return _null_where(array, everything), _under_valid(array, everything, items)
    lengths = _null_where(array, array.sizes.cast(pa.int64()))
    rows = item_rows(lengths)
    # The first item of each row lies at its offset, not where those of the rows before it end.
    shift = pc.subtract(array.offsets.cast(pa.int64()), list_array(lengths, pa.nulls(len(rows)), _COUNTED).offsets[:-1])
    return lengths, taken(array.values, pc.add(count_up(len(rows)), shift.take(rows)))


def map_parts(array: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return the entries per row (null for a null map), and the keys and items of all rows."""
    lengths = _lengths(array)
    return lengths, _within(array, lengths, array.keys), _within(array, lengths, array.items)


def _lengths(array: pa.Array) -> pa.Array:
    offsets = array.offsets.cast(pa.int64())
    return _null_where(array, pc.subtract(offsets.slice(1), offsets.slice(0, len(array))))


def _null_where(array: pa.Array, lengths: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), lengths, pa.nulls(len(array), pa.int64())) if array.null_count else lengths


def _within(array: pa.Array, lengths: pa.Array, child: pa.Array) -> pa.Array:
    """Return the part of a child array that the rows of a slice hold, without what lies under null rows."""
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    held = child.slice(first, last - first)
    if len(held) == (pc.sum(lengths).as_py() or 0):
        return held
    return _under_valid(array, pc.subtract(array.offsets.slice(1), array.offsets.slice(0, len(array))), held)


def _under_valid(array: pa.Array, everything: pa.Array, items: pa.Array) -> pa.Array:
    """Return the items that lie in valid rows; `everything` says how many lie in each row, null ones as well."""
    if not array.null_count:
        return items
    return taken(items, pc.indices_nonzero(array.is_valid().take(item_rows(everything))))


def item_rows(lengths: pa.Array) -> pa.Array:
    """Return for each item the row that it lies in, `int64`; `lengths` as in `list_array`."""
    counts = pc.fill_null(lengths, 0).cast(pa.int64())
    total = pc.sum(counts).as_py() or 0
    return pc.list_parent_indices(list_array(counts, pa.nulls(total), _COUNTED)).cast(pa.int64())


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
