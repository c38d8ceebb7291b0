"""WorkerBudget: steps that run at once on a machine share its cores."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.members import Members

_LOOK_SECONDS: Final = 1.0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerBudget:
    """A member of the machine's steps; tells how many workers it may have now.

    Args:
        total: workers that all members of this machine and user have together.
        folder: where the members' files lie; default one for all processes of this user.

    Raises:
        ExecutorError: that folder cannot be used.
    """

    def __init__(self, total: int, folder: Path | None = None) -> None:
        self._total = total
        folder = folder or Path(tempfile.gettempdir()) / f"orcapod-workers-{os.getuid()}"
        self._members = Members(folder)
        try:
            self._members.enter()
        except OSError as error:
            raise ExecutorError(
                f"{folder}, in which steps that run at once count one another, cannot be used: {error.strerror}. Remove it, make "
                "room, or name another folder for temporary files (TMPDIR)."
            ) from error
        self._share, self._until = 1, 0.0

    def share(self) -> int:
        """Return how many workers this member may have; at least one, looked up again every second."""
        if time.monotonic() >= self._until:
            self._share = max(1, self._total // max(1, self._members.count()))
            self._until = time.monotonic() + _LOOK_SECONDS
        return self._share

    def close(self) -> None:
        """Leave; the others get this member's share."""
        self._members.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
