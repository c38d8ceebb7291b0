"""What runs in a worker process of the process pool; sent there by value, so that it starts without any import of ours."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from multiprocessing.connection import Connection

from orcapod_dagster.core.executors.row_worker import RowWorker


def serve(connection: Connection, lifeline: int, mark: int, function: bytes) -> None:
    """Run task after task until the parent hangs up.

    Args:
        connection: tasks in, packed results out; an empty answer says that a row was interrupted.
        lifeline: a pipe on which nothing is ever written; it ends with the parent.
        mark: a file of one int64 that the parent reads: how many rows of the task have begun.
        function: the user's function, pickled.
    """
    # What the function forks must not answer in this process's place, nor hold its connection open when it is gone.
    os.register_at_fork(after_in_child=connection.close)
    for handle in (connection.fileno(), lifeline, mark):
        os.set_inheritable(handle, False)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    begun = memoryview(mmap.mmap(mark, 8)).cast("q")

    def before_call() -> None:
        begun[0] += 1

    worker = RowWorker(function, "cloudpickle", before_call)
    while True:
        try:
            rows, seconds = connection.recv()
        except EOFError:
            return
        try:
            answer = worker.run(rows, seconds)
        except KeyboardInterrupt:
            answer = b""
        connection.send_bytes(answer)


def _die_with_parent(lifeline: int) -> None:
    """End this process, and those that the function started, when the parent is gone, even if a row still runs."""
    os.read(lifeline, 1)
    # A function may have moved this process to another group, of which the others are not ours to end.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
