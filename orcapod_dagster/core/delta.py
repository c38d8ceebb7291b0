"""The one module that writes Delta tables: creates under a lock, appends and replaces with bounded, jittered retries.

A plain overwrite, a creation race and a lossy cast lose data silently; none of them can happen through here.
After an error the outcome of a commit is looked up, never assumed. No row value reaches an error text.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, TableFeatures
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError as DeltaTableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.delta_files import ROW_GROUP_ROWS, bounded, refuse_lost_files, remove_files, write_files
from orcapod_dagster.core.delta_log import (
    ACTIONS,
    WRITTEN,
    damage,
    mark_of_newest,
    refuse_cut_commits,
    sync_files,
    sync_log,
)
from orcapod_dagster.core.errors import (
    CommitError,
    LakeError,
    LakeFormatError,
    OrcapodError,
    SchemaMismatchError,
    StorageError,
)
from orcapod_dagster.core.paths import local_path
from orcapod_dagster.core.predicates import Predicate, refuse_outside
from orcapod_dagster.core.regions import files_meeting, held_by, meets, name_suffix, suffix_of
from orcapod_dagster.core.storage import options_for, told
from orcapod_dagster.core.storage_types import (
    arrow_schema,
    holds_naive_timestamp,
    same_meaning,
    storage_schema,
    table_from_storage,
    to_storage,
)

FORMAT: Final = "1"
FORMAT_PROPERTY: Final = "orcapod.format"
COMMIT_ID: Final = "orcapod.commit_id"
_NAIVE_FEATURE: Final = "timestampNtz"
Evolve = Literal["refuse", "add", "overwrite"]
OpenReader = Callable[[], pa.RecordBatchReader]

_RETRY_SECONDS: Final = 60.0
_RETRY_TRIES: Final = 30
"""A writer gives up after so long and so many tries: one that stood still for a minute has not lost against anybody."""
_LOOK_BACK: Final = 50
_LOCK_NAME: Final = "_orcapod.lock"
_CHECKPOINT_EVERY: Final = 10


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Outcome of a write: the table version it made, the rows it wrote, and the files they lie in.

    `before` is the table as it was before, open; `None` where the write did not happen here.
    """

    version: int
    rows: int
    files: tuple[str, ...] = ()
    before: DeltaTable | None = field(default=None, compare=False, repr=False)


# ---------------------------------------------------------------------------- opening and reading


def open_table(
    uri: str, storage_options: Mapping[str, str] | None = None, *, version: int | None = None
) -> DeltaTable | None:
    """Open a table, or return `None` where there is none.

    Raises:
        LakeFormatError: it was written by another version of this package's format.
        StorageError: the storage refused.
    """
    table = _open_any(uri, storage_options, version)
    return None if table is None or _is_unfinished(table) else table


def _is_unfinished(table: DeltaTable) -> bool:
    """Tell whether the table was created by us, but never had its first commit."""
    return table.version() == 0 and FORMAT_PROPERTY in table.metadata().configuration


def _open_any(uri: str, storage_options: Mapping[str, str] | None, version: int | None = None) -> DeltaTable | None:
    if "%" in uri:
        raise LakeError(
            f"{uri} has a percent sign, which delta-rs reads as an encoding and so writes elsewhere than it reads. Use another path."
        )
    try:
        with reading(uri):
            table = DeltaTable(uri, version=version, storage_options=options_for(uri, storage_options))
    except DeltaTableNotFoundError:
        return None
    except StorageError as error:
        problem = damage(uri)
        if problem is None:
            raise
        raise StorageError(f"{error} {problem}") from None
    refuse_cut_commits(uri, table.version())
    found = table.metadata().configuration.get(FORMAT_PROPERTY, FORMAT)
    if found != FORMAT:
        raise LakeFormatError(
            f"The table {uri} has lake format {found}, this version of orcapod-dagster reads and writes format {FORMAT}. "
            "Use the version that wrote it, or another root_uri."
        )
    return table


