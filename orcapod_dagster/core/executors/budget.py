"""WorkerBudget: steps that run at once on a machine share its cores."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import IO, Final, Self

from orcapod_dagster.core.errors import ExecutorError

_LOOK_SECONDS: Final = 1.0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerBudget:
    """A member of the machine's steps; tells how many workers it may have now.

    Each member holds the lock of a file, which ends with its process however that ends; who counts the held locks
    knows how many share the budget. So there is nothing to clean up after a kill, and nobody to ask.

    Args:
        total: workers that all members of this machine and user have together.
        folder: where the members' files lie; default one for all processes of this user.

    Raises:
        ExecutorError: that folder cannot be used.
    """

    def __init__(self, total: int, folder: Path | None = None) -> None:
        self._total = total
        self._folder = folder or Path(tempfile.gettempdir()) / f"orcapod-workers-{os.getuid()}"
        self._file = self._folder / uuid.uuid4().hex
        try:
            self._handle = self._locked()
        except OSError as error:
            raise ExecutorError(
                f"{self._folder}, in which steps that run at once count one another, cannot be used: {error.strerror}. Remove it, make "
                "room, or name another folder for temporary files (TMPDIR)."
            ) from error
        self._share, self._until = 1, 0.0

    def _locked(self) -> IO[str]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # Locked before it has its name: a file that is not locked is taken for that of a process that is gone.
        unnamed = self._folder / f".{self._file.name}"
        handle = unnamed.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        unnamed.rename(self._file)
        return handle

    def share(self) -> int:
        """Return how many workers this member may have; at least one, looked up again every second."""
        if time.monotonic() >= self._until:
            self._share = max(1, self._total // max(1, self._members()))
            self._until = time.monotonic() + _LOOK_SECONDS
        return self._share

    def close(self) -> None:
        """Leave; the others get this member's share."""
        self._file.unlink(missing_ok=True)
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _members(self) -> int:
        return sum(self._is_held(path) for path in self._folder.iterdir() if not path.name.startswith("."))

    def _is_held(self, path: Path) -> bool:
        """Tell whether a member's process still lives; the file of one that does not is removed."""
        if path == self._file:
            return True
        try:
            with path.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        path.unlink(missing_ok=True)
        return False
