"""PoolProcess: one worker process of the process pool, as its parent sees it."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Pipe
from typing import Any, Final

from orcapod_dagster.core.executors import pool_worker
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.worker_output import WorkerSpools

_END_SECONDS: Final = 0.2
# The worker finds all else in what it is sent, so it starts in the time of a bare interpreter.
_BOOT: Final = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[1])); "
    "sys.path[:] = c.recv(); c.recv()(c, c.recv(), *map(int, sys.argv[2:]))"
)


class PoolProcess:
    """One worker process, and what it was last sent; whoever made it can end it, whether it was started or not.

    Args:
        limit: bytes per packet and stream that are captured; 0 for no capture.

    Attributes:
        tasks: how many it was sent. is_busy: whether it is being started, or answers to the last one are to come.
        late_row: the row, counted from 1, that did not end in time. last_words: what it had printed, once it is ended.
    """

    def __init__(self, limit: int) -> None:
        self.connection, self._theirs = Pipe()
        self.tasks, self.is_busy = 0, True
        self.last_words: Sequence[LogEntry] = ()
        self.late_row = 0
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()
        self._spools = WorkerSpools(limit)
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115  # until it is started
        # Written, not cut to size: on a full disk that is an error now, and not a signal when the memory is used.
        self._shared.write(bytes(pool_worker.MARK_BYTES))
        self._shared.flush()
        self._mark = mmap.mmap(self._shared.fileno(), pool_worker.MARK_BYTES)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = ""

    def start(
        self, serve: bytes, payload: tuple[bytes, tuple[Any, ...] | None, Mapping[str, Any]], lifeline: int
    ) -> None:
        """Start it, with what it runs, as `pool_worker.serve` takes it."""
        handles = (self._theirs.fileno(), lifeline, self._shared.fileno(), *self._spools.files)
        # A group of its own: Ctrl-C in a terminal is this process's to answer, and its end takes its children along.
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter, with our own text
            # Without the current directory, whose modules would take the place of the standard library's.
            [sys.executable, "-P", "-c", _BOOT, *map(str, handles)],
            # A worker in the background that reads from the terminal would be stopped, for ever.
            stdin=subprocess.DEVNULL,
            pass_fds=handles,
            process_group=0,
        )
        self._theirs.close()
        self._shared.close()
        with contextlib.suppress(OSError):  # it is dead already; whoever asks for an answer finds out
            self.connection.send(sys.path)
            self.connection.send_bytes(serve)
            self.connection.send(payload)

    def send(self, rows: bytes, seconds: float) -> None:
        """Send a task."""
        self.tasks += 1
        self.is_busy = True
        for place in (pool_worker.ROW, pool_worker.BEGUN, pool_worker.ENDED):
            self._mark[8 * place : 8 * place + 8] = bytes(8)
        self._seen = None
        with contextlib.suppress(OSError):  # as above
            self.connection.send((rows, seconds))

    def answer(self) -> bytes | None:
        """Return a packed result of the task, or `None` where the worker is dead."""
        try:
            if not self.connection.poll():
                return None
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            return None
        # It may have come in the moment in which its row was found to be late.
        self.late_row, self._seen = 0, None
        return answer

    def interrupt(self) -> None:
        """Interrupt the row that runs; what the worker does between rows, or to tear down, goes on."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self._process.send_signal(signal.SIGINT)

    def dismiss(self) -> None:
        """Tell the worker that there are no more tasks."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def last_report(self, deadline: float) -> list[str]:
        """Wait for the worker to tear down, and return what failed there; a worker that takes too long is told of so."""
        if self._process is None:
            return []
        try:
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                answer = self.connection.recv_bytes()
                if answer.startswith(pool_worker.REPORT):
                    return pickle.loads(answer.removeprefix(pool_worker.REPORT))  # noqa: S301  # of a worker of ours
        except (EOFError, OSError):
            return []  # it is dead, and its state with it
        return [f"Worker process {self._process.pid} did not tear down in time, and is ended."]

    def row_begun(self) -> int:
        """Return which row it is at, counted from 1, or 0: the one begun last, the first of a batch, or the one whose code ran last."""
        marks = self._marks()
        return marks[pool_worker.ROW] or marks[pool_worker.BEGUN]

    def row_seconds(self) -> float:
        """Return how long the call runs that was seen last, about."""
        return time.monotonic() - self._since

    def is_late(self, seconds: float) -> bool:
        """Tell whether its call runs longer; asked every now and then, for so it is seen when a call begins."""
        call, runs = self._call()
        if call != self._seen or not runs:
            self._seen, self._since = call, time.monotonic()
        elif self.row_seconds() > seconds and not self.connection.poll():
            self.late_row = self.row_begun()
        return self.late_row > 0

    def stayed_late(self) -> bool:
        """Tell whether the call that was late was its last one."""
        return self._call()[0] == self._seen

    def _call(self) -> tuple[tuple[int, int], bool]:
        """Return what stands for the last call, another thing for each of a task, and whether it runs still."""
        marks = self._marks()
        row, begun, ended = (marks[place] for place in (pool_worker.ROW, pool_worker.BEGUN, pool_worker.ENDED))
        # Rows at a time have no calls that follow one another, only code that runs.
        return (row, begun), begun > ended or (row > 0 and not begun)

    def _marks(self) -> list[int]:
        with memoryview(self._mark) as view, view.cast("q") as numbers:
            return numbers.tolist()

    def is_dead(self) -> bool:
        """Tell whether the process has ended."""
        return self._process is not None and self._process.poll() is not None

    def end(self) -> str:
        """End the process and its children, and return how it ended ("by signal SIGSEGV", "with exit code 3"); once is enough."""
        if self._ended:
            return self._ended
        self.is_busy = False
        how = "before it was started" if self._process is None else _killed(self._process)
        for one in (self.connection, self._theirs, self._shared):
            one.close()
        self.last_words = self._spools.last_words(self._marks()[1:5], 0, time.time())
        self._spools.close()
        self._ended = how
        return self._ended

    def bury(self) -> str:
        """Do the same for a worker that hung up: its own end is waited for, briefly."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        return self.end()


def _killed(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # by itself, too: the function may have moved it to another group
    code = process.wait()
    return f"with exit code {code}" if code >= 0 else f"by signal {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)
