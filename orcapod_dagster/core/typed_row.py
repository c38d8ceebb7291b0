"""TypedRow: named, typed columns of one row, as Python values, as an Arrow table, or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import converter
from orcapod_dagster.core.columns import is_reserved
from orcapod_dagster.core.errors import ConversionError, InputError, UnsupportedTypeError
from orcapod_dagster.core.files import content_columns
from orcapod_dagster.core.hashing import HASH_TYPE, hash_rows
from orcapod_dagster.core.inference import infer_type, type_text
from orcapod_dagster.core.types import Schema

_NONE: Final = type(None)
_HASH_OF_NO_COLUMNS: Final = bytes(HASH_TYPE.byte_width)  # the empty sum of docs/hashing.md


class TypedRow:
    """Columns of one row; immutable. Each form is made of the other when it is first asked for, and kept.

    Args:
        schema: Python type by column.
        values: value by column, in the schema's order.
        table: one row with the schema's columns in their order; at least one of `values` and `table` is given.
    """

    __slots__ = ("_table", "_values", "schema")

    def __init__(self, schema: Schema, values: dict[str, Any] | None, table: pa.Table | None = None) -> None:
        self.schema = schema
        self._values = values
        self._table = table

    @classmethod
    def read(cls, data: Any, declared: Mapping[str, Any] | None, owner: str) -> TypedRow:
        """Make a row of a mapping, or of a table or record batch of one row.

        Args:
            data: the columns, those with reserved names included.
            declared: Python type by column; optional columns of a `Schema` may be missing from the data. Without it,
                and for columns with reserved names, types come from the table or the value.
            owner: for messages.

        Raises:
            ConversionError: not one row; a column twice; other columns than declared; a null where none may be.
            InputError: a column of the table does not go to its declared type without loss.
            UnsupportedTypeError: neither mapping nor table; a type without a counterpart.
        """
        schema = declared if declared is None or isinstance(declared, Schema) else Schema(declared)
        if type(data) is dict:
            return cls._of_values(data, schema, owner)
        if isinstance(data, Mapping):
            return cls._of_values(dict(data), schema, owner)  # one that makes up missing values would change here
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        if isinstance(data, pa.Table):
            return cls._of_table(data, schema, owner)
        raise UnsupportedTypeError(
            f"{owner}: the data is a {type(data).__qualname__}. Give a mapping, or an Arrow table of one row."
        )

    @classmethod
    def _of_values(cls, data: dict[str, Any], declared: Schema | None, owner: str) -> TypedRow:
        if declared is not None and len(declared) == len(data) and not declared.optional:
            try:
                return cls(declared, {name: data[name] for name in declared})
            except KeyError:
                pass  # the columns differ; said below
        schema = _complete(list(data), declared, lambda name: infer_type(data[name], name), owner)
        return cls(schema, {name: data[name] for name in schema})

    @classmethod
    def _of_table(cls, table: pa.Table, declared: Schema | None, owner: str) -> TypedRow:
        if table.num_rows != 1:
            raise ConversionError(f"{owner}: the table has {table.num_rows} rows; expected one. Slice it to one row.")
        names = table.column_names
        if declared is not None and names == list(declared) and not declared.optional:
            schema = declared
        else:
            schema = _complete(names, declared, lambda name: converter.field_type(table.schema.field(name)), owner)
        return cls(schema, None, table if declared is None else _conformed(table, schema, declared, owner))

    # ------------------------------------------------------------------ the two forms

    def values(self) -> dict[str, Any]:
        """Return value by column: the row's own dict, not to be changed."""
        if self._values is None:
            table = self.table()
            self._values = {name: _read(table.column(name), hint, name) for name, hint in self.schema.items()}
        return self._values

    def table(self) -> pa.Table:
        """Return the table of one row; also without columns it has one."""
        if self._table is None:
            values = self.values()
            arrays = [converter.to_array([values[name]], hint, column=name) for name, hint in self.schema.items()]
            self._table = pa.Table.from_arrays(arrays, schema=self.arrow_schema()) if arrays else _no_columns()
        return self._table

    def arrow_schema(self) -> pa.Schema:
        """Return the schema of `table()`, without making that."""
        return converter.arrow_schema(self.schema) if self._table is None else self._table.schema

    def digest(self) -> bytes:
        """Return the content hash, 16 bytes; of files, their content as of now."""
        table = self.table()
        columns = {name: _declared(table.column(name), hint, name) for name, hint in self.schema.items()}
        return hash_rows(content_columns(columns, self.schema))[0].as_py() if columns else _HASH_OF_NO_COLUMNS

    # ------------------------------------------------------------------ other rows made of this one

    def select(self, names: Iterable[str]) -> TypedRow:
        """Return the row with only these columns, in this order."""
        wanted = list(dict.fromkeys(names))
        values, table = self._values, self._table
        return TypedRow(
            self.schema.select(wanted),
            None if values is None else {name: values[name] for name in wanted},
            None if table is None else table.select(wanted),
        )

    def rename(self, mapping: Mapping[str, str]) -> TypedRow:
        """Return the row with other names; the caller has seen to it that they differ."""
        values, table = self._values, self._table
        names = [mapping.get(name, name) for name in self.schema]
        return TypedRow(
            Schema(zip(names, self.schema.values(), strict=True)),
            None if values is None else dict(zip(names, values.values(), strict=True)),
            None if table is None else table.rename_columns(names),
        )

    def merge(self, values: Mapping[str, Any], types: Mapping[str, Any]) -> TypedRow:
        """Return the row with these values in new columns, or in place of what was there.

        A column takes the type given, else the one that it has, else that of the value; a type of `None` alone counts
        as none.
        """
        schema = dict(self.schema)
        for name, value in values.items():
            known = types.get(name, schema.get(name, _NONE))
            schema[name] = infer_type(value, name) if known is _NONE else known
        return TypedRow(
            Schema(schema),
            None if self._values is None else {**self._values, **values},
            None if self._table is None else _with_columns(self._table, values, schema),
        )


