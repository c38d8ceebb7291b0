"""Datagram: one immutable row with a schema, held as a dict or a one-row Arrow table."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, NoReturn, Self, get_args, get_origin, get_type_hints, is_typeddict

import pyarrow as pa

from orcapod_dagster.core.columns import (
    CONTEXT_KEY,
    RECORD_ID,
    ColumnConfig,
    ColumnKind,
    column_kind,
    prefixed,
    refuse_reserved,
)
from orcapod_dagster.core.datagrams.record_ids import as_uuid, new_record_ids
from orcapod_dagster.core.errors import ConversionError, InputError
from orcapod_dagster.core.files import holds_paths
from orcapod_dagster.core.hashing import PACKET_METHOD
from orcapod_dagster.core.typed_row import TypedRow
from orcapod_dagster.core.types import ContentHash, Schema

Columns = ColumnConfig | Mapping[str, Any] | None
"""Which columns beside the data: `ColumnConfig(meta=True)`, or `{"meta": True}`; `None` for the data alone."""

EMPTY: Final = TypedRow(Schema(), {})
_NOTHING: Final[Mapping[ColumnKind, TypedRow]] = MappingProxyType({})
_ID_LOCK: Final = threading.Lock()
_set: Final = object.__setattr__


class Datagram:
    """One immutable row: data columns, and columns with reserved names that say something about them.

    It keeps the form that it was given, dict or Arrow, and makes the other when that is first asked for. A value of a
    dict is checked against its type when it goes to Arrow (`as_table`, `content_hash`), not before.

    Names decide what a column is, in a dict as in a table: `__<name>` is meta, `_source_<column>` is where a packet's
    column came from, `_tag_<name>` a system tag of a tag, `_context_key` the version of the rules of conversion and
    hashing; all others are data. Equality, hash and the mapping methods (`in`, `len`, item access) see data alone.

    Immutable: dicts, given or returned, are copied; the values in them are not. So do not change a list or another
    mutable value after you gave it or got it. A datagram from a table shares nothing with anyone until it is read.

    Args:
        data: value by column, or an Arrow table or record batch of one row.
        python_schema: the declared type of every data column, and of reserved columns where wanted. A table is
            brought to these types without loss. Optional columns of a `Schema` may be missing. Without it, types come
            from the table, nullable fields as `T | None`, and that keeps its Arrow types; or from the values, as
            `infer_type` says.
        meta_info: meta columns, with or without the prefix `__`; they replace equally named ones of `data`.
        record_id: UUIDv7 of the row; else that of the meta column `__record_id`, else made on first use.

    Raises:
        ConversionError: not one row; other columns than declared; a null in a column that takes none; values without a
            common type and without a schema. It names the column.
        InputError: a table's column does not go to its declared type without loss.
        UnsupportedTypeError: the data is neither mapping nor table, or a type has no counterpart.
    """

    __slots__ = ("_content_hash", "_data", "_further", "_record_id")
    _content_hash: ContentHash | None
    _data: TypedRow
    _further: Mapping[ColumnKind, TypedRow]
    _record_id: uuid.UUID | None
    _kinds: ClassVar[tuple[ColumnKind, ...]] = ("meta", "context")

    def __init__(
        self,
        data: Mapping[str, Any] | pa.Table | pa.RecordBatch,
        python_schema: Mapping[str, Any] | None = None,
        meta_info: Mapping[str, Any] | None = None,
        record_id: str | uuid.UUID | bytes | None = None,
    ) -> None:
        self._fill(data, python_schema, record_id, {"meta": meta_info})

    def _fill(
        self,
        data: Any,
        python_schema: Mapping[str, Any] | None,
        record_id: str | uuid.UUID | bytes | None,
        more: Mapping[ColumnKind, Mapping[str, Any] | None],
    ) -> None:
        row = TypedRow.read(data, python_schema, type(self).__name__)
        further: Mapping[ColumnKind, TypedRow] = _NOTHING
        if "_" in {name[:1] for name in row.schema}:
            row, further = self._split(row)
        for kind, values in more.items():
            if values:
                named = {prefixed(name, kind): value for name, value in values.items()}
                further = {**further, kind: further.get(kind, EMPTY).merge(named, python_schema or {})}
        _set(self, "_data", row)
        _set(self, "_further", further)
        _set(self, "_record_id", as_uuid(record_id))
        _set(self, "_content_hash", None)

    def _split(self, row: TypedRow) -> tuple[TypedRow, dict[ColumnKind, TypedRow]]:
        """Part the data from the reserved columns, by kind."""
        names: dict[ColumnKind, list[str]] = {"data": []}
        for name in row.schema:
            names.setdefault(column_kind(name), []).append(name)
        strange = [name for kind in names if kind not in ("data", *self._kinds) for name in names[kind]]
        if strange:
            raise ConversionError(
                f"A {type(self).__name__} has no place for column {strange[0]!r}: '_source_…' belongs to a Packet, '_tag_…' "
                "to a Tag. Drop the column, or make one of those."
            )
        data = row.select(names.pop("data"))
        return data, {kind: row.select(columns) for kind, columns in names.items()}

    # ------------------------------------------------------------------ reading

    def schema(self, *, columns: Columns = None) -> Schema:
        """Return names and Python types of the data columns, and of further ones where asked for."""
        if columns is None:
            return self._data.schema
        return Schema(item for row in self._rows(columns) for item in row.schema.items())

    def arrow_schema(self, *, columns: Columns = None) -> pa.Schema:
        """Return the schema of `as_table(columns=columns)`, without making that."""
        if columns is None:
            return self._data.arrow_schema()
        return pa.schema([field for row in self._rows(columns) for field in row.arrow_schema()])

    def keys(self, *, columns: Columns = None) -> tuple[str, ...]:
        """Return the names of the data columns, in order, and of further ones where asked for."""
        return tuple(name for row in self._rows(columns) for name in row.schema)

    def as_dict(self, *, columns: Columns = None) -> dict[str, Any]:
        """Return value by column in a new dict, whose values are shared with the datagram."""
        if columns is None:
            return dict(self._data.values())
        return {name: value for row in self._rows(columns) for name, value in row.values().items()}

    def as_table(self, *, columns: Columns = None) -> pa.Table:
        """Return a table of one row: the data, then meta, source or system tags, and context key where asked for.

        Raises:
            ConversionError: a value does not fit its declared type; names the column.
            KeyError: a reserved column is asked for by name that is not there.
        """
        if columns is None:
            return self._data.table()
        table = self._data.table()
        for row in list(self._rows(columns))[1:]:
            further = row.table()
            for field, column in zip(further.schema, further.columns, strict=True):
                table = table.append_column(field, column)
        return table

    def _rows(self, columns: Columns) -> Iterator[TypedRow]:
        yield self._data
        if columns is not None:
            config = ColumnConfig.of(columns)
            for kind in self._kinds:
                row = self._row(kind)
                names = config.choose(kind, row.schema.keys())
                if names:
                    yield row.select(names)

    def _row(self, kind: ColumnKind) -> TypedRow:
        """Return the columns of a kind, as they are shown."""
        if kind == "context":
            return TypedRow(Schema({CONTEXT_KEY: str}), {CONTEXT_KEY: self.context_key})
        return self._further.get(kind, EMPTY)

    def __getitem__(self, name: str) -> Any:
        self._check((name,))
        return self._data.values()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._data.schema

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.schema)

    def __len__(self) -> int:
        return len(self._data.schema)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_dict()!r})"

    # ------------------------------------------------------------------ identity

    def content_hash(self) -> ContentHash:
        """Return the hash of the data: names, declared types and values; of files, their content as of now.

        All NaNs are one value; 0.0 and -0.0 are two.

        Raises:
            InputError: a column declared `File` or `Directory` names something that cannot be read.
        """
        found = self._content_hash
        if found is None:
            found = ContentHash(PACKET_METHOD, self._data.digest())
            if not any(map(holds_paths, self._data.schema.values())):  # what a path names may change
                _set(self, "_content_hash", found)
        return found

    @property
    def datagram_id(self) -> uuid.UUID:
        """The UUIDv7 of this row; a datagram with other data columns has another one."""
        found = self._record_id
        if found is None:
            made = as_uuid(self.get_meta_value(RECORD_ID)) or uuid.UUID(bytes=new_record_ids(1))
            with _ID_LOCK:  # two threads that ask at once get one id
                found = self._record_id or made
                _set(self, "_record_id", found)
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Datagram):
            return NotImplemented
        return _same_types(self.schema(), other.schema()) and self.content_hash() == other.content_hash()

    def __hash__(self) -> int:
        return hash(self.content_hash())

    # ------------------------------------------------------------------ context key and meta columns

    @property
    def context_key(self) -> str:
        """The version of the rules of conversion and hashing under which the row was made; by default the present one."""
        row = self._further.get("context")
        return (row.values()[CONTEXT_KEY] if row else None) or PACKET_METHOD

    def with_context_key(self, key: str) -> Self:
        """Return a copy with another context key."""
        return self._copy(
            _further={**self._further, "context": TypedRow(Schema({CONTEXT_KEY: str}), {CONTEXT_KEY: key})}
        )

    def get_meta_value(self, name: str, default: Any = None) -> Any:
        """Return the value of a meta column, or `default` where there is none; the prefix `__` may be left out."""
        row = self._further.get("meta")
        return default if row is None else row.values().get(prefixed(name, "meta"), default)

    def meta_info(self) -> dict[str, Any]:
        """Return all meta columns, names with their prefix."""
        return dict(self._row("meta").values())

    def with_meta_columns(self, /, column_types: Mapping[str, Any] | None = None, **values: Any) -> Self:
        """Return a copy with these meta columns; all else stays as it is, types and record id included.

        Args:
            column_types: types of columns set here. Else a column keeps the type that it has, and a new one takes that
                of its value.
            values: value by name, with or without the prefix `__`.

        Raises:
            InputError: a type is given for a column without a value.
        """
        types = {prefixed(name, "meta"): hint for name, hint in (column_types or {}).items()}
        named = {prefixed(name, "meta"): value for name, value in values.items()}
        _refuse_valueless(types, named)
        row = self._row("meta").merge(named, types)
        return self._copy(_further={**self._further, "meta": row})

    def drop_meta_columns(self, *names: str, ignore_missing: bool = False) -> Self:
        """Return a copy without these meta columns; the types of the others stay.

        Raises:
            KeyError: a column does not exist.
        """
        row, gone = self._row("meta"), {prefixed(name, "meta") for name in names}
        if not ignore_missing:
            _check(gone, row.schema, "meta column")
        left = row.select(name for name in row.schema if name not in gone)
        return self._copy(_further={**self._further, "meta": left})

    # ------------------------------------------------------------------ data columns

    def select(self, *names: str) -> Self:
        """Return a copy with only these data columns, in this order.

        Raises:
            KeyError: a column does not exist.
        """
        self._check(names)
        return self._with_data(self._data.select(names), {name: name for name in names})

    def drop(self, *names: str, ignore_missing: bool = False) -> Self:
        """Return a copy without these data columns.

        Raises:
            KeyError: a column does not exist.
        """
        if not ignore_missing:
            self._check(names)
        return self.select(*(name for name in self if name not in names))

    def rename(self, mapping: Mapping[str, str]) -> Self:
        """Return a copy whose columns carry the new names (old → new); order, values and types stay.

        Raises:
            KeyError: a column does not exist.
            InputError: two columns would have one name.
            DefinitionError: a new name is reserved.
        """
        self._check(mapping)
        refuse_reserved(mapping.values(), type(self).__name__)
        origins = {mapping.get(name, name): name for name in self}
        if len(origins) < len(self):
            raise InputError(f"Renaming {dict(mapping)} gives two columns of {list(self)} one name. Use other names.")
        return self._with_data(self._data.rename(mapping), origins)

    def update(self, /, **values: Any) -> Self:
        """Return a copy with other values in existing columns; types stay, but a column of `None` alone takes the value's.

        Raises:
            KeyError: a column does not exist.
        """
        _check(values, self.schema(), "column", "Use with_columns() to add one.")
        return self._with_data(self._data.merge(values, {}), {name: name for name in self if name not in values})

    def with_columns(self, /, column_types: Mapping[str, Any] | None = None, **values: Any) -> Self:
        """Return a copy with more columns, of the types given, or else of their values.

        Raises:
            InputError: a column exists already, or a type is given for a column without a value.
            DefinitionError: a name is reserved.
        """
        types = column_types or {}
        refuse_reserved(values, type(self).__name__)
        _refuse_valueless(types, values)
        for name in values:
            if name in self:
                raise InputError(f"Column {name!r} exists already. Use update() to change it.")
        return self._with_data(self._data.merge(values, types), {name: name for name in self})

    def _check(self, names: Iterable[str]) -> None:
        _check(names, self._data.schema, "column")

    def _with_data(self, data: TypedRow, origins: Mapping[str, str]) -> Self:
        """Return a copy with other data; `origins` says which columns are old ones (new name → old name)."""
        further = dict(self._further)
        meta = further.get("meta", EMPTY)
        if RECORD_ID in meta.schema:  # it names the row that this one no longer is
            further["meta"] = meta.select(name for name in meta.schema if name != RECORD_ID)
        return self._copy(_data=data, _further=further, _record_id=None, _content_hash=None)

    def _copy(self, **changes: Any) -> Self:
        """Return a copy with these slots changed; it is the same row, with the same record id, unless that is changed."""
        if "_record_id" not in changes:
            changes["_record_id"] = self.datagram_id
        other = object.__new__(type(self))
        for slot in Datagram.__slots__:
            _set(other, slot, changes[slot] if slot in changes else getattr(self, slot))
        return other

    # ------------------------------------------------------------------ immutability

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"A {type(self).__name__} is immutable; update() and with_columns() give a changed copy.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"A {type(self).__name__} is immutable; drop() gives a copy without a column.")

    def __getstate__(self) -> dict[str, Any]:
        return {**{slot: getattr(self, slot) for slot in Datagram.__slots__}, "_further": dict(self._further)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for slot, value in state.items():
            _set(self, slot, value)


def _check(names: Iterable[str], there: Collection[str], what: str, advice: str = "") -> None:
    for name in names:
        if name not in there:
            raise KeyError(f"No {what} {name!r}; there are {list(there)}. {advice}".rstrip())


def _refuse_valueless(types: Iterable[str], values: Mapping[str, Any]) -> None:
    for name in types:
        if name not in values:
            raise InputError(f"column_types names {name!r}, which has no value here. Give one, or leave its type out.")


def _same_types(a: Schema, b: Schema) -> bool:
    return a == b or {n: _shape(t) for n, t in a.items()} == {n: _shape(t) for n, t in b.items()}


def _shape(hint: Any) -> Any:
    """Return what is equal for equal types, also for TypedDicts, which the converter makes anew for each struct."""
    if is_typeddict(hint):
        return {name: _shape(field) for name, field in get_type_hints(hint, include_extras=True).items()}
    args = get_args(hint)
    return (get_origin(hint), [_shape(arg) for arg in args]) if args else hint
