"""ProcessPoolExecutor: on the cores of this machine, many rows per task; a packet that kills its worker fails alone."""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Pipe, wait
from typing import Any, Final, Self

from orcapod_dagster.core.errors import ExecutorError, MissingExtraError, WorkerDeathError
from orcapod_dagster.core.executors import pool_worker
from orcapod_dagster.core.executors.base import HONOURED, BatchResult, PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.budget import WorkerBudget, cores
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.deaths import Deaths, around, failed_alone
from orcapod_dagster.core.executors.pickling import dumps
from orcapod_dagster.core.executors.set_ups import CANCEL_SECONDS, TEAR_DOWN_SECONDS, modules_of, tell_tear_downs
from orcapod_dagster.core.executors.tasks import Partial, Piece, TaskRun, rows_at_once, unpacked
from orcapod_dagster.core.executors.time_limit import GRACE_SECONDS, took_too_long
from orcapod_dagster.core.executors.worker_modules import WORKER_MODULES
from orcapod_dagster.core.executors.worker_output import CaptureOrder, WorkerSpools, pass_on
from orcapod_dagster.core.types import Schema

_MAX_ROWS: Final = 16_384
_LOOK_SECONDS: Final = 0.2
# The worker finds all else in what it is sent, so it starts in the time of a bare interpreter.
_BOOT: Final = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[1])); "
    "sys.path[:] = c.recv(); c.recv()(c, c.recv(), *map(int, sys.argv[2:]))"
)


class ProcessPoolExecutor(PythonFunctionExecutorBase):
    """Runs rows in worker processes of this machine; steps that run at once share its cores.

    Functions and the user's own modules travel by value, so workers run the code that this process has loaded, also
    from notebooks and `__main__`, which is not imported again. A worker that dies (a crash in C code, too little
    memory) costs the rows of its task, which run again; the packet at which it died runs alone, and fails if its worker
    dies again. Workers end with the run, and with this process however that ends.

    Args:
        max_workers: processes at a time; default one per core. Steps that run at once have so many together.

    Raises:
        MissingExtraError: at the first run, when cloudpickle is not installed.
    """

    executor_type_id = "process_pool"
    supports_concurrent_execution = True
    waits_for_batches = True
    honours = HONOURED

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}; give at least 1, or None for one per core.")
        self._max_workers = max_workers

    def with_options(self, **opts: Any) -> Self:
        """Return a new executor with another `max_workers`.

        Raises:
            TypeError: there is no such option.
        """
        max_workers = opts.pop("max_workers", self._max_workers)
        if opts:
            raise TypeError(f"executor 'process_pool' has the option max_workers; got {sorted(opts)}. Leave them out.")
        return type(self)(max_workers)

    def concurrency(self, executor_options: Mapping[str, Any] | None = None) -> int | None:
        """Return how many workers there are at most; steps that run at once share them."""
        executor = self.with_options(**executor_options) if executor_options else self
        return executor.get_executor_data()["max_workers"]

    def get_executor_data(self) -> dict[str, Any]:
        """Return the type and how many workers there are at most."""
        return {"executor_type": self.executor_type_id, "max_workers": self._max_workers or cores()}

    def get_executor_data_schema(self) -> Schema:
        """Return the schema of `get_executor_data`."""
        return Schema({"executor_type": str, "max_workers": int})

    def run_rows(
        self,
        fn: Callable[..., Any],
        batches: Iterable[RowBatch],
        *,
        executor_options: Mapping[str, Any] | None = None,
        call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
    ) -> Iterator[BatchResult]:
        """Run rows as tasks of about `call_options.slice_seconds`, one per worker at a time, in order of completion."""
        executor = self.with_options(**executor_options) if executor_options else self
        return _Run(executor.get_executor_data(), fn, call_options).results(batches)


