"""Large values that no table names any more, and what killed calls and writes of such left behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.check import named_paths, naming_columns, unreferenced
from orcapod_dagster.core.blobs.keeper import FOLDER
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.cleanup.base import CleanSettings, Removable
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.lake import Lake, retained_rows


def find_blobs(lake: Lake, settings: CleanSettings) -> Iterator[Removable]:
    """Find large values that no retained version of any table names, and leftovers; none where only one table is meant.

    Where one table cannot be read, nobody knows what it names, so no value goes.
    """
    if settings.table is not None:
        return
    try:
        store = BlobStore(lake.root_uri, lake.storage_options)
        unnamed = unreferenced(store, _named(lake, settings), settings.orphaned_before)
        left = store.leftovers()
    except LakeError as error:
        yield Removable(FOLDER, "large values stay", f"what tables name is not known: {error}", problem=True)
        return
    before = settings.orphaned_before
    yield from _removable(store, unnamed, before, "large values", "no retained version of a table names them")
    # A call may be as long as a run, and it alone knows the files in its directory.
    before = min(before, settings.retained_since)
    left = left.filter(pc.less(left["modified"], pa.scalar(before, left["modified"].type)))
    yield from _removable(store, left, before, "unfinished large values", "a call or a write of one was killed")


def _named(lake: Lake, settings: CleanSettings) -> Iterator[pa.Array]:
    """Yield what every retained version of every table names; also of lakes whose assets use results of this one."""
    for one in (lake, *settings.used_by):
        for folder in one.folders():
            for batch in retained_rows(one, folder, settings.retained_since, naming_columns):
                yield from named_paths(batch)


def _removable(store: BlobStore, found: pa.Table, before: Any, what: str, why: str) -> Iterator[Removable]:
    if found.num_rows:
        size = pc.sum(found["size"]).as_py()
        remove = partial(store.remove, found["path"].to_pylist(), before)
        yield Removable(FOLDER, what, why, files=found.num_rows, bytes=size, remove=remove)
