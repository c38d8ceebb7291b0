"""What a write takes out of a table: whole files, and the rows of some of them that stay and are written anew."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.delta.files import remove_files, write_files
from orcapod_dagster.core.delta.scanning import dataset
from orcapod_dagster.core.delta.table import all_decoded, decoded, held_schema
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.regions import suffix_of
from orcapod_dagster.core.storage_types import table_from_storage


@dataclass(frozen=True, slots=True)
class Superseded:
    """What a commit takes away: whole files, and the rows of some of them that stay and were written anew."""

    removes: list[RemoveAction]
    rewritten: list[AddAction]


def removal(path: str, size: int, *, data_change: bool = True) -> RemoveAction:
    """Return what takes a file out of a table."""
    return RemoveAction(
        path=path, data_change=data_change, deletion_timestamp=int(time.time() * 1000), size=size, partition_values={}
    )


def supersede(
    uri: str,
    table: DeltaTable,
    where: Predicate | None,
    storage_options: Mapping[str, str] | None,
    plain_columns: Sequence[str],
) -> Superseded:
    """Find the files whose rows fulfil `where`; of files with other rows too, those are written anew.

    Args:
        uri: the table. table: the same, at the version to stand on.
        where: the rows to take out; None means all.
        storage_options, plain_columns: as in `changes.append`.

    Returns:
        What the commit is to say. After an error no file is left that was written.
    """
    found = Superseded([], [])
    files = pa.table(table.get_add_actions(flatten=True))
    sizes: dict[str, int] = dict(zip(files["path"].to_pylist(), files["size_bytes"].to_pylist(), strict=True))
    if where is None:
        found.removes.extend(removal(path, size) for path, size in sizes.items())
        return found
    try:
        _supersede_rows(uri, table, where, sizes, found, storage_options, plain_columns)
    except BaseException:
        remove_files(uri, found.rewritten, storage_options)
        raise
    return found


def _supersede_rows(
    uri: str,
    table: DeltaTable,
    where: Predicate,
    sizes: Mapping[str, int],
    found: Superseded,
    storage_options: Mapping[str, str] | None,
    plain_columns: Sequence[str],
) -> None:
    names = all_decoded(pa.array(list(sizes), pa.string()))
    data, paths = dataset(table, where), dict(zip(names, sizes, strict=True))
    for fragment in data.get_fragments():
        path = paths[decoded(fragment.path)]
        mask = where.mask(fragment.to_table(schema=data.schema, columns=list(where.columns())))
        if not pc.any(mask, min_count=0).as_py():
            continue
        found.removes.append(removal(path, sizes[path]))
        if not pc.all(mask).as_py():
            rest = fragment.to_table(schema=data.schema).filter(pc.invert(mask))
            rest = table_from_storage(rest, held_schema(table))
            found.rewritten.extend(
                write_files(
                    uri,
                    rest.to_batches(),
                    rest.schema,
                    storage_options,
                    plain_columns,
                    suffix=suffix_of(path),
                )
            )
