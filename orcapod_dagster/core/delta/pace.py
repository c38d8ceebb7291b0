"""The tries of one commit: waits between them, and the right of way for a writer that lost too often.

A commit that takes long to prepare would lose to quick ones for ever. So on a local disk a writer that lost often holds a lock
while it tries, and others wait for that before their own tries. The lock is a courtesy: nothing depends on it, so whoever stands
still with it, or cannot take it, holds nobody up for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import time
from pathlib import Path
from typing import IO, Final, Self

from deltalake.exceptions import CommitFailedError

from orcapod_dagster.core.errors import CommitError
from orcapod_dagster.core.paths import local_path

_SECONDS: Final = 60.0
_TRIES: Final = 30
"""A writer gives up after so long and so many tries: one that stood still for a minute has not lost against anybody."""
_TURN_AFTER: Final = 6
_TURN_SECONDS: Final = 5.0
_TURN_NAME: Final = "_orcapod.turn"


class Pace:
    """The waits around the tries of one commit to a table; a context, at whose end the right of way is given back."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder = local_path(uri)
        self._deadline = time.monotonic() + _SECONDS
        self._delay = 0.01
        self._tries = 0
        self._turn: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._turn is not None:
            self._turn.close()

    def before_try(self) -> None:
        """Let a writer that has the right of way go first, or take it after many losses."""
        if self._folder is None or self._turn is not None:
            return
        path = Path(self._folder, _TURN_NAME)
        # A storage without locks has no right of way, either.
        with contextlib.suppress(OSError):
            if self._tries >= _TURN_AFTER:
                self._turn = _locked(path, "a", fcntl.LOCK_EX)
            elif path.exists():
                passed = _locked(path, "r", fcntl.LOCK_SH)
                if passed is not None:
                    passed.close()

    def lost(self, error: CommitFailedError) -> None:
        """Wait after a try that another writer won.

        Raises:
            CommitError: there were enough of them.
        """
        self._tries += 1
        if self._tries >= _TRIES and time.monotonic() > self._deadline:
            raise CommitError(
                f"{self._uri}: other writers committed first, {self._tries} times in {_SECONDS:.0f} s or more. Nothing was "
                "written. Run again, with fewer writers on this table at once."
            ) from error
        if self._turn is None:
            time.sleep(self._delay * (0.5 + random.random()))  # noqa: S311  # jitter, not a secret
            self._delay = min(self._delay * 1.6, 1.0)


def _locked(path: Path, mode: str, kind: int) -> IO[str] | None:
    """Open a file and lock it; `None` where another process holds it for longer than a commit takes."""
    handle = path.open(mode)
    deadline = time.monotonic() + _TURN_SECONDS
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                handle.close()
                return None
            time.sleep(0.005)
        except OSError:
            handle.close()
            raise
        else:
            return handle
