"""What Delta Lake holds of each Arrow type, and how reading gives it back; `docs/types.md` is the table of it.

Delta knows fewer types than Arrow, and some writers change a value, or write what no reader can read. So every column
is brought to a type that Delta holds exactly, or refused by name before anything is written. The field's own Arrow
type travels in the metadata of the Delta field, in the same commit as its rows.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import (
    is_binary,
    is_list,
    is_string,
    list_parts,
    map_parts,
    recast,
    unencoded,
)
from orcapod_dagster.core.columns import is_reserved
from orcapod_dagster.core.errors import ConversionError
from orcapod_dagster.core.hashing import repeated_keys
from orcapod_dagster.core.nulls import covered, forbidden_nulls

ARROW_FIELD: Final = "orcapod.arrow_field"
"""Key in the metadata of a Delta field: its Arrow field, as a base64 Arrow IPC schema of one field."""

_AS: Final[Mapping[pa.DataType, pa.DataType]] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.null(),
}
_SAME: Final[tuple[Callable[[pa.DataType], bool], ...]] = (
    pa.types.is_boolean, pa.types.is_signed_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_date32,
)  # fmt: skip


# ---------------------------------------------------------------------------- types


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema in which Delta holds these columns; each field carries its Arrow field where that differs.

    Raises:
        ConversionError: a column's type cannot be held without loss, or there are no columns; names the column.
    """
    if not schema.names:
        raise ConversionError("The data has no columns; a Delta table needs at least one.")
    _refuse_same_names(schema.names, "column")
    fields: list[pa.Field] = []
    for position, field in enumerate(schema):
        try:
            held = pa.field(field.name, storage_type(field.type), field.nullable)
        except ConversionError as error:
            raise ConversionError(f"column {field.name!r}: {error}") from None
        metadata = schema.metadata if position == 0 else None
        # `==` leaves aside the names of list items, `str` does not know nullability; together they miss nothing that matters.
        if metadata or field.metadata or held.type != field.type:
            held = held.with_metadata({ARROW_FIELD: _field_text(_returned(field), metadata)})
        fields.append(held)
    return pa.schema(fields)


def _refuse_same_names(names: list[str], what: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            raise ConversionError(
                f"two {what}s are called {seen[name.lower()]!r} and {name!r}; Delta does not tell names apart by case. Rename one."
            )
        seen[name.lower()] = name


def _field_text(field: pa.Field, metadata: Mapping[Any, Any] | None) -> str:
    return base64.b64encode(pa.schema([field], metadata=metadata).serialize().to_pybytes()).decode()


def storage_type(t: pa.DataType, *, in_map: bool = False) -> pa.DataType:
    """Return the type in which Delta holds values of an Arrow type, every one of them exactly.

    Args:
        t: the Arrow type.
        in_map: whether the values lie within a map.

    Raises:
        ConversionError: there is none.
    """
    is_ = pa.types
    if isinstance(t, pa.BaseExtensionType):
        return storage_type(t.storage_type, in_map=in_map)
    if is_.is_map(t):
        item = pa.field("value", storage_type(t.item_type, in_map=True), t.item_field.nullable)
        return pa.map_(storage_type(t.key_type, in_map=True), item)
    if is_list(t):
        return pa.list_(pa.field("element", storage_type(t.value_type, in_map=in_map), t.value_field.nullable))
    if is_.is_struct(t) and t.num_fields:
        _refuse_same_names([f.name for f in t.fields], "field")
        return pa.struct([pa.field(f.name, storage_type(f.type, in_map=in_map), f.nullable) for f in t.fields])
    # Arrow cannot write down the type of a dictionary of extension values: it reads back another one.
    plain = is_.is_run_end_encoded(t) or (is_.is_dictionary(t) and not isinstance(t.value_type, pa.BaseExtensionType))
    if plain and not is_.is_nested(t.value_type):
        return storage_type(t.value_type, in_map=in_map)
    return _leaf_type(t, in_map=in_map)


def _leaf_type(t: pa.DataType, *, in_map: bool) -> pa.DataType:
    is_ = pa.types
    if t in _AS:
        return _AS[t]
    if any(same(t) for same in _SAME):
        return t
    if is_string(t):
        return pa.string()
    if is_binary(t):
        return pa.binary()
    if is_.is_timestamp(t):
        # Nanoseconds are kept where they are whole microseconds; a value with more is refused when it comes.
        # delta-rs does not see one without a zone within a map, leaves out the table feature, and cannot open the table.
        return pa.int64() if in_map and not t.tz else pa.timestamp("us", "UTC" if t.tz else None)
    if is_.is_time32(t):
        return pa.int32()
    if is_.is_time64(t) or is_.is_duration(t):
        return pa.int64()
    if is_.is_decimal(t) and t.precision <= 38 and 0 <= t.scale <= t.precision:  # as far as Delta's decimals go
        return pa.decimal128(t.precision, t.scale)
    raise ConversionError(
        f"type {t} cannot be held by Delta without loss. Convert it upstream; docs/types.md says which types can be."
    )


def _returned(field: pa.Field) -> pa.Field:
    return field.with_type(returned_type(field.type))


def returned_type(t: pa.DataType) -> pa.DataType:
    """Return the type in which reading gives a column back that was written as `t`.

    It is `t`, but for the index of a dictionary, which becomes int32: another batch may need more of it.
    """
    if pa.types.is_dictionary(t):
        return pa.dictionary(pa.int32(), t.value_type, t.ordered)
    if pa.types.is_map(t):
        return pa.map_(returned_type(t.key_type), _returned(t.item_field))
    if pa.types.is_struct(t):
        return pa.struct([_returned(field) for field in t.fields])
    if pa.types.is_list(t):
        return pa.list_(_returned(t.value_field))
    if pa.types.is_fixed_size_list(t):
        return pa.list_(_returned(t.value_field), t.list_size)
    if pa.types.is_large_list(t):
        return pa.large_list(_returned(t.value_field))
    if pa.types.is_list_view(t):
        return pa.list_view(_returned(t.value_field))
    return pa.large_list_view(_returned(t.value_field)) if pa.types.is_large_list_view(t) else t


def arrow_schema(held: pa.Schema) -> pa.Schema:
    """Return the Arrow schema that `storage_schema` was given, from what a Delta table says of its columns."""
    metadata: Mapping[Any, Any] | None = None
    fields: list[pa.Field] = []
    for field in held:
        text = (field.metadata or {}).get(ARROW_FIELD.encode())
        if text is None:
            fields.append(pa.field(field.name, unencoded(field.type), field.nullable))
            continue
        written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
        metadata = metadata or written.metadata
        fields.append(written.field(0).with_name(field.name).with_nullable(field.nullable))
    return pa.schema(fields, metadata=metadata)


def holds_naive_timestamp(stored: pa.DataType) -> bool:
    """Tell whether a stored type is, or holds, a timestamp without a zone; none lies in a map."""
    if is_list(stored):
        return holds_naive_timestamp(stored.value_type)
    if pa.types.is_struct(stored):
        return any(holds_naive_timestamp(field.type) for field in stored.fields)
    return pa.types.is_timestamp(stored) and stored.tz is None


def same_meaning(one: pa.DataType, other: pa.DataType) -> bool:
    """Tell whether rows of both types can lie in one column: the same but for encodings (large, view, dictionary)."""
    return unencoded(one) == unencoded(other)


# ---------------------------------------------------------------------------- values


def to_storage(batch: pa.RecordBatch, held: pa.Schema) -> pa.RecordBatch:
    """Bring rows to the types in which Delta holds them.

    Args:
        batch: rows of the schema that `storage_schema` was given.
        held: what it gave.

    Raises:
        ConversionError: a value does not fit, a null stands where there must be none (at any depth), or a map has a key
            twice; names the column.
    """
    arrays = [_column_to_storage(column, field) for column, field in zip(batch.columns, held, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=held)


def _column_to_storage(column: pa.Array, field: pa.Field) -> pa.Array:
    nulls = forbidden_nulls(column, nullable=field.nullable)
    if nulls is not None:
        raise ConversionError(
            f"column {field.name!r} holds null in {pc.sum(nulls).as_py()} rows where its type takes none. Declare it nullable, or "
            "fill them."
        )
    if not is_reserved(field.name) and _repeats_a_key(column):
        raise ConversionError(
            f"column {field.name!r} holds maps with a key twice; readers differ in what they make of that. Make the keys unique."
        )
    try:
        return covered(recast(column, field.type))
    except pa.ArrowException:
        raise ConversionError(
            f"column {field.name!r}: a value of type {column.type} does not fit {field.type}, in which Delta holds it. Convert "
            "the column upstream."
        ) from None  # Arrow's message shows the value


def _repeats_a_key(array: pa.Array) -> bool:
    t = array.type
    if pa.types.is_map(t):
        lengths, keys, items = map_parts(array)
        return repeated_keys(lengths, keys) is not None or _repeats_a_key(items)
    if pa.types.is_struct(t):
        return any(map(_repeats_a_key, array.flatten()))
    return is_list(t) and _repeats_a_key(list_parts(array)[1])


def from_storage(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Bring rows as Delta holds them to the types that were written; the columns are the same."""
    if batch.schema.equals(schema):
        return batch
    arrays = [recast(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def table_from_storage(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """As `from_storage`, for a table."""
    columns = [
        pa.chunked_array([recast(chunk, field.type) for chunk in column.chunks], field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)
