"""Dagster partitions → predicates over the partition column of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core import predicates
from orcapod_dagster.core.errors import PartitionError
from orcapod_dagster.core.predicates import AllOf, AnyOf, Equals, Predicate, Window

EXPR: Final = "partition_expr"
EXPR_PROPERTY: Final = "orcapod.partition_expr"


def plain(value: Any) -> Any:
    """Return the value inside a Dagster metadata value, or the value itself."""
    return getattr(value, "value", value)


def stored_expr(table: DeltaTable) -> Any:
    """Return by which columns a table was written in partitions; `None` where it was written as a whole."""
    stored = table.metadata().configuration.get(EXPR_PROPERTY)
    return None if stored is None else json.loads(stored)


def predicate_of(
    definition: dg.PartitionsDefinition[Any], keys: Sequence[str], expr: Any, schema: pa.Schema, owner: str
) -> Predicate:
    """Return which rows belong to partitions.

    Args:
        definition: the asset's partitions.
        keys: the partition keys.
        expr: `partition_expr`: a column, or for multi-dimensional partitions dimension → column.
        schema: of the table, which tells a window's column from a key's.
        owner: for messages ("asset flights").

    Raises:
        PartitionError: there is no `partition_expr`, no such column, or no right way to express the partition.
    """
    if not keys:
        raise PartitionError(f"{owner}: the run selects no partition. Select at least one.")
    if expr is None:
        raise PartitionError(
            f"{owner} is partitioned, but does not say by which column. Give metadata={{'partition_expr': '<column>'}}."
        )
    if isinstance(definition, dg.MultiPartitionsDefinition):
        parts = [_cell(definition, key, expr, schema, owner) for key in keys]
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))
    if not isinstance(expr, str):
        raise PartitionError(
            f"{owner}: partition_expr is {expr!r}; for partitions of one dimension it is one column's name."
        )
    return _one_dimension(definition, keys, expr, schema, owner)


def refuse_outside(rows: pa.Table | pa.RecordBatch, where: Predicate, owner: str, keys: Sequence[str]) -> None:
    """Refuse rows that do not belong to the partitions of a run.

    Raises:
        PartitionError: says how many there are, never which.
    """
    predicates.refuse_outside(rows, where, owner, run_text(keys))


def run_text(keys: Sequence[str]) -> str:
    """Return the partitions of a run for messages: a few, and whether there are more."""
    return "the partitions of this run (" + ", ".join(list(keys)[:3]) + (", …)" if len(keys) > 3 else ")")


def _cell(definition: dg.MultiPartitionsDefinition, key: str, expr: Any, schema: pa.Schema, owner: str) -> Predicate:
    names = {dimension.name for dimension in definition.partitions_defs}
    if not isinstance(expr, Mapping) or set(expr) != names:  # pyright: ignore[reportUnknownArgumentType]  # checked just here
        raise PartitionError(
            f"{owner}: partition_expr is {expr!r}; it must name a column for each of the dimensions {sorted(names)}."
        )
    multi = key if isinstance(key, dg.MultiPartitionKey) else definition.get_partition_key_from_str(key)
    by_name = multi.keys_by_dimension
    return AllOf(
        tuple(
            _one_dimension(d.partitions_def, [by_name[d.name]], str(expr[d.name]), schema, owner)  # pyright: ignore[reportUnknownArgumentType]
            for d in definition.partitions_defs
        )
    )


def _one_dimension(
    definition: dg.PartitionsDefinition[Any], keys: Sequence[str], column: str, schema: pa.Schema, owner: str
) -> Predicate:
    if column not in schema.names:
        raise PartitionError(
            f"{owner}: partition_expr names the column {column!r}, but the table has {schema.names}. Mend it, or add the column."
        )
    in_time = pa.types.is_temporal(schema.field(column).type)
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition) or not in_time:
        return Equals(column, tuple(keys))
    windows = [definition.time_window_for_partition_key(key) for key in keys]
    parts = [Window(column, window.start, window.end) for window in _merged(windows)]
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _merged(windows: Sequence[Any]) -> list[Any]:
    """Join windows that follow one another, so that a range of partitions is one comparison."""
    merged: list[Any] = []
    for window in sorted(windows, key=lambda w: w.start):
        if merged and merged[-1].end == window.start:
            merged[-1] = merged[-1]._replace(end=window.end)
        else:
            merged.append(window)
    return merged
