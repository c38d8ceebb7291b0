"""Verify: whether the tables of a lake are whole, and what to do where they are not.

Delta keeps no checksums, and counts come from its log, so a table with a missing file still says how many rows it has. Here
the log is held against the files: present, of the size and with the rows that it says; every page readable, when asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.columns import RECORD_ID, TIMESTAMP
from orcapod_dagster.core.delta_files import filesystem_of
from orcapod_dagster.core.errors import LakeError, StorageError
from orcapod_dagster.core.hashing import value_lanes
from orcapod_dagster.core.paths import LOG_FOLDER, local_path, refuse_strange_folder
from orcapod_dagster.core.sources import DeltaSource

_YOUNG_SECONDS: Final = 24 * 3600.0
"""A file that no commit names may belong to a writer that still runs; after a day it does not."""
_RERUN: Final = "Materialize the asset again: its results are kept. A lost result is computed again."


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a table.

    Attributes:
        table: its folder, relative to the root.
        what: what was seen and expected. do: the way out.
        harmless: nothing is lost; it only takes up space.
    """

    table: str
    what: str
    do: str
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class TableReport:
    """What a table holds: its folder relative to the root, version, rows, files, bytes, and what is wrong with it."""

    table: str
    version: int | None
    rows: int
    files: int
    bytes: int
    findings: tuple[Finding, ...]


def verify(
    root_uri: str, storage_options: Mapping[str, str] | None = None, *, read_all: bool = False, table: str | None = None
) -> Iterator[TableReport]:
    """Check every table below a root, in the order of their folders.

    Args:
        root_uri: the lake. storage_options: as deltalake takes them.
        read_all: also read every value, which finds damaged pages; costs as much as reading the lake.
        table: only the table in this folder, relative to the root.

    Raises:
        StorageError: the root cannot be listed.
    """
    folder = local_path(root_uri)
    if folder is not None and not folder.is_dir():
        raise StorageError(f"{root_uri}: there is no such folder. Give the root_uri that packet_resources was given.")
    filesystem, prefix = filesystem_of(root_uri, storage_options)
    with delta.reading(root_uri):
        entries = filesystem.get_file_info(fs.FileSelector(prefix or "/", recursive=True, allow_not_found=True))
    files = {entry.path.removeprefix(prefix).lstrip("/"): entry for entry in entries if entry.is_file}
    tables = sorted({path.partition(f"/{LOG_FOLDER}/")[0] for path in files if f"/{LOG_FOLDER}/" in path})
    wanted = tables if table is None else [table.strip("/")]
    mine = _files_of(wanted, tables, files)
    for name in wanted:
        yield _checked_folder(root_uri, name) or _Check(
            f"{root_uri.rstrip('/')}/{name}", name, mine[name], filesystem, storage_options
        ).run(read_all=read_all)


