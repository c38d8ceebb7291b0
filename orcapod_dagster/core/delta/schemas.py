"""Columns of a table and of what is written to it: what differs, what is refused, and what is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable, Schema, TableFeatures

from orcapod_dagster.core.delta.creation import locked
from orcapod_dagster.core.delta.table import reading
from orcapod_dagster.core.errors import LakeError, SchemaMismatchError
from orcapod_dagster.core.storage import options_for
from orcapod_dagster.core.storage_types import holds_naive_timestamp, same_meaning, storage_schema

_NAIVE_FEATURE: Final = "timestampNtz"


def schema_difference(table: pa.Schema, data: pa.Schema) -> list[str]:
    """Return what differs, line by line: "new column …", "missing column …", "column … is …, was …"."""
    old, new = {f.name: f for f in table}, {f.name: f for f in data}
    lines = [f"new column {n!r} ({f.type})" for n, f in new.items() if n not in old]
    lines += [f"missing column {n!r} ({f.type})" for n, f in old.items() if n not in new]
    if not lines and list(old) != list(new):
        lines.append(f"the order of the columns is {list(new)}, was {list(old)}")
    for name in old.keys() & new.keys():
        if not same_meaning(old[name].type, new[name].type):
            lines.append(f"column {name!r} is {new[name].type}, was {old[name].type}")
        elif new[name].nullable and not old[name].nullable:
            lines.append(f"column {name!r} may be null, was not null")
    return sorted(lines)


def refuse_folders(uri: str, table: DeltaTable | None) -> None:
    """Refuse a table whose files have partition values, which ours have not: their rows would be read with nulls."""
    columns = [] if table is None else table.metadata().partition_columns
    if columns:
        raise LakeError(
            f"{uri} is laid out in folders by {columns}, which another engine did. Nothing was written. Name another asset, or "
            "remove the table."
        )


def refuse_difference(uri: str, difference: Sequence[str]) -> None:
    """Refuse a write whose columns differ from the table's."""
    if difference:
        raise SchemaMismatchError(
            f"{uri}: the data does not have the table's columns: {'; '.join(difference)}. Nothing was written. Change the "
            'data, allow it with the definition metadata "orcapod/schema_evolution" ("add", or "overwrite" for a whole '
            "table), or remove the table."
        )


def add_columns(uri: str, schema: pa.Schema, storage_options: Mapping[str, str] | None) -> None:
    """Give a table the columns that it lacks, in a commit of its own."""
    with locked(uri), reading(uri):
        table = DeltaTable(uri, storage_options=options_for(uri, storage_options))
        known = {field.name for field in table.schema().fields}
        stored = storage_schema(schema)
        allow_naive_timestamps(table, stored)
        # Rows that are there already have no value in a new column.
        wanted = Schema.from_arrow(pa.schema([field.with_nullable(True) for field in stored]))
        table.alter.add_columns([field for field in wanted.fields if field.name not in known])


def allow_naive_timestamps(table: DeltaTable, stored: pa.Schema) -> None:
    """Give a table the feature for timestamps without a zone, in a commit of its own, before its schema has one.

    delta-rs would commit the schema without it, and could not open the table any more.
    """
    needed = any(holds_naive_timestamp(field.type) for field in stored)
    if needed and _NAIVE_FEATURE not in (table.protocol().reader_features or ()):
        table.alter.add_feature(TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True)
