"""CallOptions: how an executor calls a function with rows, wherever it does so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orcapod_dagster.core.errors import DefinitionError


def _nobody(_rows: int) -> None:
    """Tell nobody."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How rows are called; the same for all rows of one `run_rows`.

    Attributes:
        slice_seconds: how much finished work an executor may hold back, about; one row is always finished.
        max_concurrency: how many rows of an async function a process has under way at a time; 1 for one after the other. Sync
            functions run one at a time in a process, whatever stands here.
        batch_size: how many rows a call gets at most, whose parameters are then lists, or Arrow arrays, of their values; the function
            gives a list of one result per row, as `batch_rows.with_rows` makes it. 0 for one row per call.
        capture: bytes that are kept of what each row writes to stdout, to stderr, and logs; 0 for none.
        turn_seconds: where nothing finishes for so long, a result of no rows gives the caller a turn; 0 for never.
        time_limit: seconds that a row may take; one that takes longer is stopped, and its failure is a `PacketTimeoutError`. `None` for
            no limit.
        under_way: told how many rows are with workers, whenever that changes; called in the thread that takes the results.
        leaving: called in that thread where an interrupt ends the run: no more results will come, and workers are torn down and ended
            after it, which may take seconds. So what is finished can be made durable before.
        state: keyword of the function → factory of what it is given there with every row; each is called once per worker, before
            its first row, and what it made is torn down with the worker, as `WorkerStates` does it. It travels with the function.
    """

    slice_seconds: float = 1.0
    capture: int = 0
    turn_seconds: float = 0.0
    time_limit: float | None = None
    under_way: Callable[[int], None] = _nobody
    leaving: Callable[[], None] = _nothing
    max_concurrency: int = 1
    batch_size: int = 0
    state: Mapping[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])

    def for_workers(self) -> dict[str, Any]:
        """Return what a worker is told, as plain values, for it may know nothing of this package."""
        return {"time_limit": self.time_limit, "max_concurrency": self.max_concurrency, "batch_size": self.batch_size}


def checked_time_limit(given: Any, owner: str) -> float | None:
    """Return what users give for `time_limit`.

    Raises:
        DefinitionError: it is no finite number of seconds above 0.
    """
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if given is None or (number and 0 < given < math.inf):
        return given
    raise DefinitionError(
        f"{owner}: time_limit={given!r} is no number of seconds above 0; give one, or leave it out for no limit."
    )
