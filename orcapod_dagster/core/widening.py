"""Output types that grew: which stored values another type holds, all of them or some, and how they come over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import is_list, one_array, recast, unencoded
from orcapod_dagster.core.sources import TableSource

Widening = Literal["all", "some"]
"""Whether each value of one type is one of another, or only such as are exact there."""

_EXACT_BITS: Final = {16: 11, 32: 24, 64: 53}


def widening(before: pa.Field, after: pa.Field) -> Widening | None:
    """Tell whether values of one field are values of another, unchanged; `None` where the type did not grow.

    It grows from integers to wider integers and to floats, from floats to wider ones, from decimals to such with as many
    digits on both sides of the point, from never null to sometimes null, and so at any depth.
    """
    if before.nullable and not after.nullable:
        return None
    return _widening(unencoded(before.type), unencoded(after.type))


def _widening(before: pa.DataType, after: pa.DataType) -> Widening | None:
    is_ = pa.types
    if before == after:
        return "all"
    if isinstance(before, pa.BaseExtensionType) or isinstance(after, pa.BaseExtensionType):
        return None
    if is_.is_integer(before) and is_.is_integer(after):
        grows = after.bit_width > before.bit_width
        if is_.is_signed_integer(before) == is_.is_signed_integer(after):
            return "all" if grows else None
        return "all" if grows and is_.is_signed_integer(after) else None
    if is_.is_integer(before) and is_.is_floating(after):
        bits = before.bit_width - is_.is_signed_integer(before)
        return "all" if bits <= _EXACT_BITS[after.bit_width] else "some"
    if is_.is_floating(before) and is_.is_floating(after):
        return "all" if after.bit_width > before.bit_width else None
    if is_.is_decimal(before) and is_.is_decimal(after):
        whole = after.precision - after.scale >= before.precision - before.scale
        return "all" if whole and after.scale >= before.scale else None
    return _inner_widening(before, after)


def _inner_widening(before: pa.DataType, after: pa.DataType) -> Widening | None:
    is_ = pa.types
    if is_.is_map(before) and is_.is_map(after):
        # Two keys that differ could become one key only by a cast that is not exact.
        keys = "all" if before.key_type == after.key_type else None
        return _least([keys, widening(before.item_field, after.item_field)])
    if is_.is_struct(before) and is_.is_struct(after):
        fields = {field.name: field for field in after.fields}
        if len(fields) != after.num_fields or sorted(fields) != sorted(f.name for f in before.fields):
            return None
        return _least([widening(field, fields[field.name]) for field in before.fields])
    if is_list(before) and is_list(after) and is_.is_fixed_size_list(before) == is_.is_fixed_size_list(after):
        if is_.is_fixed_size_list(before) and before.list_size != after.list_size:
            return None
        return widening(before.value_field, after.value_field)
    return None


def _least(found: Sequence[Widening | None]) -> Widening | None:
    return None if None in found else "some" if "some" in found else "all"


def widenings(before: Sequence[pa.Field], after: Sequence[pa.Field]) -> dict[str, Widening] | None:
    """Return, per column, how its type grew; `None` where the columns are others or one did not only grow."""
    fields = {field.name: field for field in after}
    if sorted(fields) != sorted(field.name for field in before):
        return None
    found: dict[str, Widening] = {}
    for field in before:
        how = widening(field, fields[field.name])
        if how is None:
            return None
        found[field.name] = how
    return found


class WidenedSource(TableSource):
    """A table with the columns and types of another; rows with a value that is not exact there are left out.

    Args:
        inner: the table. Columns that it lacks are null.
        schema: the columns and types to give.
        checked: columns of which some values may not be exact in the new type; these are read once, at first use.
    """

    def __init__(self, inner: TableSource, schema: pa.Schema, checked: Sequence[str] = ()) -> None:
        self._inner = inner
        self._schema = schema
        self._kept = _exact_rows(inner, schema, checked) if checked else None

    @property
    def schema(self) -> pa.Schema:
        """The columns and types that were asked for."""
        return self._schema

    @property
    def num_rows(self) -> int:
        """Number of rows, without those that are left out."""
        return self._inner.num_rows if self._kept is None else len(self._kept)

    @property
    def description(self) -> str:
        """What the table inside is."""
        return self._inner.description

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return what a row takes before it is cast."""
        return self._inner.row_bytes(self._held(columns))

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the order of the table inside."""
        start, mask = 0, None
        if self._kept is not None:
            mask = pc.is_in(pa.array(range(self._inner.num_rows), pa.int64()), value_set=self._kept)
        for batch in self._inner.scan(self._held(columns) or [self._inner.schema.names[0]]):
            rows = batch if mask is None else batch.filter(mask.slice(start, batch.num_rows))
            start += batch.num_rows
            if rows.num_rows:
                held = dict(zip(rows.schema.names, rows.columns, strict=True))
                yield pa.RecordBatch.from_arrays(self._cast(held, columns, rows.num_rows), schema=self._chosen(columns))

    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Return rows by their positions among those that are not left out."""
        inner = positions if self._kept is None else self._kept.take(positions)
        return self._table(self._inner.take(inner, self._held(columns)), len(positions), columns)

    def find(self, column: str, keys: pa.Array, columns: Sequence[str]) -> tuple[pa.Array, pa.Table]:
        """Find rows by the index of the table inside."""
        positions, rows = self._inner.find(column, keys, self._held(columns))
        if self._kept is not None:
            among = pc.index_in(positions, value_set=self._kept).cast(pa.int64())
            positions, rows = among.filter(among.is_valid()), rows.filter(among.is_valid())
        return positions, self._table(rows, len(positions), columns)

    def _held(self, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name in self._inner.schema.names]

    def _chosen(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self._schema.field(name) for name in columns])

    def _table(self, table: pa.Table, rows: int, columns: Sequence[str]) -> pa.Table:
        held = {name: one_array(table[name]) for name in table.column_names}
        return pa.Table.from_arrays(self._cast(held, columns, rows), schema=self._chosen(columns))

    def _cast(self, held: Mapping[str, pa.Array], columns: Sequence[str], rows: int) -> list[pa.Array]:
        types = [self._schema.field(name).type for name in columns]
        return [
            recast(held[name], t) if name in held else pa.nulls(rows, t) for name, t in zip(columns, types, strict=True)
        ]


