"""Packet: the row of values that a function consumes or produces, with where each came from."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pyarrow as pa

from orcapod_dagster.core.columns import SOURCE_PREFIX, ColumnKind, prefixed
from orcapod_dagster.core.datagrams.datagram import EMPTY, Datagram
from orcapod_dagster.core.errors import ConversionError
from orcapod_dagster.core.typed_row import TypedRow
from orcapod_dagster.core.types import Schema


class Packet(Datagram):
    """The values that a function consumes or produces for one row, and where each came from.

    Args:
        data, python_schema, meta_info, record_id: as for `Datagram`.
        source_info: column → source, for some columns or all, with or without the prefix `_source_`.

    Raises:
        ConversionError: besides, a source is no string, or that of a column that is not there.
    """

    __slots__ = ()
    _kinds = ("meta", "source", "context")

    def __init__(
        self,
        data: Mapping[str, Any] | pa.Table | pa.RecordBatch,
        python_schema: Mapping[str, Any] | None = None,
        meta_info: Mapping[str, Any] | None = None,
        record_id: str | uuid.UUID | bytes | None = None,
        *,
        source_info: Mapping[str, str | None] | None = None,
    ) -> None:
        self._fill(data, python_schema, record_id, {"meta": meta_info, "source": source_info})
        if "source" in self._further:
            self._check_sources(self._further["source"].values())

    def _check_sources(self, sources: Mapping[str, Any]) -> None:
        for name, source in sources.items():
            if source is not None and not isinstance(source, str):
                raise ConversionError(
                    f"Column {name!r} holds a {type(source).__qualname__}; a source is a string or None."
                )
            if name.removeprefix(SOURCE_PREFIX) not in self:
                raise ConversionError(f"Column {name!r} is the source of a column that is not there. Drop it as well.")

    def source_info(self) -> dict[str, str | None]:
        """Return the source of each data column, as a rule `"<uri joined by ':'>::<record id>::<column>"`, else `None`.

        A renamed column keeps its source; a column that was set by `update` or `with_columns` has none.
        """
        row = self._further.get("source", EMPTY)
        return {name: row.values().get(SOURCE_PREFIX + name) for name in self}

    def with_source_info(self, /, **sources: str | None) -> Self:
        """Return a copy in which these columns have these sources, the others those that they had."""
        known: dict[str, str | None] = {SOURCE_PREFIX + name: source for name, source in self.source_info().items()}
        known |= {prefixed(name, "source"): source for name, source in sources.items()}
        self._check_sources(known)
        return self._copy(_further={**self._further, "source": _source_row(known)})

    def with_source(self, uri: Iterable[str]) -> Self:
        """Return a copy all of whose columns come from this record of the packet function `uri`."""
        start = f"{':'.join(uri)}::{self.datagram_id}::"
        known: dict[str, str | None] = {SOURCE_PREFIX + name: start + name for name in self}
        return self._copy(_further={**self._further, "source": _source_row(known)})

    def _row(self, kind: ColumnKind) -> TypedRow:
        if kind == "source":
            return _source_row({SOURCE_PREFIX + name: source for name, source in self.source_info().items()})
        return super()._row(kind)

    def _with_data(self, data: TypedRow, origins: Mapping[str, str]) -> Self:
        other = super()._with_data(data, origins)
        if "source" not in self._further:
            return other
        sources = self.source_info()
        known = {SOURCE_PREFIX + new: sources[old] for new, old in origins.items()}
        return other._copy(_further={**other._further, "source": _source_row(known)})


def _source_row(sources: dict[str, str | None]) -> TypedRow:
    return TypedRow(Schema(dict.fromkeys(sources, str | None)), sources)