class _Run(TaskRun):
    """The workers and tasks of one `run_rows`; a worker starts when there is a task for it."""

    def __init__(self, data: Mapping[str, Any], fn: Callable[..., Any], call_options: CallOptions) -> None:
        super().__init__(call_options, _MAX_ROWS, rows_at_once(fn, call_options))
        self._data = data
        self._cloudpickle = _import_cloudpickle()
        self._modules = [*WORKER_MODULES, pool_worker, *modules_of(fn, call_options.state)]
        order = CaptureOrder.of(call_options.capture)
        self._payload = (
            self._dumps(pool_worker.serve),
            self._dumps((fn, dict(call_options.state))),
            order and tuple(order),
            call_options.for_workers(),
        )
        self._has_state = bool(call_options.state)
        self._budget: WorkerBudget | None = None
        self._lifeline = (-1, -1)
        self._idle: list[_Worker] = []
        self._deaths = Deaths()
        self._limit, self._next_look = call_options.time_limit, 0.0

    def results(self, batches: Iterable[RowBatch]) -> Iterator[BatchResult]:
        """Start with the first row that is asked for, and leave nothing behind."""
        self._lifeline = os.pipe()
        try:
            with WorkerBudget(self._data["max_workers"]) as self._budget:
                yield from super().results(batches)
        finally:
            for end in self._lifeline:
                os.close(end)

    def _dumps(self, value: Any) -> bytes:
        return dumps(self._cloudpickle, value, self._modules)

    def _slots(self) -> int:
        assert self._budget is not None
        return self._budget.share()

    def _submit(self, piece: Piece) -> _Worker:
        rows = self._dumps(piece.values())  # first, for values that cannot be pickled must leave no worker behind
        worker = self._idle.pop() if self._idle else _Worker(self._payload, self._lifeline[0])
        worker.send(rows, self._seconds)
        return worker

    def _finished(self, running: Mapping[_Worker, Piece], seconds: float) -> _Worker | None:
        """Wait for an answer, or the end of a worker; a child that it left may hold its connection open."""
        by_connection = {worker.connection: worker for worker in running}
        until = time.monotonic() + seconds
        while True:
            late = self._late(running)
            if late is not None:
                return late
            left = max(0.0, until - time.monotonic())
            ready = wait(list(by_connection), min(_LOOK_SECONDS, left))
            if ready:
                return by_connection[ready[0]]  # type: ignore[index]  # connections in, connections out
            lost = next((worker for worker in running if worker.is_dead()), None)
            if lost is not None or not left:
                return lost

    def _late(self, running: Iterable[_Worker]) -> _Worker | None:
        """Return a worker whose row did not end when its time was up, looked for now and then."""
        now = time.monotonic()
        if self._limit is None or now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS
        return next((worker for worker in running if worker.is_late(self._limit + GRACE_SECONDS)), None)

    def _collect(self, task: _Worker, piece: Piece) -> Partial | Sequence[BatchResult | Piece]:
        answer = task.answer()
        if answer is None:
            return self._after_death(task, piece)
        if not answer:
            self._idle.append(task)
            raise KeyboardInterrupt("a row in a worker process was interrupted")
        result, more = unpacked(answer, self._cloudpickle.loads, piece.start, dict(self._data))
        # What its rows printed, the worker showed itself, on the streams that it has of this process.
        pass_on(result.logs, streams=False)
        if more:
            return Partial(result)
        self._idle.append(task)
        return [result]

    def _after_death(self, worker: _Worker, piece: Piece) -> Sequence[BatchResult | Piece]:
        """Return the rows to run again, one of them alone, or the failure of the one that killed its worker twice."""
        begun, first_task, how = worker.rows_begun(), worker.tasks == 1, worker.bury()
        left = piece.left()
        length = sum(part.length for part in left)
        # Of several at once, the row whose code ran last need not be the one that blocks: a task of another's may do it.
        is_one = length == 1 or max(self._at_once, self._batch) == 1
        if worker.late_row and self._limit is not None and is_one:
            return self._after_late(worker, piece.first + worker.late_row - 1, left, self._limit)
        if first_task and not begun:
            raise ExecutorError(
                f"A worker process ended {how} before its first row. Everything finished before is kept. See what it wrote "
                "to the error stream; mend what the function's module does when it is loaded, or the set-up of its worker state, or "
                "give it memory."
            )
        if max(self._at_once, self._batch) > 1 and length > 1:
            return self._deaths.among(left, piece.first + begun - 1, self._batch)
        again = self._deaths.after(left[0], begun - (left[0].first - piece.first))
        if again:
            return again
        error = WorkerDeathError(f"The worker process that ran this packet ended {how}, and again when it ran alone.")
        return [failed_alone(left[0], error, 0.0, self._data, worker.last_words)]

    def _after_late(self, worker: _Worker, row: int, left: list[Piece], limit: float) -> Sequence[BatchResult | Piece]:
        """Return the failure of the row that did not end in time, among those that are left, which run again."""
        late_in = next((part for part in left if part.first <= row < part.last), None)
        if worker.rows_begun() != worker.late_row or late_in is None:
            return left  # it went on to another row while it was ended
        before, late, after = around(late_in, row - late_in.first)
        error = took_too_long(limit, ended=True)
        failed = failed_alone(late, error, worker.row_seconds(), self._data, worker.last_words)
        place = left.index(late_in)
        return [*left[:place], *before, failed, *after, *left[place + 1 :]]

    def _cancel(self, running: list[_Worker]) -> None:
        try:
            if self._has_state:
                self._tear_down(running)
        finally:
            for worker in {
                *running,
                *self._idle,
            }:  # one whose answer was being read when an interrupt came may be among both
                worker.end()

    def _tear_down(self, running: list[_Worker]) -> None:
        """Let the workers tear down, all at once: those in which a row still runs are interrupted, and have less time."""
        for worker in running:
            worker.interrupt()
        workers = {*running, *self._idle}
        for worker in workers:
            worker.dismiss()
        deadline = time.monotonic() + (CANCEL_SECONDS if running else TEAR_DOWN_SECONDS)
        for worker in workers:
            tell_tear_downs(worker.last_report(deadline))


