"""Verify: whether the tables of a lake are whole, and what to do where they are not.

Counts come from Delta's log, so a table with a missing file still says how many rows it has. Here the log is held against the
files: present, of the size and with the rows that it says; large values likewise. When asked for, every value is read: pages
against the checksums that our files have, large values against their names, the rows of packet assets against the data version
that their commit says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.check import BlobCheck
from orcapod_dagster.core.blobs.layout import is_blob
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.cleanup.base import CleanSettings
from orcapod_dagster.core.cleanup.files import find_litter
from orcapod_dagster.core.columns import RECORD_ID
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.hashing import value_lanes
from orcapod_dagster.core.lake import LOGS, PLANS, RESULTS, Folder, Lake, folder_name, sizes_of
from orcapod_dagster.core.paths import LOG_FOLDER, RESULTS_FOLDER
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.standing_rows import check_rows, standing_rows

_REPAIR: Final = (
    "Put the file back from a copy. Without one, remove it and run deltalake's DeltaTable(...).repair(), which takes missing files "
    "out of the log; "
)
_MEND: Final = f"{_REPAIR}then materialize the asset, or its partitions, again: results are kept."
_MEND_RESULTS: Final = f"{_REPAIR}the next run computes its results again."
_MEND_LOGS: Final = f"{_REPAIR}what its packets printed and logged is lost with it, and nothing else."
_MEND_PLANS: Final = (
    f"{_REPAIR}why packets were computed in the runs that it tells of is lost with it, and nothing else."
)
_RESTORE_LOG: Final = (
    "Its rows may be missing. Put it back from a copy; without one, remove the table, and materialize the asset again."
)
_LOGGED: Final = re.compile(rf"^{LOG_FOLDER}/(\d{{20}})\.(json$|checkpoint\.)")
_WRITE_ANEW: Final = (
    "Something else than its asset wrote to this table, or changed its files. Remove the table (its data files and its "
    "_delta_log, not the folders of other assets in it), and materialize the asset again: results are kept."
)


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
        read_all: also read every value, which finds whatever changed on the disk; costs as much as reading the lake.
        table: only the table in this folder, relative to the root.

    Raises:
        LakeError: `table` leads out of the root. StorageError: the root cannot be listed.
    """
    lake = Lake(root_uri, storage_options)
    blobs = cache(lambda: BlobCheck(BlobStore(root_uri, storage_options)))
    for folder in lake.folders() if table is None else [lake.folder(folder_name(table))]:
        yield _strange(lake, folder) or _Check(lake, folder, blobs).run(read_all=read_all)


def _strange(lake: Lake, folder: Folder) -> TableReport | None:
    """Return what is wrong with the folder of a table itself, which is then not looked into."""
    try:
        folder.refuse_strange(lake.root_uri)
    except LakeError as error:
        finding = Finding(folder.name, f"is not looked into: {error}", "Its assets are neither written nor read.")
        return TableReport(folder.name, None, 0, 0, 0, (finding,))
    return None


