"""Tables: opened at their newest or an older version, and what their log says of columns, files and rows."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError as DeltaTableNotFoundError

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.delta.log import damage, refuse_cut_commits
from orcapod_dagster.core.errors import LakeError, LakeFormatError, OrcapodError, StorageError
from orcapod_dagster.core.paths import local_path
from orcapod_dagster.core.storage import options_for, told
from orcapod_dagster.core.storage_types import arrow_schema, storage_schema

FORMAT: Final = "1"
FORMAT_PROPERTY: Final = "orcapod.format"

# ---------------------------------------------------------------------------- opening


def open_table(
    uri: str, storage_options: Mapping[str, str] | None = None, *, version: int | None = None
) -> DeltaTable | None:
    """Open a table, or return `None` where there is none.

    Raises:
        LakeFormatError: it was written by another version of this package's format.
        StorageError: the storage refused.
    """
    table = open_any(uri, storage_options, version)
    return None if table is None or is_unfinished(table) else table


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


def is_unfinished(table: DeltaTable) -> bool:
    """Tell whether the table was created by us, but never had its first commit."""
    return table.version() == 0 and FORMAT_PROPERTY in table.metadata().configuration


def open_any(uri: str, storage_options: Mapping[str, str] | None, version: int | None = None) -> DeltaTable | None:
    """As `open_table`, but also a table that never had its first commit."""
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


# ---------------------------------------------------------------------------- what a table says of itself


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
    names = all_decoded(column_of(actions, "path"))
    if "num_records" not in actions.column_names:
        return dict.fromkeys(names)
    return dict(zip(names, actions["num_records"].to_pylist(), strict=True))


def decoded(path: str) -> str:
    """Return a file's path as it is, from the log, which encodes it, or from a dataset, which begins it with a slash."""
    return unquote(path.lstrip("/"))


def all_decoded(paths: pa.Array) -> list[str]:
    """Return what `decoded` makes of each path; of ours it makes nothing, which is seen for all at once."""
    found = paths.to_pylist()
    return [decoded(path) for path in found] if pc.any(pc.match_substring_regex(paths, "%|^/")).as_py() else found


def rows_of_newest(table: DeltaTable) -> int:
    """Return how many rows a table has by its log, from where it was opened up to its newest version."""
    with reading(table.table_uri):
        table.update_incremental()
        return table.count()


def last_commit_metadata(table: DeltaTable) -> dict[str, Any]:
    """Return what the newest commit says of itself."""
    with reading(table.table_uri):
        return dict(table.history(1)[0])


def column_of(actions: pa.Table, name: str) -> pa.Array:
    """Return a column of texts of what `get_add_actions` gave, in one piece."""
    return pa.concat_arrays([pa.array([], pa.string()), *(c.cast(pa.string()) for c in actions[name].chunks)])