@contextlib.contextmanager
def reading(what: str) -> Generator[None]:
    """Turn errors of storage and engine into errors of this package that name what was read.

    They have no cause: the engine's message may go on with a preview of rows, and a log would show it.
    """
    try:
        yield
    except (OrcapodError, DeltaTableNotFoundError, CommitFailedError, GeneratorExit, StopIteration):
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise StorageError(
            f"{what}: {told(error)}. Check that the path is right, readable, writable and whole."
        ) from None
    except BaseException as error:
        if type(error).__name__ == "PanicException" or type(error) is Exception:
            raise StorageError(f"{what}: {told(error)}.") from None
        raise


def dataset(table: DeltaTable, where: Predicate | None = None) -> Any:
    """Return a table's files as a pyarrow dataset; pages that changed on the disk are noticed where they are read.

    Args:
        table: at the version to read.
        where: with it, only the files are in the dataset that may hold rows which fulfil it, by their names alone; rows of
            the same files that do not are still there.
    """
    with reading(table.table_uri):
        paths = _column_of(pa.table(table.get_add_actions(flatten=True)), "path")
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


def _column_of(actions: pa.Table, name: str) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *(c.cast(pa.string()) for c in actions[name].chunks)])


def local_folder(table: DeltaTable) -> Path | None:
    """Return where a table lies, which its own URI says encoded; `None` for an object store."""
    return local_path(unquote(table.table_uri))


def table_schema(table: DeltaTable) -> pa.Schema:
    """Return the Arrow schema to read with: the one that was written, else the table's own with plain types."""
    return arrow_schema(pa.schema(table.schema().to_arrow()))


def held_schema(table: DeltaTable) -> pa.Schema:
    """Return the schema in which the table's files hold its rows."""
    return storage_schema(table_schema(table))


def live_files(table: DeltaTable) -> dict[str, int | None]:
    """Return the paths of a table's files, with the number of rows that the log says of each, in the order of the log."""
    actions = pa.table(table.get_add_actions(flatten=True))
    names = _all_decoded(_column_of(actions, "path"))
    if "num_records" not in actions.column_names:
        return dict.fromkeys(names)
    return dict(zip(names, actions["num_records"].to_pylist(), strict=True))


def decoded(path: str) -> str:
    """Return a file's path as it is, from the log, which encodes it, or from a dataset, which begins it with a slash."""
    return unquote(path.lstrip("/"))


def _all_decoded(paths: pa.Array) -> list[str]:
    """Return what `decoded` makes of each path; of ours it makes nothing, which is seen for all at once."""
    found = paths.to_pylist()
    return [decoded(path) for path in found] if pc.any(pc.match_substring_regex(paths, "%|^/")).as_py() else found


def open_at(uri: str, moment: int | str | dt.datetime, storage_options: Mapping[str, str] | None = None) -> DeltaTable:
    """Open a table as it was.

    Args:
        uri: the table.
        moment: a version, or a time with a zone (text in ISO 8601), of which the last version until then counts.
        storage_options: as deltalake takes them.

    Raises:
        StorageError: the time has no zone, or that version is not there.
    """
    with reading(f"{uri} at {moment}"):
        table = DeltaTable(uri, storage_options=options_for(uri, storage_options))
        if isinstance(moment, str):
            moment = dt.datetime.fromisoformat(moment)
        if isinstance(moment, dt.datetime) and moment.tzinfo is None:
            raise StorageError(
                f"{uri} at {moment}: a time without a zone. Give it one, e.g. {moment.isoformat()}+00:00."
            )
        if isinstance(moment, int) and not 0 < moment <= table.version():
            raise StorageError(
                f"{uri}: there is no version {moment}; the versions are 1 to {table.version()}. Name one of them."
            )
        table.load_as_version(moment)
    return table


def rows_of_newest(table: DeltaTable) -> int:
    """Return how many rows a table has by its log, from where it was opened up to its newest version."""
    with reading(table.table_uri):
        table.update_incremental()
        return table.count()


def last_commit_metadata(table: DeltaTable) -> dict[str, Any]:
    """Return what the newest commit says of itself."""
    with reading(table.table_uri):
        return dict(table.history(1)[0])


# ---------------------------------------------------------------------------- writing


