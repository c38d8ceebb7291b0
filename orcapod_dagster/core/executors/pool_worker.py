"""What runs in a worker process of the process pool; sent there by value, so that it starts without any import of ours."""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any, Final

from orcapod_dagster.core.executors.row_worker import make_worker

MARK_BYTES: Final = 56
"""Of the file that a worker shares with its parent, eight bytes each: the row; four for the spools, per stream where the packet began, and
what was shown; calls begun; calls ended. All are of one task."""
ROW: Final = 0
"""Where rows share calls, or are under way at a time: the first one of the last call, or the one whose code runs, counted from 1."""
BEGUN: Final = 5
"""How many calls were begun: rows, or batches. Not of rows that are under way at a time."""
ENDED: Final = 6
"""How many of them ended; where there is no time limit, nobody counts."""
REPORT: Final = b"report:"
"""What the last answer of a worker begins with, which says what failed in tearing down; others begin as pickles do."""


def serve(
    connection: Connection, payload: tuple[bytes, Any, dict[str, Any]], lifeline: int, mark: int, *spools: int
) -> None:
    """Run task after task until the parent says that there are no more, or hangs up.

    Args:
        connection: tasks in, packed results out; an empty answer says that a row was interrupted.
        payload: the user's function, pickled; what to capture, as `CaptureOrder` has it, or None; how rows are called.
        lifeline: a pipe on which nothing is ever written; it ends with the parent.
        mark: a file of int64 that the parent reads.
        spools: files for what is written to stdout and stderr, which the parent reads when this process is dead.
    """
    # What the function forks must not answer in this process's place, nor hold its connection open when it is gone.
    os.register_at_fork(after_in_child=connection.close)
    for handle in (connection.fileno(), lifeline, mark, *spools):
        os.set_inheritable(handle, False)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    marks = memoryview(mmap.mmap(mark, MARK_BYTES)).cast("q")

    def before_call() -> None:
        marks[BEGUN] += 1

    def after_call() -> None:
        marks[ENDED] += 1

    function, order, options = payload
    told = before_call, None if options["time_limit"] is None else after_call
    worker = make_worker(function, "cloudpickle", order, options, *told, files=spools, marks=marks[1:5])
    runs = functools.partial(marks.__setitem__, ROW)
    worker.listen()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            connection.send_bytes(REPORT + pickle.dumps(worker.close()))
            return
        rows, seconds = task
        try:
            if worker.runs_several:
                for answer in worker.run_at_once(rows, seconds, runs):
                    connection.send_bytes(answer)
            else:
                connection.send_bytes(worker.run(rows, seconds, runs))
        except KeyboardInterrupt:
            connection.send_bytes(b"")


def _die_with_parent(lifeline: int) -> None:
    """End this process, and those that the function started, when the parent is gone, even if a row still runs."""
    os.read(lifeline, 1)
    # A function may have moved this process to another group, of which the others are not ours to end.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
