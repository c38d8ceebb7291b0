"""One packet's rows in the inputs of its asset, by its tags, and the partition that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import DefinitionError, InputError, PartitionError, TableNotFoundError
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.core.tag_values import tag_text
from orcapod_dagster.desk.finding import FoundRows, find_rows
from orcapod_dagster.desk.opening import Desk
from orcapod_dagster.inputs import open_stream
from orcapod_dagster.spec import PacketAssetSpec


@dataclass(frozen=True, slots=True)
class InputRows:
    """What the inputs of an asset hold of given tags.

    Attributes:
        stream: their rows joined, as packets of the asset; one row where the tags say which it is.
        found: upstream key → its rows with these tags, and the version of its table that was read.
    """

    stream: PacketStream
    found: Mapping[dg.AssetKey, FoundRows]


def input_rows(
    desk: Desk,
    spec: PacketAssetSpec,
    tags: Mapping[str, Any],
    partition: str | None,
    versions: Mapping[dg.AssetKey, int] | None = None,
) -> InputRows:
    """Open just the rows with these tags, through the binding of a run.

    Args:
        desk, spec: the asset.
        tags: all its tag columns → value.
        partition: of the asset; with None, for an asset with partitions, all that there is.
        versions: as `Desk.inputs`.

    Raises:
        InputError: a tag is missing, unknown, or no value of its column.
    """
    check_tags(desk, spec, tags)
    found: dict[str, FoundRows] = {}
    for name, source in desk.inputs(spec, partition, versions).items():
        columns = {spec.rename.get(column, column): column for column in source.schema.names}
        found[name] = find_rows(source, {columns[tag]: value for tag, value in tags.items() if tag in columns})
    stream = open_stream(spec, found, desk.graph)
    return InputRows(stream, {spec.inputs[name]: rows for name, rows in found.items()})


def packet_tags(spec: PacketAssetSpec, tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tags of a packet; the index of a generator is one of a row of its table alone."""
    return {name: value for name, value in tags.items() if name not in spec.index_columns}


def check_tags(desk: Desk, spec: PacketAssetSpec, tags: Mapping[str, Any]) -> None:
    """Refuse tags that are not just those of the asset.

    Raises:
        InputError: one is missing, or unknown.
    """
    known = desk.tags_of(spec)
    if set(known) != set(tags):
        raise InputError(
            f"{spec.key.to_user_string()} has the tag columns {list(known)}; got {list(tags)}. Give a value for each of them."
        )


def tags_told(tags: Mapping[str, Any]) -> str:
    """Return tags for a message."""
    return ", ".join(f"{name}={tag_text(value)}" for name, value in tags.items())


def partition_of(desk: Desk, spec: PacketAssetSpec, tags: Mapping[str, Any]) -> str | None:
    """Return the partition in which the row with these tags stands, in the asset's table, or else in its inputs.

    Returns:
        `None` for an asset without partitions.

    Raises:
        InputError: there is no such row. PartitionError: it stands in several partitions, or in none that can be told.
    """
    if desk.asset(spec.key).partitions_def is None:
        return None
    check_tags(desk, spec, tags)
    rows = _rows_anywhere(desk, spec, tags)
    if not rows.num_rows:
        raise InputError(
            f"{spec.key.to_user_string()}: neither its table nor its inputs have a row with the tags {tags_told(tags)}. "
            "Check their values."
        )
    return partition_of_rows(desk, spec, rows, tags)


def partition_of_rows(desk: Desk, spec: PacketAssetSpec, rows: pa.Table, tags: Mapping[str, Any]) -> str | None:
    """Return the partition of an asset in which rows stand, by their values in its partition columns.

    Returns:
        `None` for an asset without partitions.

    Raises:
        PartitionError: they stand in several partitions, or in none.
    """
    if desk.asset(spec.key).partitions_def is None:
        return None
    owner, keys = spec.key.to_user_string(), desk.partition_keys(spec)
    held = _holding(desk, spec, keys, rows, desk.partition_expr(spec)) if keys else []
    if len(held) != 1:
        several = f"in the partitions {', '.join(held[:5])}" if held else "in none of its partitions"
        raise PartitionError(
            f"{owner}: the row with the tags {tags_told(tags)} stands {several}. Name its partition (--partition)."
        )
    return held[0]


def _rows_anywhere(desk: Desk, spec: PacketAssetSpec, tags: Mapping[str, Any]) -> pa.Table:
    """Return the partition columns of the rows with these tags: of the asset's table, or else of its inputs."""
    expr = desk.partition_expr(spec)
    columns = [expr] if isinstance(expr, str) else list((expr or {}).values())
    try:
        found = find_rows(desk.table(spec, None), tags)
    except TableNotFoundError:
        found = None
    if found is not None and found.num_rows:
        return pa.Table.from_batches(found.scan(columns))
    stream = input_rows(desk, spec, tags, None).stream
    missing = [column for column in columns if column not in stream.schema().names]
    if missing or not columns:
        raise PartitionError(
            f"{spec.key.to_user_string()}: its inputs do not tell the partition of a row, for they have no column "
            f"{', '.join(map(repr, missing))}. Name the partition (--partition)."
        )
    schema = pa.schema([stream.schema().field(column) for column in columns])
    return pa.Table.from_batches(stream.scan(columns), schema=schema)


def _holding(desk: Desk, spec: PacketAssetSpec, keys: Sequence[str], rows: pa.Table, expr: Any) -> list[str]:
    """Return the partitions that hold any of these rows; half of them are looked at together, and so on."""
    where = desk.predicate(spec, keys, rows.schema, expr)
    if not pc.any(where.mask(rows), min_count=0).as_py():
        return []
    if len(keys) == 1:
        return list(keys)
    middle = len(keys) // 2
    return _holding(desk, spec, keys[:middle], rows, expr) + _holding(desk, spec, keys[middle:], rows, expr)


def check_partition(desk: Desk, spec: PacketAssetSpec, partition: str) -> None:
    """Refuse a partition that the asset does not have.

    Raises:
        DefinitionError: it has no partitions. PartitionError: it has none of this key.
    """
    owner = spec.key.to_user_string()
    if desk.asset(spec.key).partitions_def is None:
        raise DefinitionError(f"{owner} has no partitions; leave {partition!r} out.")
    keys = desk.partition_keys(spec)
    if partition not in keys:
        raise PartitionError(
            f"{owner} has no partition {partition!r}; it has {', '.join(keys[:3])}, … {len(keys)} in all."
        )
