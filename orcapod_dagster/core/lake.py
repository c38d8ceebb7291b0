"""Lake: what lies below a root, table by table, with the files of each; what upkeep looks at before it touches anything."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta.files import filesystem_of
from orcapod_dagster.core.errors import LakeError, StorageError
from orcapod_dagster.core.paths import LOG_FOLDER, RESULTS_FOLDER, local_path, refuse_strange_folder
from orcapod_dagster.core.storage_types import from_storage

RESULTS: Final = f"{RESULTS_FOLDER}/results/"
OUTCOMES: Final = f"{RESULTS_FOLDER}/outcomes/"
LOGS: Final = f"{RESULTS_FOLDER}/logs/"
PLANS: Final = f"{RESULTS_FOLDER}/plans/"
_SCAN_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a table's log that is still there.

    Attributes:
        version: that it made. at: when, by its file and by what it says, whichever is later.
        info: what it says of itself. adds, removes: data files, decoded, in the order of the commit.
    """

    version: int
    at: dt.datetime
    info: Mapping[str, Any]
    adds: tuple[str, ...]
    removes: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """The folder of one table, as it was when it was listed; tables in its subfolders have folders of their own.

    Attributes:
        name: relative to the root. uri: of the table.
        files: path in the folder → `pyarrow.fs.FileInfo`.
        filesystem, options: to read it with.
    """

    name: str
    uri: str
    files: Mapping[str, Any]
    filesystem: Any
    options: Mapping[str, str] | None

    def refuse_strange(self, root_uri: str) -> None:
        """Refuse a folder that is, or lies behind, a symbolic link.

        Raises:
            LakeError: names the link.
        """
        refuse_strange_folder(root_uri, [*self.name.split("/"), LOG_FOLDER])

    def open(self) -> DeltaTable | None:
        """Open the table at its newest version; `None` where it has no first commit yet."""
        return delta.open_table(self.uri, self.options)

    def commits(self) -> Iterator[Commit]:
        """Yield the commits whose files are still there, newest first."""
        logged = [path for path in self.files if path.startswith(f"{LOG_FOLDER}/") and path.endswith(".json")]
        for path in sorted((p for p in logged if p[len(LOG_FOLDER) + 1 : -5].isdigit()), reverse=True):
            entry = self.files[path]
            with delta.reading(self.uri), self.filesystem.open_input_stream(entry.path) as stream:
                text = stream.read()
            try:
                commit = _commit(int(path[len(LOG_FOLDER) + 1 : -5]), entry.mtime, text)
            except ValueError:
                raise StorageError(
                    f"{self.uri}: {path} has a line that is no JSON. Put the file back from a copy."
                ) from None
            yield commit


def _commit(version: int, written: dt.datetime | None, text: bytes) -> Commit:
    info: dict[str, Any] = {}
    files: dict[str, list[str]] = {"add": [], "remove": []}
    for line in text.splitlines():
        (kind, action), *_ = json.loads(line).items()
        if kind == "commitInfo":
            info = action
        elif kind in files:
            files[kind].append(delta.decoded(action["path"]))
    said = dt.datetime.fromtimestamp(info.get("timestamp", 0) / 1000, dt.UTC)
    at = said if written is None else max(said, written.astimezone(dt.UTC))
    return Commit(version, at, info, tuple(files["add"]), tuple(files["remove"]))