def _complete(names: list[str], declared: Schema | None, find: Any, owner: str) -> Schema:
    """Return the type of every column that is there: the declared ones first, in their order, then those found."""
    strange = [name for name in names if not isinstance(name, str)]  # pyright: ignore[reportUnnecessaryIsInstance]  # a mapping may have any keys
    if strange:
        raise ConversionError(f"{owner}: {strange[0]!r} is no column name. Use strings.")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ConversionError(f"{owner}: the table has column {repeated[0]!r} more than once. Rename one of them.")
    if declared is None:
        return Schema({name: find(name) for name in names})
    there = set(names)
    missing = [n for n in declared if n not in there and n not in declared.optional and not is_reserved(n)]
    unknown = [n for n in names if n not in declared and not is_reserved(n)]
    if missing or unknown:
        raise ConversionError(
            f"{owner}: the data has the columns {names}, the schema {list(declared)}; missing {missing}, not declared "
            f"{unknown}. Make them the same."
        )
    types = {name: hint for name, hint in declared.items() if name in there}
    return Schema({**types, **{name: find(name) for name in names if name not in declared}})


def _conformed(table: pa.Table, schema: Schema, declared: Schema, owner: str) -> pa.Table:
    """Bring the declared columns to their types; the others stay as they are."""
    fields = [_field(name, hint) if name in declared else table.field(name) for name, hint in schema.items()]
    wanted = pa.schema(fields)
    if table.schema != wanted:
        arrays = [
            column if column.type == field.type else converter.conform(column, schema[name], name=name, owner=owner)
            for name, field, column in zip(schema, fields, map(table.column, schema), strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=wanted)
    for field, column in zip(fields, table.columns, strict=True):
        if not field.nullable and column.null_count:
            raise ConversionError(
                f"{owner}: column {field.name!r} is null, but its type {type_text(schema[field.name])} takes no null. Declare it as "
                "'... | None', or leave such rows out."
            )
    return table


def _field(name: str, hint: Any) -> pa.Field:
    try:
        return converter.arrow_field(name, hint)
    except UnsupportedTypeError as error:
        raise UnsupportedTypeError(f"column {name!r}: {error}") from None


def _read(column: pa.ChunkedArray, hint: Any, name: str) -> Any:
    try:
        return converter.to_python(column, hint)[0]
    except UnsupportedTypeError as error:
        raise UnsupportedTypeError(f"column {name!r}: {error}") from None


def _declared(column: pa.ChunkedArray, hint: Any, name: str) -> Any:
    """Bring a column to the Arrow type of its Python type, so that a row hashes as its values do.

    Where a table that came without a schema holds what this type cannot (nanoseconds, say), the column is hashed as it is.
    """
    try:
        return converter.conform(column, hint, name=name)
    except (InputError, ConversionError, UnsupportedTypeError):
        return column


def _with_columns(table: pa.Table, values: Mapping[str, Any], schema: Mapping[str, Any]) -> pa.Table:
    for name, value in values.items():
        field, array = _field(name, schema[name]), converter.to_array([value], schema[name], column=name)
        position = table.schema.get_field_index(name)
        table = table.append_column(field, array) if position < 0 else table.set_column(position, field, array)
    return table


def _no_columns() -> pa.Table:
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}], pa.struct([])))])
