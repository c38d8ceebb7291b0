"""Entries of a table's log that are older than its retention, once a checkpoint holds what they say."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any, Final

from deltalake import DeltaTable

from orcapod_dagster.core import delta
from orcapod_dagster.core.cleanup.base import CleanSettings, Removable
from orcapod_dagster.core.delta.log import sync_log
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.lake import Folder, Lake
from orcapod_dagster.core.paths import LOG_FOLDER

LOG_RETENTION: Final = dt.timedelta(days=30)
"""As Delta has it, where the table property `delta.logRetentionDuration` says nothing else."""
_ENTRY: Final = re.compile(rf"^{LOG_FOLDER}/(\d{{20}})\.(json|checkpoint\.parquet)$")
_INTERVAL: Final = re.compile(r"interval (\d+) (minute|hour|day|week)s?$")


def find_log_entries(lake: Lake, settings: CleanSettings) -> Iterator[Removable]:
    """Find log entries that deltalake may remove; never such as tell of versions within the retention of files."""
    for folder in lake.folders():
        if settings.table not in (None, folder.name):
            continue
        try:
            folder.refuse_strange(lake.root_uri)
            table = folder.open()
        except LakeError:
            continue  # told with the files
        if table is not None:
            yield from _of_table(folder, table, settings)


def _of_table(folder: Folder, table: DeltaTable, settings: CleanSettings) -> Iterator[Removable]:
    retention = _retention(table)
    if retention is None or settings.older_than > retention:
        return
    entries = _entries(folder)
    before = settings.now - retention
    expired = [v for v, kind in entries if kind == "json" and _written(entries[v, kind]) < before]
    if not expired:
        return
    held = [v for v, kind in entries if kind != "json" and v <= max(expired)]
    all_expired = max(expired) == table.version()
    oldest_kept = table.version() if all_expired else max(held, default=0)
    gone = [entry for (version, _), entry in entries.items() if version < oldest_kept]
    if not gone:
        return

    def remove() -> None:
        with delta.reading(folder.uri):
            if all_expired and table.version() not in held:
                table.create_checkpoint()
                # On the disk before what it stands for goes: after a power loss the table could not be opened else.
                sync_log(folder.uri, table.version())
            table.cleanup_metadata()

    why = f"older than {retention.days} days, and a checkpoint holds what they say"
    size = sum(entry.size or 0 for entry in gone)
    yield Removable(folder.name, "log entries", why, files=len(gone), bytes=size, remove=remove)


def _entries(folder: Folder) -> dict[tuple[int, str], Any]:
    found = {(match[1], match[2]): entry for path, entry in folder.files.items() if (match := _ENTRY.match(path))}
    return {(int(version), kind): entry for (version, kind), entry in found.items()}


def _written(entry: Any) -> dt.datetime:
    return entry.mtime.astimezone(dt.UTC)


def _retention(table: DeltaTable) -> dt.timedelta | None:
    """Return how long the log is kept; `None` where the table says it in a way that only deltalake reads."""
    said = table.metadata().configuration.get("delta.logRetentionDuration")
    if said is None:
        return LOG_RETENTION
    match = _INTERVAL.match(said)
    return None if match is None else dt.timedelta(**{f"{match[2]}s": int(match[1])})