def folder_name(given: str) -> str:
    """Return the folder of a table, relative to the root, as `Folder.name` has it; `./a//b/` is `a/b`.

    Raises:
        LakeError: it leads elsewhere than down.
    """
    parts = [part for part in given.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise LakeError(f"{given!r} names no folder below the root. Name a table as `inspect` lists it.")
    return "/".join(parts)


@dataclass(frozen=True)
class Lake:
    """The tables below a root.

    Args:
        root_uri: as `packet_resources` was given it.
        storage_options: as deltalake takes them.
    """

    root_uri: str
    storage_options: Mapping[str, str] | None = None
    _filesystem: Any = field(init=False, repr=False)
    _prefix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        filesystem, prefix = filesystem_of(self.root_uri, self.storage_options)
        object.__setattr__(self, "_filesystem", filesystem)
        object.__setattr__(self, "_prefix", prefix)

    def folders(self) -> list[Folder]:
        """List the folders of all tables, in the order of their names.

        Raises:
            StorageError: there is no such root, or it cannot be listed.
        """
        files = self._list("")
        tables = sorted({path.partition(f"/{LOG_FOLDER}/")[0] for path in files if f"/{LOG_FOLDER}/" in path})
        mine = _files_of(tables, files)
        return [self._folder(name, mine[name]) for name in tables]

    def folder(self, name: str) -> Folder:
        """List the folder of one table anew.

        Raises:
            StorageError: as `folders`.
        """
        files = self._list(name)
        nested = sorted({path.partition(f"/{LOG_FOLDER}/")[0] for path in files if f"/{LOG_FOLDER}/" in path})
        inner = {path for other in nested for path in files if path.startswith(f"{other}/")}
        return self._folder(name, {path: entry for path, entry in files.items() if path not in inner})

    def _folder(self, name: str, files: Mapping[str, Any]) -> Folder:
        return Folder(name, f"{self.root_uri.rstrip('/')}/{name}", files, self._filesystem, self.storage_options)

    def _list(self, folder: str) -> dict[str, Any]:
        at = local_path(self.root_uri)
        if at is not None and not at.is_dir():
            raise StorageError(
                f"{self.root_uri}: there is no such folder. Give the root_uri that packet_resources was given."
            )
        base = f"{self._prefix}{folder}"
        with delta.reading(self.root_uri):
            selector = fs.FileSelector(base or "/", recursive=True, allow_not_found=True)
            entries = self._filesystem.get_file_info(selector)
        return {entry.path.removeprefix(base).lstrip("/"): entry for entry in entries if entry.is_file}


def _files_of(tables: Sequence[str], files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of each table, by their paths in it; a table in another's folder has its own."""
    found: dict[str, dict[str, Any]] = {name: {} for name in tables}
    for path, entry in files.items():
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            folder = folder.rpartition("/")[0]
        if folder:
            found[folder][path.removeprefix(f"{folder}/")] = entry
    return found


def sizes_of(table: DeltaTable) -> dict[str, tuple[int | None, int]]:
    """Return path, decoded → rows (None where the log does not say) and bytes of the files of a version, in the log's order."""
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "num_records", "size_bytes"]).to_pylist()
    return {delta.decoded(row["path"]): (row["num_records"], row["size_bytes"]) for row in actions}


def scan_files(table: DeltaTable, schema: pa.Schema) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Yield path, decoded, and rows of each file of a table's version; columns and types as `schema` has them."""
    data = delta.dataset(table)
    for fragment in data.get_fragments():
        scanner = fragment.scanner(schema=data.schema, columns=schema.names, batch_size=_SCAN_ROWS, batch_readahead=2)
        yield delta.decoded(fragment.path), _read(table.table_uri, scanner, schema)


def _read(uri: str, scanner: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with delta.reading(uri):
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield from_storage(batch, schema)


def named_files(folder: Folder) -> set[str]:
    """Return every data file that the log names, as far as it is still there."""
    return {path for commit in folder.commits() for path in (*commit.adds, *commit.removes)}


def retained_files(folder: Folder, table: DeltaTable, since: dt.datetime) -> set[str]:
    """Return every data file that a version names which was the newest at any time from `since` on.

    Args:
        folder: listed after `table` was opened, so that no commit stands between the two unseen.
        table: its newest version.
        since: the beginning of what is retained.
    """
    named = set(sizes_of(table))
    commits = list(folder.commits())
    inside = [commit.version for commit in commits if commit.at >= since]
    for commit in commits:
        if inside and commit.version >= min(inside):
            named.update(commit.adds, commit.removes)
    return named


def retained_rows(
    lake: Lake, listed: Folder, since: dt.datetime, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch]:
    """Yield every row of the versions of a table that were the newest at any time from `since` on, as the files hold it.

    Pages are held against their checksums: what upkeep reads wrong, it would take for unused.

    Args:
        lake, listed: the table.
        since: the beginning of what is retained.
        columns: which to read of a file with this schema, as pyarrow takes them; none where the file is not to be read.

    Raises:
        LakeError: the table lies behind a link, it or one of the files cannot be read, or a file of its newest version is
            missing. Those of older versions that are gone are left out: nobody can read such a version any more.
    """
    listed.refuse_strange(lake.root_uri)
    table = listed.open()
    if table is None:
        return
    folder = lake.folder(listed.name)
    live = set(sizes_of(table))
    for path in sorted(retained_files(folder, table, since)):
        entry = folder.files.get(path)
        if entry is None and path in live:
            raise StorageError(f"{folder.uri}: file {path} is missing. Run verify, and materialize the asset again.")
        if entry is not None:
            with delta.reading(folder.uri), _parquet(folder, entry.path) as file:
                if wanted := columns(file.schema_arrow):
                    yield from file.iter_batches(_SCAN_ROWS, columns=list(wanted))


def _parquet(folder: Folder, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(path, filesystem=folder.filesystem, page_checksum_verification=True)