def append(
    uri: str,
    open_reader: OpenReader,
    *,
    storage_options: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
    plain_columns: Sequence[str] = (),
    commit_id: str | None = None,
    durable: bool = False,
    evolve: Literal["refuse", "add"] = "refuse",
) -> WriteResult:
    """Append rows in one commit, in their order; exactly once, however often the commit has to be tried.

    Args:
        uri: the table; it is created, under a lock, where it is missing.
        open_reader: gives the rows; opened twice, once for the schema.
        storage_options: as deltalake takes them.
        properties: table properties, set when it is created.
        custom_metadata: stored with the commit.
        plain_columns: columns of ever new values, which are not dictionary-encoded.
        commit_id: names this append for ever: where one of the last commits carries it, nothing is written again.
        durable: force everything to the disk before returning, so that a power loss takes nothing away; local disks only.
        evolve: what to do when there are new columns: refuse, or add them; the rows that are there have null in them.

    Raises:
        SchemaMismatchError: the table has other columns. LakeError: another engine laid it out in folders by partition.
        CommitError: other writers won for a minute. StorageError: the storage refused.
    """
    schema = open_reader().schema
    table = open_table(uri, storage_options)
    _refuse_folders(uri, table)
    difference = [] if table is None else schema_difference(table_schema(table), schema)
    if _only_new(difference) and evolve == "add":
        _add_columns(uri, schema, storage_options)
        table = None
    else:
        _refuse_difference(uri, difference)
    write = Write(uri, schema, storage_options, properties or {}, custom_metadata or {}, plain_columns)
    write.durable = durable
    write.look(table)
    if commit_id is not None:
        write.metadata[COMMIT_ID] = commit_id
        write.once = True
        version = write.committed_version()
        if version is not None:
            write.sync(version)
            return WriteResult(version, 0)
    return write.run(open_reader, lambda _table: Superseded([], []))


def replace(
    uri: str,
    open_reader: OpenReader,
    *,
    where: Predicate | None,
    owner: str | None = None,
    part: str = "the rows to replace",
    storage_options: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
    plain_columns: Sequence[str] = (),
    evolve: Evolve = "refuse",
) -> WriteResult:
    """Replace exactly the rows that `where` names, in one commit; the new rows keep their order.

    Args:
        uri: the table; it is created, under a lock, where it is missing.
        open_reader: gives the new rows; opened twice, once for the schema. Every one must fulfil `where`.
        where: the rows to replace; None means the whole table.
        owner, part: whose table it is (default its URI), and what `where` means, for messages.
        storage_options, properties, custom_metadata, plain_columns: as in `append`.
        evolve: what to do when the columns differ: refuse, add new ones, or (whole table only) take the new ones.

    Raises:
        PartitionError: a new row does not fulfil `where`.
        SchemaMismatchError: the columns differ and `evolve` does not allow it; shows the difference.
        LakeError: another engine laid the table out in folders by partition.
        CommitError, StorageError: as in `append`; nothing was changed then.
    """
    schema = open_reader().schema
    table = open_table(uri, storage_options)
    _refuse_folders(uri, table)
    difference = [] if table is None else schema_difference(table_schema(table), schema)
    if _only_new(difference) and evolve == "add":
        _add_columns(uri, schema, storage_options)
        table = None
    elif evolve != "overwrite" or where is not None:
        _refuse_difference(uri, difference)
    write = Write(uri, schema, storage_options, properties or {}, custom_metadata or {}, plain_columns)
    if where is not None:
        write.within(where, owner or uri, part)
    write.look(table)
    write.takes_schema = where is None
    write.evolves = where is None and evolve == "overwrite"
    return write.run(open_reader, lambda current: write.superseded(current, where))


@dataclass(frozen=True, slots=True)
class Superseded:
    """What a commit takes away: whole files, and the rows of some of them that stay and were written anew."""

    removes: list[RemoveAction]
    rewritten: list[AddAction]