def _files_of(wanted: Sequence[str], tables: Sequence[str], files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of each table, by their paths in it; a table in another's folder has its own."""
    found: dict[str, dict[str, Any]] = {name: {} for name in (*tables, *wanted)}
    for path, entry in files.items():
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            folder = folder.rpartition("/")[0]
        if folder:
            found[folder][path.removeprefix(f"{folder}/")] = entry
    return found


def _checked_folder(root_uri: str, name: str) -> TableReport | None:
    """Return what is wrong with the folder of a table itself, which is then not looked into."""
    try:
        refuse_strange_folder(root_uri, [*name.split("/"), LOG_FOLDER])
    except LakeError as error:
        finding = Finding(name, f"is not looked into: {error}", "Its assets are neither written nor read.")
        return TableReport(name, None, 0, 0, 0, (finding,))
    return None


class _Check:
    """The check of one table."""

    def __init__(
        self, uri: str, name: str, files: Mapping[str, Any], filesystem: Any, options: Mapping[str, str] | None
    ) -> None:
        self._uri = uri
        self._name = name
        self._files = files
        self._filesystem = filesystem
        self._options = options
        self._findings: list[Finding] = []

    def run(self, *, read_all: bool) -> TableReport:
        try:
            table = delta.open_table(self._uri, self._options)
        except LakeError as error:
            self._say(f"cannot be opened: {error}", "Mend what the message names, or restore the log from a copy.")
            return TableReport(self._name, None, 0, 0, 0, tuple(self._findings))
        if table is None:
            self._say(
                "was created, but has no first commit", "Nothing: the next write goes on from there.", harmless=True
            )
            return TableReport(self._name, None, 0, 0, 0, tuple(self._findings))
        live = {row["path"]: row for row in pa.table(table.get_add_actions(flatten=True)).to_pylist()}
        for path, row in live.items():
            self._check_file(delta.decoded(path), row)
        if not self._findings:
            self._check_records(table)
            if read_all:
                self._guarded(lambda: self._read_everything(table))
        self._check_orphans(set(map(delta.decoded, live)))
        rows, size = sum(r["num_records"] or 0 for r in live.values()), sum(r["size_bytes"] for r in live.values())
        return TableReport(self._name, table.version(), rows, len(live), size, tuple(self._findings))

    def _say(self, what: str, do: str, *, harmless: bool = False) -> None:
        self._findings.append(Finding(self._name, what, do, harmless))

    def _guarded(self, check: Callable[[], None]) -> None:
        try:
            check()
        except LakeError as error:
            self._say(f"cannot be read: {error}", _RERUN)

    def _check_file(self, path: str, row: Mapping[str, Any]) -> None:
        entry = self._files.get(path)
        if entry is None:
            self._say(f"file {path} with {row['num_records']} rows is missing", _RERUN)
        elif entry.size != row["size_bytes"]:
            self._say(f"file {path} has {entry.size} bytes, {row['size_bytes']} were written", _RERUN)
        else:
            try:
                found = pq.read_metadata(entry.path, filesystem=self._filesystem).num_rows
            except (OSError, pa.ArrowException) as error:
                self._say(f"file {path} is no whole Parquet file ({type(error).__name__})", _RERUN)
                return
            if row["num_records"] is not None and found != row["num_records"]:
                self._say(f"file {path} has {found} rows, the log says {row['num_records']}", _RERUN)

    def _check_records(self, table: DeltaTable) -> None:
        """Check that no result stands twice; asset tables may repeat one, for rows with equal packets share it."""
        names = set(delta.table_schema(table).names)
        if not {RECORD_ID, TIMESTAMP} <= names or "/" not in self._name or not self._name.startswith("."):
            return
        lanes = [value_lanes(batch.column(0)) for batch in DeltaSource(table).scan([RECORD_ID])]
        if not lanes:
            return
        ids = pa.concat_arrays([one.a for one in lanes])
        twice = len(ids) - pc.count_distinct(ids).as_py()
        if twice:
            self._say(
                f"{twice} results stand twice", "Nothing is wrong with reading them: one is taken. Please report it."
            )

    def _read_everything(self, table: DeltaTable) -> None:
        source = DeltaSource(table)
        rows = sum(batch.num_rows for batch in source.scan(source.schema.names))
        if rows != source.num_rows:
            self._say(f"{rows} rows could be read, the files say {source.num_rows}", _RERUN)

    def _check_orphans(self, live: set[str]) -> None:
        named = live | self._named_in_log()
        old = time.time() - _YOUNG_SECONDS
        orphans = [
            entry
            for path, entry in self._files.items()
            if path.endswith((".parquet", ".parquet#1"))
            and not path.startswith(LOG_FOLDER)
            and path not in named
            and entry.mtime is not None
            and entry.mtime.timestamp() < old
        ]
        if orphans:
            size = sum(entry.size for entry in orphans)
            self._say(
                f"{len(orphans)} files ({size} bytes) belong to no version, e.g. {orphans[0].base_name}: a write that was killed",
                "They can be removed while nothing writes.",
                harmless=True,
            )

    def _named_in_log(self) -> set[str]:
        """Return the files that any commit of the log adds, also those of versions before."""
        found: set[str] = set()
        for path, entry in self._files.items():
            if path.startswith(f"{LOG_FOLDER}/") and path.endswith(".json"):
                with self._filesystem.open_input_stream(entry.path) as stream:
                    for line in stream.read().splitlines():
                        if line.startswith(b'{"add"'):
                            found.add(delta.decoded(json.loads(line)["add"]["path"]))
        return found
