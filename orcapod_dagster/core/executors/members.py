"""Members: the processes of a user on this machine that share something.

Each holds the lock of a file, which ends with its process however that ends; who counts the held locks knows how many there are.
So there is nothing to clean up after a kill, and nobody to ask. Imports the standard library alone, for the keeper of a Ray cluster
loads it without this package.
"""

from __future__ import annotations

import fcntl
import uuid
from pathlib import Path
from typing import IO


class Members:
    """Who shares what a folder stands for.

    Args:
        folder: where the members' files lie; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Path | None = None
        self._handle: IO[str] | None = None

    def enter(self) -> None:
        """Become a member, until `leave` or the end of this process."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / uuid.uuid4().hex
        # Locked before it has its name: a file that is not locked is taken for that of a process that is gone.
        unnamed = self._folder / f".{file.name}"
        handle = unnamed.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        unnamed.rename(file)
        self._file, self._handle = file, handle

    def leave(self) -> None:
        """Be a member no longer."""
        if self._file is not None and self._handle is not None:
            self._file.unlink(missing_ok=True)
            self._handle.close()

    def count(self) -> int:
        """Return how many members there are, this one included."""
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