class Write:
    """One write: its files are written once, its commit is tried until it is known to have happened.

    A commit is tried only on top of the very version that was looked at (no retries inside the engine): whoever
    committed in between makes it fail, and what it takes away is found anew. So writes follow one another.
    """

    def __init__(
        self,
        uri: str,
        schema: pa.Schema,
        storage_options: Mapping[str, str] | None,
        properties: Mapping[str, str],
        custom_metadata: Mapping[str, str],
        plain_columns: Sequence[str],
    ) -> None:
        self.uri = uri
        self.schema = schema
        self.properties = properties
        self.stored = storage_schema(schema)
        self.options = storage_options
        self.plain_columns = plain_columns
        self.metadata = {**custom_metadata, COMMIT_ID: uuid.uuid4().hex}
        self.takes_schema = False
        """The whole table is replaced, so its schema may be as well, in the same commit."""
        self.evolves = False
        """Columns that differ are no error."""
        self.data_change = True
        """The rows are new; False where they come from other files of the table."""
        self.durable = False
        """Files are on the disk before their commit, and the commit before the write returns."""
        self.row_group_rows = ROW_GROUP_ROWS
        """How many rows are read at least, to read one."""
        self.once = False
        """Another process may try this very write, so before each try it is looked up whether that has succeeded."""
        self._check: Callable[[pa.RecordBatch], None] | None = None
        self._suffix = ""
        self._stood_on: int | None = None
        self._table: DeltaTable | None = None
        self._mark: tuple[int, int] | None = None

    def look(self, table: DeltaTable | None) -> None:
        """Take a table that was opened just now, to be committed on without opening it again, should nobody else commit."""
        if table is not None:
            self._table, self._mark = table, mark_of_newest(self.uri, table.version())

    def within(self, where: Predicate, owner: str, part: str) -> None:
        """Refuse rows that do not fulfil a predicate, and let the names of the files say that all do."""
        self._check = lambda batch: refuse_outside(batch, where, owner, part)
        self._suffix = name_suffix(where.regions(self.stored))

    def run(self, open_reader: OpenReader, supersede: Callable[[DeltaTable], Superseded]) -> WriteResult:
        """Write the files, and commit them until that has happened; what `supersede` finds goes in the same commit."""
        rows = _Rows(open_reader, self.stored, self._check)
        with reading(self.uri):
            adds = write_files(
                self.uri, rows.batches(), self.stored, self.options, self.plain_columns, data_change=self.data_change,
                suffix=self._suffix, row_group_rows=self.row_group_rows,
            )  # fmt: skip
        self.metadata[WRITTEN] = str(len(adds))
        try:
            if self.durable:
                with reading(self.uri):
                    sync_files(self.uri, [action.path for action in adds])
            version = self._commit(adds, supersede)
            self.sync(version)
            return WriteResult(version, rows.count, tuple(action.path for action in adds), self._table)
        except BaseException:
            if self.committed_version() is None:
                remove_files(self.uri, adds, self.options)
            raise

    def sync(self, version: int) -> None:
        """Force the commit to the disk, where that was asked for."""
        if self.durable:
            with reading(self.uri):
                sync_log(self.uri, version)

    def _commit(self, adds: list[AddAction], supersede: Callable[[DeltaTable], Superseded]) -> int:
        deadline = time.monotonic() + _RETRY_SECONDS
        delay, tries = 0.01, 0
        while True:
            tries += 1
            table = self._table = self._newest()
            if self._stood_on is None:
                self._stood_on = table.version()
            version = self.committed_version(table) if self.once else None
            if version is not None:
                remove_files(self.uri, adds, self.options)
                return version
            _refuse_folders(self.uri, table)
            if not self.evolves:
                # Again, for another writer may have created the table, or changed it, since the first look.
                _refuse_difference(self.uri, schema_difference(table_schema(table), self.schema))
            with reading(self.uri):
                gone = supersede(table)
            actions = [*adds, *gone.rewritten, *gone.removes]
            if not actions and not _is_unfinished(table):
                return table.version()
            refuse_lost_files(self.uri, adds, self.options)
            try:
                with reading(self.uri):
                    self._try(table, actions)
                return table.version() + 1
            except (CommitFailedError, StorageError) as error:
                version = self.committed_version()
                if version is not None:
                    return version
                remove_files(self.uri, gone.rewritten, self.options)
                if not isinstance(error, CommitFailedError):
                    raise
                if tries >= _RETRY_TRIES and time.monotonic() > deadline:
                    raise CommitError(
                        f"{self.uri}: other writers committed first, {tries} times in {_RETRY_SECONDS:.0f} s or more. Nothing was "
                        "written. Run again, with fewer writers on this table at once."
                    ) from error
            time.sleep(delay * (0.5 + random.random()))  # noqa: S311  # jitter, not a secret
            delay = min(delay * 1.6, 1.0)

    def _newest(self) -> DeltaTable:
        """Return the table at its newest version; created where it is missing."""
        table, mark = self._table, self._mark
        self._mark = None
        if table is not None and mark is not None and mark_of_newest(self.uri, table.version()) == mark:
            return table
        return _open_any(self.uri, self.options) or self._create()

    def _create(self) -> DeltaTable:
        """Create the table, empty, under a lock; until its first commit `open_table` does not see it."""
        configuration = {
            "delta.checkpointInterval": str(_CHECKPOINT_EVERY),
            FORMAT_PROPERTY: FORMAT,
            **self.properties,
        }
        with _lock(self.uri):
            table = _open_any(self.uri, self.options)
            if table is not None:
                return table
            # Without retries the first conditional write of version 0 wins, and all others see its table.
            with reading(self.uri), contextlib.suppress(CommitFailedError):
                DeltaTable.create(
                    self.uri,
                    self.stored,
                    mode="ignore",
                    configuration=configuration,
                    storage_options=options_for(self.uri, self.options),
                    commit_properties=CommitProperties(max_commit_retries=0),
                    raise_if_key_not_exists=False,
                )
            table = _open_any(self.uri, self.options)
        if table is None:
            raise CommitError(f"{self.uri}: the table was created and is gone again. Run again.")
        return table

    def _try(self, table: DeltaTable, actions: list[Any]) -> None:
        said = {**self.metadata, ACTIONS: str(len(actions))}
        commit = CommitProperties(custom_metadata=said, max_commit_retries=0)
        after = _after_commit(table.version() + 1)
        stored = Schema.from_arrow(self.stored)
        if self.takes_schema and table.schema() != stored:
            # The engine's overwrite names the new schema, and removes every file of the version it stands on by itself.
            _allow_naive_timestamps(table, self.stored)
            adds: list[Any] = [action for action in actions if isinstance(action, AddAction)]
            table.create_write_transaction(
                adds, "overwrite", stored, commit_properties=commit, post_commithook_properties=after
            )
        else:
            table.create_write_transaction(
                actions, "append", table.schema(), commit_properties=commit, post_commithook_properties=after
            )

    def committed_version(self, table: DeltaTable | None = None) -> int | None:
        """Look up whether the commit happened: after an error that does not tell, or in `table`, before a try on it."""
        table = table or _open_any(self.uri, self.options)
        if table is None:
            return None
        # All that came since the first try are looked at, for a writer may have stood still meanwhile: its files would be removed.
        since = 0 if self._stood_on is None else table.version() - self._stood_on
        with reading(self.uri):
            found = [e for e in table.history(max(_LOOK_BACK, since)) if e.get(COMMIT_ID) == self.metadata[COMMIT_ID]]
        return int(found[0]["version"]) if found else None

    def superseded(self, table: DeltaTable, where: Predicate | None) -> Superseded:
        """Find the files whose rows fulfil `where`; of files with other rows too, those are written anew."""
        found = Superseded([], [])
        files = pa.table(table.get_add_actions(flatten=True))
        sizes: dict[str, int] = dict(zip(files["path"].to_pylist(), files["size_bytes"].to_pylist(), strict=True))
        if where is None:
            found.removes.extend(removal(path, size) for path, size in sizes.items())
            return found
        try:
            self._supersede_rows(table, where, sizes, found)
        except BaseException:
            remove_files(self.uri, found.rewritten, self.options)
            raise
        return found

    def _supersede_rows(self, table: DeltaTable, where: Predicate, sizes: Mapping[str, int], found: Superseded) -> None:
        names = _all_decoded(pa.array(list(sizes), pa.string()))
        data, paths = dataset(table, where), dict(zip(names, sizes, strict=True))
        for fragment in data.get_fragments():
            path = paths[decoded(fragment.path)]
            mask = where.mask(fragment.to_table(schema=data.schema, columns=list(where.columns())))
            if not pc.any(mask, min_count=0).as_py():
                continue
            found.removes.append(removal(path, sizes[path]))
            if not pc.all(mask).as_py():
                rest = fragment.to_table(schema=data.schema).filter(pc.invert(mask))
                rest = table_from_storage(rest, held_schema(table))
                found.rewritten.extend(
                    write_files(
                        self.uri,
                        rest.to_batches(),
                        rest.schema,
                        self.options,
                        self.plain_columns,
                        suffix=suffix_of(path),
                    )
                )