class _Worker:
    """One worker process, and what it was last sent."""

    def __init__(self, payload: tuple[bytes, bytes, tuple[Any, ...] | None, Mapping[str, Any]], lifeline: int) -> None:
        serve, function, order, options = payload
        self.connection, theirs = Pipe()
        self.tasks = 0
        self.last_words: Sequence[LogEntry] = ()
        self.late_row = 0
        """The row, counted from 1, that did not end in time."""
        self._row, self._since = 0, time.monotonic()
        self._spools = WorkerSpools(order[0] if order else 0)
        self._ended = ""
        with theirs, tempfile.TemporaryFile() as shared:
            # Written, not cut to size: on a full disk that is an error now, and not a signal when the memory is used.
            shared.write(bytes(pool_worker.MARK_BYTES))
            shared.flush()
            self._mark = mmap.mmap(shared.fileno(), pool_worker.MARK_BYTES)
            handles = (theirs.fileno(), lifeline, shared.fileno(), *self._spools.files)
            # A group of its own: Ctrl-C in a terminal is this process's to answer, and its end takes its children along.
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter, with our own text
                # Without the current directory, whose modules would take the place of the standard library's.
                [sys.executable, "-P", "-c", _BOOT, *map(str, handles)],
                # A worker in the background that reads from the terminal would be stopped, for ever.
                stdin=subprocess.DEVNULL,
                pass_fds=handles,
                process_group=0,
            )
        with contextlib.suppress(OSError):  # it is dead already; whoever asks for an answer finds out
            self.connection.send(sys.path)
            self.connection.send_bytes(serve)
            self.connection.send((function, order, options))

    def send(self, rows: bytes, seconds: float) -> None:
        """Send a task."""
        self.tasks += 1
        for place in (0, 40):
            self._mark[place : place + 8] = bytes(8)
        self._row, self._since = 0, time.monotonic()
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
        self.late_row, self._row = 0, 0
        return answer

    def interrupt(self) -> None:
        """Interrupt the row that runs; what the worker does between rows, or to tear down, goes on."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._process.send_signal(signal.SIGINT)

    def dismiss(self) -> None:
        """Tell the worker that there are no more tasks."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def last_report(self, deadline: float) -> list[str]:
        """Wait for the worker to tear down, and return what failed there; a worker that takes too long is told of so."""
        try:
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                answer = self.connection.recv_bytes()
                if answer.startswith(pool_worker.REPORT):
                    return pickle.loads(answer.removeprefix(pool_worker.REPORT))  # noqa: S301  # of a worker of ours
        except (EOFError, OSError):
            return []  # it is dead, and its state with it
        return [f"Worker process {self._process.pid} did not tear down in time, and is ended."]

    def rows_begun(self) -> int:
        """Return how many rows of the task were begun; with several at a time, the number of the one whose code ran last."""
        return self._marks()[0]

    def row_seconds(self) -> float:
        """Return how long the row runs that was seen last, about."""
        return time.monotonic() - self._since

    def is_late(self, seconds: float) -> bool:
        """Tell whether its row runs longer; asked every now and then, for so it is seen when a row begins."""
        marks = self._marks()
        begun, ended = marks[0], marks[5]
        if begun != self._row or begun == ended:
            self._row, self._since = begun, time.monotonic()
        elif self.row_seconds() > seconds and not self.connection.poll():
            self.late_row = begun
        return self.late_row > 0

    def _marks(self) -> list[int]:
        with memoryview(self._mark) as view, view.cast("q") as numbers:
            return numbers.tolist()

    def is_dead(self) -> bool:
        """Tell whether the process has ended."""
        return self._process.poll() is not None

    def end(self) -> str:
        """End the process and its children, and return how it ended ("by signal SIGSEGV", "with exit code 3"); once is enough."""
        if self._ended:
            return self._ended
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # by itself, too: the function may have moved it to another group
        code = self._process.wait()
        self.connection.close()
        self.last_words = self._spools.last_words(self._marks()[1:5], 0, time.time())
        self._spools.close()
        self._ended = f"with exit code {code}" if code >= 0 else f"by signal {_signal_name(-code)}"
        return self._ended

    def bury(self) -> str:
        """Do the same for a worker that hung up: its own end is waited for, briefly."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LOOK_SECONDS)
        return self.end()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)


def _import_cloudpickle() -> Any:
    try:
        return importlib.import_module("cloudpickle")
    except ImportError as error:
        raise MissingExtraError(
            "cloudpickle is not installed. Install it: pip install 'orcapod-dagster[process-pool]'."
        ) from error
