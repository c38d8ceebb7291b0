"""Datagram, Packet, Tag: immutable single rows with a schema, held as a dict or a one-row Arrow table."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import pyarrow as pa

from orcapod_dagster.core import converter
from orcapod_dagster.core.columns import META_PREFIX, SOURCE_PREFIX
from orcapod_dagster.core.errors import ConversionError
from orcapod_dagster.core.hashing import PACKET_METHOD, hash_rows
from orcapod_dagster.core.types import ContentHash, Schema

_VERSION_7 = bytes(0x70 | (byte & 0x0F) for byte in range(256))
_VARIANT = bytes(0x80 | (byte & 0x3F) for byte in range(256))


def new_record_ids(count: int) -> bytes:
    """Return `count` fresh UUIDv7s (RFC 9562), 16 bytes each, one after another."""
    milliseconds = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    ids = bytearray(os.urandom(16 * count))
    for position, byte in enumerate(milliseconds):
        ids[position::16] = bytes([byte]) * count
    ids[6::16] = ids[6::16].translate(_VERSION_7)
    ids[8::16] = ids[8::16].translate(_VARIANT)
    return bytes(ids)


def infer_type(value: Any) -> Any:
    """Return the Python type of a single value, for datagrams that are given no schema."""
    if value is None:
        return type(None)
    if isinstance(value, dict):
        return converter.python_type(
            pa.array([list(value.items())], pa.map_(pa.string(), pa.array(list(value.values())).type)).type
        )
    if isinstance(value, (list, set, tuple)):
        inner = infer_type(next(iter(value), None))
        return type(value)[inner, ...] if isinstance(value, tuple) else type(value)[inner]  # pyright: ignore[reportInvalidTypeArguments]
    return type(value)


class Datagram:
    """One immutable row.

    Args:
        data: values by column name, or a one-row Arrow table.
        python_schema: the declared types; without it they come from the table's schema or the values.
        meta_info: columns about the row (names get the prefix `__`), not part of its content.
        record_id: UUIDv7 of the row; made on first use where it is not given.

    Raises:
        ConversionError: the table has not exactly one row, or a schema column has no value.
    """

    __slots__ = ("_dict", "_meta", "_record_id", "_schema", "_table")

    def __init__(
        self,
        data: Mapping[str, Any] | pa.Table,
        python_schema: Mapping[str, Any] | None = None,
        meta_info: Mapping[str, Any] | None = None,
        record_id: str | uuid.UUID | bytes | None = None,
    ) -> None:
        self._table: pa.Table | None = None
        self._dict: dict[str, Any] | None = None
        if not isinstance(data, Mapping):
            if data.num_rows != 1:
                raise ConversionError(f"A datagram is one row; the table has {data.num_rows}. Slice it to one row.")
            self._table = data
            names: list[str] = data.column_names
        else:
            self._dict = dict(data)
            names = list(self._dict)
        self._schema = self._make_schema(python_schema, names)
        self._meta = {self._meta_name(k): v for k, v in (meta_info or {}).items()}
        self._record_id = _as_uuid(record_id)

    def _make_schema(self, given: Mapping[str, Any] | None, names: list[str]) -> Schema:
        if given is not None:
            missing = [name for name in given if name not in names]
            if missing or len(given) != len(names):
                raise ConversionError(
                    f"The data has the columns {names}, the schema {list(given)}. Make them the same."
                )
            return given if isinstance(given, Schema) else Schema(given)
        if self._table is not None:
            return converter.python_schema(self._table.schema)
        return Schema({name: infer_type(value) for name, value in (self._dict or {}).items()})

    @staticmethod
    def _meta_name(name: str) -> str:
        return name if name.startswith(META_PREFIX) else META_PREFIX + name

    def schema(self) -> Schema:
        """Return names and Python types of the data columns."""
        return self._schema

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema of the data columns."""
        return converter.arrow_schema(self._schema)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the data columns, in order."""
        return tuple(self._schema)

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the data columns by name."""
        if self._dict is None:
            table = self._table
            assert table is not None
            self._dict = {n: converter.to_python(table[n], hint)[0] for n, hint in self._schema.items()}
        return dict(self._dict)

    def as_table(self) -> pa.Table:
        """Return a one-row table of the data columns, with the schema's exact types."""
        if self._table is None:
            values = self._dict or {}
            arrays = [converter.to_array([values[n]], hint, column=n) for n, hint in self._schema.items()]
            self._table = pa.Table.from_arrays(arrays, schema=self.arrow_schema())
        return self._table

    def get_meta_value(self, name: str, default: Any = None) -> Any:
        """Return the value of a meta column, or `default`; the prefix `__` may be left out."""
        return self._meta.get(self._meta_name(name), default)

    def meta(self) -> dict[str, Any]:
        """Return all meta columns, names with their prefix."""
        return dict(self._meta)

    def with_meta_columns(self, **columns: Any) -> Self:
        """Return a copy with these meta columns set; data columns and their types stay."""
        return self._copy(meta={**self._meta, **{self._meta_name(k): v for k, v in columns.items()}})

    def drop_meta_columns(self, *names: str) -> Self:
        """Return a copy without these meta columns."""
        gone = {self._meta_name(name) for name in names}
        return self._copy(meta={k: v for k, v in self._meta.items() if k not in gone})

    def select(self, *names: str) -> Self:
        """Return a copy with only these data columns, in this order."""
        values = self.as_dict()
        return self._copy(data={n: values[n] for n in names}, schema=self._schema.select(names))

    def drop(self, *names: str) -> Self:
        """Return a copy without these data columns."""
        return self.select(*(n for n in self._schema if n not in names))

    def rename(self, mapping: Mapping[str, str]) -> Self:
        """Return a copy whose columns carry the new names; types stay."""
        values = self.as_dict()
        schema = Schema({mapping.get(n, n): t for n, t in self._schema.items()})
        return self._copy(data={mapping.get(n, n): v for n, v in values.items()}, schema=schema)

    def update(self, **values: Any) -> Self:
        """Return a copy with other values in existing columns; types stay.

        Raises:
            KeyError: a column does not exist.
        """
        unknown = [n for n in values if n not in self._schema]
        if unknown:
            raise KeyError(f"No column {unknown[0]!r}; there are {list(self._schema)}. Use with_columns() to add one.")
        return self._copy(data={**self.as_dict(), **values}, schema=self._schema)

    def with_columns(self, column_types: Mapping[str, Any] | None = None, /, **values: Any) -> Self:
        """Return a copy with more columns, of the types given or inferred from the values."""
        types = {n: (column_types or {}).get(n, infer_type(v)) for n, v in values.items()}
        return self._copy(data={**self.as_dict(), **values}, schema=Schema({**self._schema, **types}))

    def _copy(
        self,
        *,
        data: Mapping[str, Any] | None = None,
        schema: Schema | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Self:
        other = object.__new__(type(self))
        other._table = self._table if data is None else None
        other._dict = self._dict if data is None else dict(data)
        other._schema = self._schema if schema is None else schema
        other._meta = dict(self._meta if meta is None else meta)
        other._record_id = self._record_id if data is None else None
        return other

    def content_hash(self) -> ContentHash:
        """Return the hash of the data columns: names, declared types and values."""
        table = self.as_table()
        hashes = hash_rows({name: table[name] for name in table.column_names})
        return ContentHash(PACKET_METHOD, hashes[0].as_py())

    @property
    def datagram_id(self) -> uuid.UUID:
        """The UUIDv7 of this row."""
        if self._record_id is None:
            self._record_id = uuid.UUID(bytes=new_record_ids(1))
        return self._record_id

    def __getitem__(self, name: str) -> Any:
        return self.as_dict()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._schema

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema)

    def __len__(self) -> int:
        return len(self._schema)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Datagram)
            and self._schema == other._schema
            and self.content_hash() == other.content_hash()
        )

    def __hash__(self) -> int:
        return hash(self.content_hash())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_dict()!r})"


class Tag(Datagram):
    """The columns that say which row this is; never part of a cache key."""

    __slots__ = ()


class Packet(Datagram):
    """The values that a function consumes or produces for one row."""

    __slots__ = ("_source",)

    def with_source(self, uri: Iterable[str]) -> Self:
        """Return a copy that knows the packet function that made it."""
        other = self._copy()
        other._source = ":".join(uri)
        other._record_id = self.datagram_id
        return other

    def _copy(self, **changes: Any) -> Self:
        other = super()._copy(**changes)
        other._source = getattr(self, "_source", None)
        return other

    def source_info(self) -> dict[str, str | None]:
        """Return per column `"<uri>::<record id>::<column>"`, or `None` for a packet that no function made."""
        source = getattr(self, "_source", None)
        return {n: f"{source}::{self.datagram_id}::{n}" if source else None for n in self._schema}

    def source_columns(self) -> dict[str, str | None]:
        """Return `source_info` under the names of its columns (`_source_<column>`)."""
        return {SOURCE_PREFIX + name: value for name, value in self.source_info().items()}


def _as_uuid(value: str | uuid.UUID | bytes | None) -> uuid.UUID | None:
    if value is None or isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value)
