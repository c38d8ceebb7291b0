"""Delta tables: the one room that opens and writes them.

`table` opens one and tells what its log says, `scanning` reads its data. `changes` appends and replaces: each is one `write`, which
makes `files`, takes out the rows that they are `superseding`, and commits to a `log` that is whole and on the disk.
"""

from orcapod_dagster.core.delta.changes import Evolve, append, replace
from orcapod_dagster.core.delta.scanning import dataset
from orcapod_dagster.core.delta.superseding import Superseded, removal
from orcapod_dagster.core.delta.table import (
    decoded,
    held_schema,
    last_commit_metadata,
    live_files,
    local_folder,
    open_at,
    open_table,
    reading,
    rows_of_newest,
    table_schema,
)
from orcapod_dagster.core.delta.write import Write, WriteResult

__all__ = [
    "Evolve",
    "Superseded",
    "Write",
    "WriteResult",
    "append",
    "dataset",
    "decoded",
    "held_schema",
    "last_commit_metadata",
    "live_files",
    "local_folder",
    "open_at",
    "open_table",
    "reading",
    "removal",
    "replace",
    "rows_of_newest",
    "table_schema",
]
