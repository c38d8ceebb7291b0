"""What commits of packet assets say of their rows, held against the rows that stand in the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.asset_write import COLUMNS, DATA_VERSION, PART, TAGS
from orcapod_dagster.core.casting import unencoded_schema
from orcapod_dagster.core.delta.log import WRITTEN
from orcapod_dagster.core.hashing import RowSetDigest, hash_lanes
from orcapod_dagster.core.lake import Folder, scan_files, sizes_of


@dataclass(frozen=True, slots=True)
class StandingRows:
    """Rows of one commit that still stand in its table.

    Attributes:
        part: which, for people: "the table", or the partitions.
        version: that wrote them. data_version: what it says of them.
        files: that hold just these rows; None for all of the table.
        columns: that the data version is over. tags: which of them say which row it is; unknown in tables of older releases.
    """

    part: str
    version: int
    data_version: str
    files: frozenset[str] | None
    columns: tuple[str, ...]
    tags: tuple[str, ...] | None


def standing_rows(folder: Folder, table: DeltaTable) -> Iterator[StandingRows]:
    """Yield what can be held against the rows of a packet asset's table; nothing for other tables.

    An unpartitioned table is held against its newest commit of an asset, whoever wrote since. Of a partitioned one, each commit
    counts whose files all stand: after a compaction nobody knows which rows were whose.
    """
    live = set(sizes_of(table))
    names = set(delta.table_schema(table).names)
    for commit in folder.commits():
        said = commit.info
        if DATA_VERSION not in said or COLUMNS not in said:
            continue
        columns = tuple(name for name in json.loads(said[COLUMNS]) if name)
        tags = tuple(json.loads(said[TAGS])) if TAGS in said else None
        whole = not said.get(PART)
        files = frozenset(commit.adds[: int(said.get(WRITTEN, 0))])
        if set(columns) <= names and (whole or (files and files <= live)):
            part = "the table" if whole else f"partition {', '.join(json.loads(said[PART]))}"
            yield StandingRows(part, commit.version, said[DATA_VERSION], None if whole else files, columns, tags)
        if whole:
            return


def check_rows(table: DeltaTable, rows: StandingRows, *, read_all: bool) -> Iterator[str]:
    """Yield what is wrong with rows: tags that stand twice; with `read_all`, values that are not those that were written."""
    tags = rows.tags or ()
    columns = rows.columns if read_all else tags
    if not columns:
        return
    digest = RowSetDigest()
    seen: list[pa.Array] = []
    for batch in _batches(table, rows.files, columns):
        if tags:
            seen.append(hash_lanes({name: batch.column(name) for name in tags}).a)
        if read_all:
            digest.update(dict(zip(columns, batch.columns, strict=True)))
    twice = sum(map(len, seen)) - (pc.count_distinct(pa.concat_arrays(seen)).as_py() if seen else 0)
    if twice:
        yield f"{twice} rows of {rows.part} have tags ({', '.join(tags)}) that another row has"
    if read_all and str(digest.content_hash()) != rows.data_version:
        yield (
            f"the {digest.rows:,} rows of {rows.part} are not those that version {rows.version} was written with: their data "
            f"version is {digest.content_hash()}, it says {rows.data_version}"
        )


def _batches(table: DeltaTable, files: frozenset[str] | None, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    plain = unencoded_schema(delta.table_schema(table))
    wanted: Callable[[str], bool] = (lambda _: True) if files is None else files.__contains__
    for path, batches in scan_files(table, pa.schema([plain.field(name) for name in columns])):
        if wanted(path):
            yield from batches
