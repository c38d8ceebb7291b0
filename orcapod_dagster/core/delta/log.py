"""What deltalake does not do for its own log: notice that it was cut short, and force it to the disk.

deltalake syncs nothing. After a power loss the newest commits may be there with no or half their lines; deltalake then opens the
table without an error, and without these rows. So our commits say how many actions they have, and openings count them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.paths import LOG_FOLDER, local_path

ACTIONS: Final = "orcapod.actions"
"""In the metadata of a commit: how many files it adds and removes."""
WRITTEN: Final = "orcapod.written"
"""In the metadata of a commit: how many of the files it adds, the first ones, hold its own rows; the others, rows that stayed."""
NAMED: Final = "orcapod.named"
"""In the metadata of a commit: it holds a name by which it is found. deltalake writes that last; cut off, a retry would repeat rows."""
_FILE_ACTIONS: Final = (b'{"add":', b'{"remove":', b'{"cdc":')
_HINT: Final = "_last_checkpoint"
_LOOK_BACK: Final = 20
"""Twice the checkpoint interval of our tables, and that of earlier releases: no more commits than that are read one by one."""

_synced: dict[tuple[Path, int], int] = {}
"""Log folder and its inode → the version up to which this process forced the log to the disk."""
_lock: Final = threading.Lock()


# ---------------------------------------------------------------------------- a log that was cut short


def refuse_cut_commits(uri: str, version: int) -> None:
    """Refuse a table one of whose newest commits, since the last checkpoint, was cut short.

    On an object store there is no such thing: a file is there as a whole or not at all.

    Raises:
        StorageError: names the file of the log, what was seen, and the two ways out.
    """
    log = _log_folder(uri)
    if log is not None:
        problem = _cut_commit(log, version)
        if problem is not None:
            raise StorageError(problem)


def _cut_commit(log: Path, newest: int) -> str | None:
    for number in range(newest, max(newest - _LOOK_BACK, -1), -1):
        if _checkpoint(log, number).exists():
            return None  # holds this commit and all before
        file = _commit(log, number)
        try:
            problem = _problem(file.read_bytes(), number)
        except FileNotFoundError:
            return None  # cleaned up, after a checkpoint that holds it
        if problem is not None:
            later = "" if number == newest else f" with the {newest - number} after it"
            before = f"as it was before version {number}" if number else "not there"
            return (
                f"{file} {problem}; the machine probably lost power while it was written. Put the file back from a copy, or "
                f"remove it{later}: the table is then {before}, and the next run does that work again."
            )
    return None


def _problem(text: bytes, version: int) -> str | None:
    lines = text.splitlines()
    if not lines:
        return "is empty"
    found = sum(line.startswith(_FILE_ACTIONS) for line in lines)
    try:
        json.loads(lines[-1])
        infos = [json.loads(line)["commitInfo"] for line in lines if line.startswith(b'{"commitInfo":')]
    except ValueError:
        return f"has a line that is no JSON, after {found} file actions"
    if version == 0 and not any(line.startswith(b'{"metaData":') for line in lines):
        return "does not say what the table's columns are"
    if infos and NAMED in infos[-1] and not any(line.startswith(b'{"txn":') for line in lines):
        return f"lacks the name of its commit, after {found} file actions"
    said = _said(infos[-1]) if infos else None
    return None if said is None or said <= found else f"has {found} of the {said} file actions of its commit"


def _said(info: Mapping[str, Any]) -> int | None:
    """Return how many file actions a commit says it has; other writers of deltalake tell by their metrics."""
    if ACTIONS in info:
        return int(info[ACTIONS])
    metrics = info.get("operationMetrics") or {}
    added, removed = metrics.get("num_added_files"), metrics.get("num_removed_files")
    return added + removed if isinstance(added, int) and isinstance(removed, int) else None


def damage(uri: str) -> str | None:
    """Return what is damaged in the log of a table that deltalake cannot open, and the way out; `None` where nothing is seen."""
    log = _log_folder(uri)
    if log is None or not log.is_dir():
        return None
    newest = max((int(path.stem) for path in log.glob("*.json") if path.stem.isdigit()), default=None)
    return _broken_checkpoint(log) or (None if newest is None else _cut_commit(log, newest))


def _broken_checkpoint(log: Path) -> str | None:
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    named = _hinted(log)
    broken = [path for path in checkpoints if not _is_whole(path)]
    missing = named is not None and not _checkpoint(log, named).exists()
    if not broken and not missing:
        return None
    whole = [int(path.name[:20]) for path in checkpoints if path not in broken]
    commits = sorted(int(path.stem) for path in log.glob("*.json") if path.stem.isdigit())
    start = max(whole, default=-1) + 1
    if not commits or [n for n in commits if n >= start] != list(range(start, commits[-1] + 1)):
        return f"A checkpoint in {log} is not whole, and commits from version {start} on are missing. Restore it from a copy."
    remove = [str(path) for path in (log / _HINT, *broken) if path.exists()]
    return f"A checkpoint in {log} is not whole, but every commit is there. Remove {' and '.join(remove)}: nothing is lost by it."


def _hinted(log: Path) -> int | None:
    try:
        return int(json.loads((log / _HINT).read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # deltalake looks for checkpoints itself then


def _is_whole(parquet: Path) -> bool:
    with parquet.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        return size > 12 and file.read() == b"PAR1"


# ---------------------------------------------------------------------------- forcing to the disk


def sync_files(uri: str, names: Iterable[str]) -> None:
    """Force data files and their folder to the disk, before a commit names them."""
    folder = local_path(uri)
    if folder is not None:
        for name in names:
            _sync(folder / name)
        _sync_folder(folder)


def sync_log(uri: str, version: int) -> None:
    """Force a commit to the disk, with whatever it stands on that this process did not force there before.

    That is, the first time, also the commits of others since the last checkpoint, that checkpoint, and the folders up to
    the root; for a log with a gap, or in no folder, cannot be opened.
    """
    log = _log_folder(uri)
    if log is None:
        return
    key = (log, log.stat().st_ino)
    with _lock:
        since = _synced.get(key, -1)
    first = since < 0 or since >= version  # at a higher version: another table was there, of the same inode
    for path in _unsynced(log, -1 if first else since, version):
        with contextlib.suppress(FileNotFoundError):  # cleaned up, after a checkpoint that holds it
            _sync(path)
    _sync_folder(log)
    for folder in log.parents if first else ():
        _sync_folder(folder)
    with _lock:
        _synced[key] = version


def _unsynced(log: Path, since: int, version: int) -> Iterator[Path]:
    """Yield the files of a log after a version, newest first, back to a checkpoint."""
    for number in range(version, since, -1):
        yield _commit(log, number)
        if _checkpoint(log, number).exists():
            yield _checkpoint(log, number)
            yield log / _HINT
            return


def mark_of_newest(uri: str, version: int) -> tuple[int, int] | None:
    """Return what tells, without opening the table, that a version is still its newest one: as long as it is the same.

    A table that was removed and made anew has another mark. On an object store, where a later version is there, or where the
    version's commit was cleaned up, it is `None`, and nothing is known.
    """
    log = _log_folder(uri)
    if log is None or _commit(log, version + 1).exists():
        return None
    try:
        found = _commit(log, version).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _log_folder(uri: str) -> Path | None:
    folder = local_path(uri)
    return None if folder is None else folder / LOG_FOLDER


def _commit(log: Path, version: int) -> Path:
    return log / f"{version:020}.json"


def _checkpoint(log: Path, version: int) -> Path:
    return log / f"{version:020}.checkpoint.parquet"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk, where its file system knows that, and we may read it."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise
