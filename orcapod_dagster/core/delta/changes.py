"""The two changes of a table: rows are added, or those that a predicate names are replaced, in one commit.

A plain overwrite, a creation race and a lossy cast lose data silently; none of them can happen through here.
No row value reaches an error text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import pyarrow as pa

from orcapod_dagster.core.delta.schemas import add_columns, refuse_difference, refuse_folders, schema_difference
from orcapod_dagster.core.delta.superseding import Superseded, supersede
from orcapod_dagster.core.delta.table import open_table, table_schema
from orcapod_dagster.core.delta.write import COMMIT_ID, OpenReader, Write, WriteResult
from orcapod_dagster.core.predicates import Predicate

Evolve = Literal["refuse", "add", "overwrite"]


def append(
    uri: str,
    open_reader: OpenReader,
    *,
    storage_options: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
    plain_columns: Sequence[str] = (),
    commit_id: str | None = None,
    durable: bool = False,
    evolve: Literal["refuse", "add"] = "refuse",
) -> WriteResult:
    """Append rows in one commit, in their order; exactly once, however often the commit has to be tried.

    Args:
        uri: the table; it is created, under a lock, where it is missing.
        open_reader: gives the rows; opened twice, once for the schema. Columns may be in another order than the table's.
        storage_options: as deltalake takes them.
        properties: table properties, set when it is created.
        custom_metadata: stored with the commit.
        plain_columns: columns of ever new values, which are not dictionary-encoded.
        commit_id: names this append: where a commit of the last seven days carries it, nothing is written again.
        durable: force everything to the disk before returning, so that a power loss takes nothing away; local disks only.
        evolve: what to do when there are new columns: refuse, or add them; the rows that are there have null in them.

    Raises:
        SchemaMismatchError: the table has other columns. LakeError: another engine laid it out in folders by partition.
        CommitError: other writers won for a minute. StorageError: the storage refused.
    """
    schema = open_reader().schema
    table = open_table(uri, storage_options)
    refuse_folders(uri, table)
    if table is not None and schema.names != (names := table_schema(table).names) and set(schema.names) == set(names):
        open_reader = partial(_in_order, open_reader, names)
        schema = open_reader().schema
    difference = [] if table is None else schema_difference(table_schema(table), schema)
    if _only_new(difference) and evolve == "add":
        add_columns(uri, schema, storage_options)
        table = None
    else:
        refuse_difference(uri, difference)
    write = Write(uri, schema, storage_options, properties or {}, custom_metadata or {}, plain_columns)
    write.durable = durable
    write.look(table)
    if commit_id is not None:
        write.metadata[COMMIT_ID] = commit_id
        write.once = True
        version = write.committed_version()
        if version is not None:
            write.sync(version)
            return WriteResult(version, 0)
    return write.run(open_reader, lambda _table: Superseded([], []))


def replace(
    uri: str,
    open_reader: OpenReader,
    *,
    where: Predicate | None,
    owner: str | None = None,
    part: str = "the rows to replace",
    storage_options: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
    plain_columns: Sequence[str] = (),
    evolve: Evolve = "refuse",
) -> WriteResult:
    """Replace exactly the rows that `where` names, in one commit; the new rows keep their order.

    Args:
        uri: the table; it is created, under a lock, where it is missing.
        open_reader: gives the new rows; opened twice, once for the schema. Every one must fulfil `where`.
        where: the rows to replace; None means the whole table.
        owner, part: whose table it is (default its URI), and what `where` means, for messages.
        storage_options, properties, custom_metadata, plain_columns: as in `append`.
        evolve: what to do when the columns differ: refuse, add new ones, or (whole table only) take the new ones.

    Raises:
        PartitionError: a new row does not fulfil `where`.
        SchemaMismatchError: the columns differ and `evolve` does not allow it; shows the difference.
        LakeError: another engine laid the table out in folders by partition.
        CommitError, StorageError: as in `append`; nothing was changed then.
    """
    schema = open_reader().schema
    table = open_table(uri, storage_options)
    refuse_folders(uri, table)
    difference = [] if table is None else schema_difference(table_schema(table), schema)
    if _only_new(difference) and evolve == "add":
        add_columns(uri, schema, storage_options)
        table = None
    elif evolve != "overwrite" or where is not None:
        refuse_difference(uri, difference)
    write = Write(uri, schema, storage_options, properties or {}, custom_metadata or {}, plain_columns)
    if where is not None:
        write.within(where, owner or uri, part)
    write.look(table)
    write.takes_schema = where is None
    write.evolves = where is None and evolve == "overwrite"
    return write.run(open_reader, lambda current: supersede(uri, current, where, storage_options, plain_columns))


def _in_order(open_reader: OpenReader, names: Sequence[str]) -> pa.RecordBatchReader:
    reader = open_reader()
    schema = pa.schema([reader.schema.field(name) for name in names])
    return pa.RecordBatchReader.from_batches(schema, (batch.select(list(names)) for batch in reader))


def _only_new(difference: Sequence[str]) -> bool:
    return bool(difference) and all(line.startswith("new") for line in difference)
