"""The data files of a table as a pyarrow dataset: all of them, or those that may hold rows of a part."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from pyarrow import fs

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.delta.table import column_of, local_folder, reading
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.regions import files_meeting, held_by, meets


def dataset(table: DeltaTable, where: Predicate | None = None) -> Any:
    """Return a table's files as a pyarrow dataset; pages that changed on the disk are noticed where they are read.

    Args:
        table: at the version to read.
        where: with it, only the files are in the dataset that may hold rows which fulfil it, by their names alone; rows of
            the same files that do not are still there.
    """
    with reading(table.table_uri):
        paths = column_of(pa.table(table.get_add_actions(flatten=True)), "path")
        # Files in folders by partition, or elsewhere, are other engines': deltalake knows best what their paths mean.
        plain = not pc.any(pc.match_substring_regex(paths, r"[^-.\w]"), min_count=0).as_py()
        found: Any = _dataset_of(table, where, paths) if plain else table.to_pyarrow_dataset()
        if where is not None and not plain:
            columns, regions = where.columns(), where.regions(found.schema)
            files = [one for one in found.get_fragments() if meets(regions, held_by(one.path, columns))]
            found = type(found)(files, found.schema, found.format, found.filesystem)
        found.format.default_fragment_scan_options.page_checksum_verification = True
        return found


def _dataset_of(table: DeltaTable, where: Predicate | None, paths: pa.Array) -> Any:
    """Return a dataset of files that lie in the table's folder; only of those that are asked for, for each takes 7 µs.

    Local ones are read without Python: half the time for small files, and threads that read ahead never wait for it.
    """
    folder = local_folder(table)
    local = None if folder is None else fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    if where is None:
        return table.to_pyarrow_dataset(filesystem=local)
    none: Any = table.to_pyarrow_dataset(file_pruning_predicate="false", filesystem=local)
    wanted = files_meeting(paths, where.regions(none.schema))
    files = [none.format.make_fragment(path, filesystem=none.filesystem) for path in wanted]
    return type(none)(files, none.schema, none.format, none.filesystem)
