"""The order of a clean-up: results, files, logs, large values; each step may be the last one that happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orcapod_dagster.core.cleanup.base import CleanSettings, Kind, Removable
from orcapod_dagster.core.cleanup.blobs import find_blobs
from orcapod_dagster.core.cleanup.files import find_files
from orcapod_dagster.core.cleanup.logs import find_log_entries
from orcapod_dagster.core.cleanup.results import find_results
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.lake import Lake

KINDS: Final[tuple[Kind, ...]] = (find_results, find_files, find_log_entries, find_blobs)
"""Rows first, for their files are superseded then; files before the log entries that tell from when they are; large values last,
for rows name them."""


def clean(lake: Lake, settings: CleanSettings, *, dry_run: bool = True) -> Iterator[Removable]:
    """Find what can go, and remove it unless this is a dry run.

    Each thing is removed right after it was found, and yielded then. Whenever it is killed, every table is whole, and the
    next clean-up finds what is left.

    Args:
        lake: what to clean.
        settings: what may be removed.
        dry_run: only find.

    Raises:
        LakeError: there is no such table. StorageError: the storage refused.
    """
    if settings.table is not None and settings.table not in {folder.name for folder in lake.folders()}:
        raise LakeError(f"{lake.root_uri} has no table in the folder {settings.table!r}. `inspect` lists its tables.")
    for kind in KINDS:
        for found in kind(lake, settings):
            if not dry_run:
                found.remove()
            yield found
