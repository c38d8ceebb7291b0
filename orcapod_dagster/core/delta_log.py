"""What deltalake does not do for its own log: notice that it was cut short, and force it to the disk.

deltalake syncs nothing. After a power loss the newest commit may be there with no or half its lines; deltalake then opens the
table without an error, and without these rows. So our commits say how many actions they have, and openings count them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.paths import LOG_FOLDER, local_path

ACTIONS: Final = "orcapod.actions"
"""In the metadata of a commit: how many files it adds and removes."""
WRITTEN: Final = "orcapod.written"
"""In the metadata of a commit: how many of the files it adds, the first ones, hold its own rows; the others, rows that stayed."""
_FILE_ACTIONS: Final = ("add", "remove")


def refuse_cut_commit(uri: str, version: int) -> None:
    """Refuse a table whose newest commit was cut short; on an object store there is no such thing.

    Raises:
        StorageError: names the file of the log, what was seen, and the two ways out.
    """
    file = _commit_file(uri, version)
    if file is None:
        return
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return  # cleaned up, after a checkpoint that holds it
    problem = _problem(text)
    if problem is not None:
        raise StorageError(
            f"{file} {problem}; the machine probably lost power while it was written. Put the file back from a copy, or remove it: "
            f"the table is then as it was before version {version}, and the next run does that work again."
        )


def _problem(text: bytes) -> str | None:
    found = 0
    said: Any = None
    lines = text.splitlines()
    for line in lines:
        try:
            (kind, action), *_ = json.loads(line).items()
        except ValueError:
            return f"has a line that is no JSON, the {found + 1}. of its file actions"
        found += kind in _FILE_ACTIONS
        if kind == "commitInfo":
            said = action.get(ACTIONS)
    if not lines:
        return "is empty"
    return None if said is None or int(said) == found else f"has {found} of the {said} file actions of its commit"


def sync_files(uri: str, names: Iterable[str]) -> None:
    """Force data files and their folder to the disk, before a commit names them."""
    folder = local_path(uri)
    if folder is not None:
        for name in names:
            _sync(folder / name)
        _sync(folder)


def sync_commit(uri: str, version: int) -> None:
    """Force a commit to the disk."""
    file = _commit_file(uri, version)
    if file is not None:
        _sync(file)
        _sync(file.parent)


def _commit_file(uri: str, version: int) -> Path | None:
    folder = local_path(uri)
    return None if folder is None else folder / LOG_FOLDER / f"{version:020}.json"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