def _exact_rows(source: TableSource, schema: pa.Schema, columns: Sequence[str]) -> pa.Array | None:
    """Return the positions of the rows whose values are exact in their new types; `None` for all."""
    masks = [pa.array([], pa.bool_())]
    for batch in source.scan(columns):
        mask: Any = pa.repeat(True, batch.num_rows)
        for name, column in zip(columns, batch.columns, strict=True):
            mask = pc.and_(mask, _exact(column, schema.field(name).type))
        masks.append(one_array(mask))
    exact = pa.concat_arrays(masks)
    return None if pc.all(exact, min_count=0).as_py() else pc.indices_nonzero(exact).cast(pa.int64())


def _exact(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Tell which values are exact in a type; nested ones all or none of a batch."""
    try:
        recast(column, target)
    except pa.ArrowInvalid:
        if not pa.types.is_integer(column.type):
            return pa.repeat(False, len(column))
    else:
        return pa.repeat(True, len(column))
    as_float = column.cast(target, safe=False).cast(pa.float64())
    # The largest integers round up to a power of two that is none of their type.
    bits = column.type.bit_width - pa.types.is_signed_integer(column.type)
    fits = pc.less(as_float, float(1 << bits))
    back = pc.if_else(fits, as_float, 0.0).cast(column.type, safe=False)
    return one_array(pc.fill_null(pc.and_(fits, pc.equal(back, column)), True))
