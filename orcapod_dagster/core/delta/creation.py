"""Tables are created empty, under a lock: two writers that create one at once would both be told that all is well."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator, Mapping
from typing import Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError

from orcapod_dagster.core.delta.table import FORMAT, FORMAT_PROPERTY, open_any, reading
from orcapod_dagster.core.errors import CommitError
from orcapod_dagster.core.paths import local_path
from orcapod_dagster.core.storage import options_for

CHECKPOINT_EVERY: Final = 10
_REMEMBERED: Final = "interval 7 days"
"""How long a table knows of an append by its name; each checkpoint holds all names, 60 bytes each (measured)."""
_LOCK_NAME: Final = "_orcapod.lock"


def create_table(
    uri: str, stored: pa.Schema, storage_options: Mapping[str, str] | None, properties: Mapping[str, str]
) -> DeltaTable:
    """Create a table, empty, under a lock; until its first commit `open_table` does not see it.

    Args:
        uri: the table.
        stored: its columns, in Delta's storage types.
        storage_options: as deltalake takes them.
        properties: table properties, beside those that each of our tables has.

    Returns:
        The table; where another writer was first, the one that it created.
    """
    configuration = {
        "delta.checkpointInterval": str(CHECKPOINT_EVERY),
        "delta.setTransactionRetentionDuration": _REMEMBERED,
        FORMAT_PROPERTY: FORMAT,
        **properties,
    }
    with locked(uri):
        table = open_any(uri, storage_options)
        if table is not None:
            return table
        # Without retries the first conditional write of version 0 wins, and all others see its table.
        with reading(uri), contextlib.suppress(CommitFailedError):
            DeltaTable.create(
                uri,
                stored,
                mode="ignore",
                configuration=configuration,
                storage_options=options_for(uri, storage_options),
                commit_properties=CommitProperties(max_commit_retries=0),
                raise_if_key_not_exists=False,
            )
        table = open_any(uri, storage_options)
    if table is None:
        raise CommitError(f"{uri}: the table was created and is gone again. Run again.")
    return table


@contextlib.contextmanager
def locked(uri: str) -> Generator[None]:
    """Hold this machine's lock of a table; on an object store conditional writes take its place."""
    path = local_path(uri)
    if path is None:
        yield
        return
    with reading(uri):
        path.mkdir(parents=True, exist_ok=True)
        handle = (path / _LOCK_NAME).open("a")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