def _after_commit(version: int) -> PostCommitHookProperties:
    """Let deltalake look for log entries beyond their retention with each checkpoint only; it lists the whole log to do so.

    The table property `delta.enableExpiredLogCleanup` still decides whether it does.
    """
    return PostCommitHookProperties(cleanup_expired_logs=False if version % _CHECKPOINT_EVERY else None)


def removal(path: str, size: int, *, data_change: bool = True) -> RemoveAction:
    """Return what takes a file out of a table."""
    return RemoveAction(
        path=path, data_change=data_change, deletion_timestamp=int(time.time() * 1000), size=size, partition_values={}
    )


class _Rows:
    """The rows of a write in Delta's storage types, counted as they pass."""

    def __init__(
        self, open_reader: OpenReader, stored: pa.Schema, check: Callable[[pa.RecordBatch], None] | None
    ) -> None:
        self._open = open_reader
        self._stored = stored
        self._check = check
        self.count = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._open():
            self.count += batch.num_rows
            if self._check is not None:
                self._check(batch)
            for piece in bounded(batch):
                yield to_storage(piece, self._stored)


# ---------------------------------------------------------------------------- schemas that differ


def _only_new(difference: Sequence[str]) -> bool:
    return bool(difference) and all(line.startswith("new") for line in difference)


