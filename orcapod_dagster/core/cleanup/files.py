"""Data files that no retained version of their table names: superseded ones, those of killed writers, and what lies beside them."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from deltalake import DeltaTable

from orcapod_dagster.core import delta, key_index
from orcapod_dagster.core.cleanup.base import CleanSettings, Removable
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.lake import Folder, Lake, named_files, retained_files, sizes_of
from orcapod_dagster.core.paths import LOG_FOLDER

_TEMPORARY: Final = re.compile(rf"(#\d+$|/_commit_[^/]*\.json\.tmp$|^{key_index.FOLDER}/\.)")
_SIDECAR: Final = re.compile(r"^(?P<data>.*\.parquet)\.[A-Za-z0-9_]+$")


def find_files(lake: Lake, settings: CleanSettings) -> Iterator[Removable]:
    """Find files below each table that no version names which was the newest within the retention."""
    for listed in lake.folders():
        if settings.table not in (None, listed.name):
            continue
        try:
            listed.refuse_strange(lake.root_uri)
            table = listed.open()
            # Listed again after the table was opened: what a commit took away meanwhile stands in the version that was opened.
            folder = lake.folder(listed.name)
            yield from _of_table(folder, table, settings)
        except LakeError as error:
            yield Removable(listed.name, "left alone", str(error), problem=True)


def _of_table(folder: Folder, table: DeltaTable | None, settings: CleanSettings) -> Iterator[Removable]:
    kept = set[str]() if table is None else retained_files(folder, table, settings.retained_since)
    named = named_files(folder) - kept
    superseded = [path for path in _old_data(folder, table, settings) if path in named]
    since = f"{settings.retained_since:%Y-%m-%d %H:%M} UTC"
    yield from _removable(folder, superseded, "superseded files", f"no version since {since} names them")
    yield from find_litter(folder, table, settings, going=superseded)


def find_litter(
    folder: Folder, table: DeltaTable | None, settings: CleanSettings, *, going: Collection[str] = ()
) -> Iterator[Removable]:
    """Find what belongs to no version of a table, and is so old that no writer can be about to name it.

    Args:
        folder: listed after `table` was opened.
        table: its newest version; None where it has none yet.
        settings: how old it must be.
        going: data files that go as well.
    """
    live = set[str]() if table is None else set(sizes_of(table))
    named = named_files(folder) | live
    orphans = [path for path in _old_data(folder, table, settings) if path not in named]
    old = [path for path, entry in folder.files.items() if _is_older(entry, settings.orphaned_before)]
    temporary = [p for p in old if _TEMPORARY.search(p) and _is_inside(p, table, LOG_FOLDER, key_index.FOLDER)]
    left = {None, *folder.files, *live} - {*going, *orphans}
    beside = [p for p in old if _data_of(p, table) not in left]
    # In the order of removal: a sidecar whose data file went is found again, a data file that lost its sidecar is not.
    yield from _removable(folder, orphans, "files of killed writers", "no version of the log names them")
    yield from _removable(folder, temporary, "temporary files", "a write was killed before they had their name")
    yield from _removable(folder, beside, "files beside data files", "their data file is gone")


def _data_of(path: str, table: DeltaTable | None) -> str | None:
    """Return the data file that a file belongs to: one beside it, or an index of its keys; None for any other file."""
    folder, _, name = path.partition("/")
    if folder == key_index.FOLDER:
        return None if name.startswith(".") else key_index.data_file_of(name)
    match = _SIDECAR.match(path)
    return match["data"] if match and _is_inside(path, table) else None


def _old_data(folder: Folder, table: DeltaTable | None, settings: CleanSettings) -> list[str]:
    return [
        path
        for path, entry in folder.files.items()
        if path.endswith(".parquet") and _is_inside(path, table) and _is_older(entry, settings.orphaned_before)
    ]


def _is_older(entry: Any, moment: dt.datetime) -> bool:
    return entry.mtime is not None and entry.mtime.astimezone(dt.UTC) < moment


def _is_inside(path: str, table: DeltaTable | None, *folders: str) -> bool:
    """Tell whether a path is where data files of the table lie: in its folder, or in those of its partitions."""
    first = path.split("/", maxsplit=1)[0]
    partitions = [] if table is None else table.metadata().partition_columns
    return "/" not in path or first in folders or any(first.startswith(f"{column}=") for column in partitions)


def _removable(folder: Folder, paths: Sequence[str], what: str, why: str) -> Iterator[Removable]:
    if not paths:
        return
    entries = [folder.files[path] for path in paths]

    def remove() -> None:
        for entry in entries:
            # Another clean-up at the same time may have been first.
            with delta.reading(folder.uri), contextlib.suppress(FileNotFoundError):
                folder.filesystem.delete_file(entry.path)

    size = sum(entry.size or 0 for entry in entries)
    yield Removable(folder.name, what, why, files=len(paths), bytes=size, remove=remove)
