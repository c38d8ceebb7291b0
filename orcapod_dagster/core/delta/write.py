"""One write: its files are written once, and its commit is tried, with bounded, jittered retries, until it is known to have happened.

After an error the outcome of a commit is looked up, never assumed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from orcapod_dagster.core.delta.creation import CHECKPOINT_EVERY, create_table
from orcapod_dagster.core.delta.files import ROW_GROUP_ROWS, bounded, refuse_lost_files, remove_files, write_files
from orcapod_dagster.core.delta.log import ACTIONS, NAMED, WRITTEN, mark_of_newest, sync_files, sync_log
from orcapod_dagster.core.delta.pace import Pace
from orcapod_dagster.core.delta.schemas import (
    allow_naive_timestamps,
    refuse_difference,
    refuse_folders,
    schema_difference,
)
from orcapod_dagster.core.delta.superseding import Superseded
from orcapod_dagster.core.delta.table import is_unfinished, open_any, reading, table_schema
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.predicates import Predicate, refuse_outside
from orcapod_dagster.core.regions import name_suffix
from orcapod_dagster.core.storage_types import storage_schema, to_storage

COMMIT_ID: Final = "orcapod.commit_id"
OpenReader = Callable[[], pa.RecordBatchReader]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Outcome of a write: the table version it made, the rows it wrote, and the files they lie in.

    `before` is the table as it was before, open; `None` where the write did not happen here.
    """

    version: int
    rows: int
    files: tuple[str, ...] = ()
    before: DeltaTable | None = field(default=None, compare=False, repr=False)


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
        with Pace(self.uri) as pace:
            while True:
                pace.before_try()
                outcome = self._commit_on_newest(adds, supersede)
                if isinstance(outcome, int):
                    return outcome
                pace.lost(outcome)

    def _commit_on_newest(
        self, adds: list[AddAction], supersede: Callable[[DeltaTable], Superseded]
    ) -> int | CommitFailedError:
        """Find anew what goes, and try to commit; as `_commit_on`."""
        table = self._table = self._newest()
        # The lowest, for the table may have been removed and made anew since the first try.
        self._stood_on = table.version() if self._stood_on is None else min(self._stood_on, table.version())
        version = self.committed_version(table) if self.once else None
        if version is not None:
            remove_files(self.uri, adds, self.options)
            return version
        refuse_folders(self.uri, table)
        if not self.evolves:
            # Again, for another writer may have created the table, or changed it, since the first look.
            refuse_difference(self.uri, schema_difference(table_schema(table), self.schema))
        with reading(self.uri):
            gone = supersede(table)
        return self._commit_on(table, adds, gone)

    def _commit_on(self, table: DeltaTable, adds: list[AddAction], gone: Superseded) -> int | CommitFailedError:
        """Try to commit on a version; return the one that this made, or the error that says that another writer was first."""
        actions = [*adds, *gone.rewritten, *gone.removes]
        if not actions and not is_unfinished(table):
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
            if isinstance(error, CommitFailedError):
                return error
            raise

    def _newest(self) -> DeltaTable:
        """Return the table at its newest version; created where it is missing."""
        table, mark = self._table, self._mark
        self._mark = None
        if table is not None and mark is not None and mark_of_newest(self.uri, table.version()) == mark:
            return table
        return open_any(self.uri, self.options) or create_table(self.uri, self.stored, self.options, self.properties)

    def _try(self, table: DeltaTable, actions: list[Any]) -> None:
        version = table.version() + 1
        # The table itself remembers a write that others may try, with the version that it made, however many come after it.
        known = [Transaction(self.metadata[COMMIT_ID], version, int(time.time() * 1000))] if self.once else []
        said = {**self.metadata, ACTIONS: str(len(actions)), **({NAMED: "true"} if known else {})}
        commit = CommitProperties(custom_metadata=said, max_commit_retries=0, app_transactions=known)
        after = _after_commit(version)
        stored = Schema.from_arrow(self.stored)
        if self.takes_schema and table.schema() != stored:
            # The engine's overwrite names the new schema, and removes every file of the version it stands on by itself.
            allow_naive_timestamps(table, self.stored)
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
        table = table or open_any(self.uri, self.options)
        if table is None:
            return None
        if self.once:
            with reading(self.uri):
                return table.transaction_version(self.metadata[COMMIT_ID])
        # All that came since the first try are looked at, for a writer may have stood still meanwhile: its files would be removed.
        since = 0 if self._stood_on is None else table.version() - self._stood_on
        if since <= 0:
            return None
        with reading(self.uri):
            found = [entry for entry in table.history(since) if entry.get(COMMIT_ID) == self.metadata[COMMIT_ID]]
        return int(found[0]["version"]) if found else None


def _after_commit(version: int) -> PostCommitHookProperties:
    """Let deltalake look for log entries beyond their retention with each checkpoint only; it lists the whole log to do so.

    The table property `delta.enableExpiredLogCleanup` still decides whether it does.
    """
    return PostCommitHookProperties(cleanup_expired_logs=False if version % CHECKPOINT_EVERY else None)


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