def _add_columns(uri: str, schema: pa.Schema, storage_options: Mapping[str, str] | None) -> None:
    with _lock(uri), reading(uri):
        table = DeltaTable(uri, storage_options=options_for(uri, storage_options))
        known = {field.name for field in table.schema().fields}
        stored = storage_schema(schema)
        _allow_naive_timestamps(table, stored)
        # Rows that are there already have no value in a new column.
        wanted = Schema.from_arrow(pa.schema([field.with_nullable(True) for field in stored]))
        table.alter.add_columns([field for field in wanted.fields if field.name not in known])


def _allow_naive_timestamps(table: DeltaTable, stored: pa.Schema) -> None:
    """Give a table the feature for timestamps without a zone, in a commit of its own, before its schema has one.

    delta-rs would commit the schema without it, and could not open the table any more.
    """
    needed = any(holds_naive_timestamp(field.type) for field in stored)
    if needed and _NAIVE_FEATURE not in (table.protocol().reader_features or ()):
        table.alter.add_feature(TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True)


def _refuse_folders(uri: str, table: DeltaTable | None) -> None:
    """Refuse a table whose files have partition values, which ours have not: their rows would be read with nulls."""
    columns = [] if table is None else table.metadata().partition_columns
    if columns:
        raise LakeError(
            f"{uri} is laid out in folders by {columns}, which another engine did. Nothing was written. Name another asset, or "
            "remove the table."
        )


def _refuse_difference(uri: str, difference: Sequence[str]) -> None:
    if difference:
        raise SchemaMismatchError(
            f"{uri}: the data does not have the table's columns: {'; '.join(difference)}. Nothing was written. Change the "
            'data, allow it with the definition metadata "orcapod/schema_evolution" ("add", or "overwrite" for a whole '
            "table), or remove the table."
        )


def schema_difference(table: pa.Schema, data: pa.Schema) -> list[str]:
    """Return what differs, line by line: "new column …", "missing column …", "column … is …, was …"."""
    old, new = {f.name: f for f in table}, {f.name: f for f in data}
    lines = [f"new column {n!r} ({f.type})" for n, f in new.items() if n not in old]
    lines += [f"missing column {n!r} ({f.type})" for n, f in old.items() if n not in new]
    if not lines and list(old) != list(new):
        lines.append(f"the order of the columns is {list(new)}, was {list(old)}")
    for name in old.keys() & new.keys():
        if not same_meaning(old[name].type, new[name].type):
            lines.append(f"column {name!r} is {new[name].type}, was {old[name].type}")
        elif new[name].nullable and not old[name].nullable:
            lines.append(f"column {name!r} may be null, was not null")
    return sorted(lines)


@contextlib.contextmanager
def _lock(uri: str) -> Generator[None]:
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