class _Check:
    """The check of one table."""

    def __init__(self, lake: Lake, folder: Folder, blobs: Callable[[], BlobCheck]) -> None:
        self._lake = lake
        self._folder = folder
        self._blobs = blobs
        self._mend = _MEND_RESULTS if folder.name.startswith(f"{RESULTS_FOLDER}/") else _MEND
        self._mend = _MEND_LOGS if folder.name.startswith(LOGS) else self._mend
        self._mend = _MEND_PLANS if folder.name.startswith(PLANS) else self._mend
        self._findings: list[Finding] = []

    def run(self, *, read_all: bool) -> TableReport:
        name = self._folder.name
        try:
            table = self._folder.open()
        except LakeError as error:
            self._say(f"cannot be opened: {error}", "Mend what the message names, or restore the log from a copy.")
            return TableReport(name, None, 0, 0, 0, tuple(self._findings))
        if table is None:
            self._say_absent()
            return TableReport(name, None, 0, 0, 0, tuple(self._findings))
        # Listed anew, for the table may have been written since.
        self._folder = self._lake.folder(name)
        self._check_log(table)
        live = sizes_of(table)
        for path, (rows, size) in live.items():
            self._check_file(path, rows, size)
        if not self._findings:
            self._guarded(lambda: self._check_records(table))
            self._guarded(lambda: self._check_rows(table, read_all=read_all))
            self._guarded(lambda: self._check_blobs(table, read_all=read_all))
            if read_all:
                self._guarded(lambda: self._read_everything(table))
        self._guarded(lambda: self._check_litter(table))
        rows, size = sum(rows or 0 for rows, _ in live.values()), sum(size for _, size in live.values())
        return TableReport(name, table.version(), rows, len(live), size, tuple(self._findings))

    def _say_absent(self) -> None:
        """Tell a table that never was from one that is new, and from one that is lost."""
        files = self._folder.files
        data = sum(path.endswith(".parquet") and not path.startswith(f"{LOG_FOLDER}/") for path in files)
        created = any(path.startswith(f"{LOG_FOLDER}/") and path.endswith(".json") for path in files)
        lost = bool(data) and not created
        if created:
            what, do = "was created, but has no first commit", "Nothing: the next write goes on from there."
        elif lost:
            what = f"has {data} data files, but no log: its first write was killed, or its log was lost"
            do = "Put _delta_log back from a copy. If there never was one, the next run of the asset writes the table."
        else:
            what, do = "is not there", "Materialize the asset first."
        self._say(what, do, harmless=not lost)

    def _say(self, what: str, do: str, *, harmless: bool = False) -> None:
        self._findings.append(Finding(self._folder.name, what, do, harmless))

    def _guarded(self, check: Callable[[], None]) -> None:
        try:
            check()
        except LakeError as error:
            said = f"cannot be read: {error}"
            if all(finding.what != said for finding in self._findings):
                self._say(said, self._mend)

    def _check_log(self, table: DeltaTable) -> None:
        """Check that each commit since the newest checkpoint is there; deltalake misses none before the first that it finds."""
        found = [match for path in self._folder.files if (match := _LOGGED.match(path))]
        start = max((int(one[1]) for one in found if one[2] != "json"), default=-1)
        commits = {int(one[1]) for one in found if one[2] == "json"}
        missing = [number for number in range(start + 1, table.version() + 1) if number not in commits]
        if missing:
            self._say(f"the log lacks commit {missing[0]}, and no checkpoint holds it", _RESTORE_LOG)

    def _check_file(self, path: str, rows: int | None, size: int) -> None:
        entry = self._folder.files.get(path)
        if entry is None:
            self._say(f"file {path} with {rows} rows is missing", self._mend)
        elif entry.size != size:
            self._say(f"file {path} has {entry.size} bytes, {size} were written", self._mend)
        else:
            try:
                found = pq.read_metadata(entry.path, filesystem=self._folder.filesystem).num_rows
            except (OSError, pa.ArrowException) as error:
                self._say(f"file {path} is no whole Parquet file ({type(error).__name__})", self._mend)
                return
            if rows is not None and found != rows:
                self._say(f"file {path} has {found} rows, the log says {rows}", self._mend)

    def _check_records(self, table: DeltaTable) -> None:
        """Check that no result stands twice; asset tables may repeat one, for rows with equal packets share it."""
        if not self._folder.name.startswith(RESULTS) or RECORD_ID not in delta.table_schema(table).names:
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

    def _check_rows(self, table: DeltaTable, *, read_all: bool) -> None:
        """Check the rows of a packet asset against what its commits say of them."""
        for rows in standing_rows(self._folder, table):
            for wrong in check_rows(table, rows, read_all=read_all):
                self._say(wrong, _WRITE_ANEW)

    def _check_blobs(self, table: DeltaTable, *, read_all: bool) -> None:
        """Check that the large values that rows name are there; tables without such columns cost nothing."""
        source = DeltaSource(table)
        if any(is_blob(field.type) for field in source.schema):
            for problem in self._blobs().problems(source, read_all=read_all):
                self._say(problem.what, problem.do)

    def _read_everything(self, table: DeltaTable) -> None:
        """Read every page, whose checksum is looked at, and every value, which must be one of its type."""
        source = DeltaSource(table)
        rows = sum(batch.num_rows for batch in source.scan(source.schema.names))
        if rows != source.num_rows:
            self._say(f"{rows} rows could be read, the files say {source.num_rows}", self._mend)

    def _check_litter(self, table: DeltaTable) -> None:
        for one in find_litter(self._folder, table, CleanSettings()):
            self._say(
                f"{one.files} files ({one.bytes} bytes) belong to no version: {one.what}, {one.why}",
                "They only take up space. `python -m orcapod_dagster clean` removes them.",
                harmless=True,
            )
