"""ProcessPoolExecutor: on the cores of this machine, many rows per task; a packet that kills its worker fails alone."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, Final, Self

from orcapod_dagster.core.errors import ExecutorError, MissingExtraError, WorkerDeathError
from orcapod_dagster.core.executors import pool_worker
from orcapod_dagster.core.executors.base import HONOURED, BatchResult, PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.budget import WorkerBudget, cores
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.deaths import Deaths, around, failed_alone
from orcapod_dagster.core.executors.late_imports import dumps_function
from orcapod_dagster.core.executors.pickling import dumps
from orcapod_dagster.core.executors.pool_process import PoolProcess
from orcapod_dagster.core.executors.set_ups import CANCEL_SECONDS, TEAR_DOWN_SECONDS, modules_of, tell_tear_downs
from orcapod_dagster.core.executors.tasks import Partial, Piece, TaskRun, rows_at_once, unpacked
from orcapod_dagster.core.executors.time_limit import GRACE_SECONDS, took_too_long
from orcapod_dagster.core.executors.worker_modules import WORKER_MODULES
from orcapod_dagster.core.executors.worker_output import CaptureOrder, pass_on
from orcapod_dagster.core.types import Schema

_MAX_ROWS: Final = 16_384
_LOOK_SECONDS: Final = 0.2


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
        function = dumps_function(self._cloudpickle, fn, call_options.state, self._modules)
        self._payload = function, order and tuple(order), call_options.for_workers()
        self._serve, self._capture = self._dumps(pool_worker.serve), call_options.capture
        self._has_state = bool(call_options.state)
        self._budget: WorkerBudget | None = None
        self._lifeline = (-1, -1)
        self._workers: list[PoolProcess] = []
        self._deaths = Deaths(self._at_once, self._batch)
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

    def _submit(self, piece: Piece) -> PoolProcess:
        rows = self._dumps(piece.values())  # first, for values that cannot be pickled need no worker
        worker = next((one for one in self._workers if not one.is_busy), None) or self._new_worker()
        worker.send(rows, self._seconds)
        return worker

    def _new_worker(self) -> PoolProcess:
        worker = PoolProcess(self._capture)
        self._workers.append(worker)  # first, for an interrupt may come once it is started
        worker.start(self._serve, self._payload, self._lifeline[0])
        return worker

    def _finished(self, running: Mapping[PoolProcess, Piece], seconds: float) -> PoolProcess | None:
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

    def _late(self, running: Iterable[PoolProcess]) -> PoolProcess | None:
        """Return a worker whose row did not end when its time was up, looked for now and then."""
        now = time.monotonic()
        if self._limit is None or now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS
        return next((worker for worker in running if worker.is_late(self._limit + GRACE_SECONDS)), None)

    def _collect(self, task: PoolProcess, piece: Piece) -> Partial | Sequence[BatchResult | Piece]:
        answer = task.answer()
        if answer is None:
            return self._after_death(task, piece)
        task.is_busy = self._at_once > 1  # else this was its one answer
        if not answer:
            task.is_busy = False
            raise KeyboardInterrupt("a row in a worker process was interrupted")
        result, more = unpacked(answer, self._cloudpickle.loads, piece.start, dict(self._data))
        task.is_busy = more
        # What its rows printed, the worker showed itself, on the streams that it has of this process.
        pass_on(result.logs, streams=False)
        return Partial(result) if more else [result]

    def _after_death(self, worker: PoolProcess, piece: Piece) -> Sequence[BatchResult | Piece]:
        """Return the rows to run again, one of them alone, or the failure of the one that killed its worker twice."""
        begun, first_task, how = worker.row_begun(), worker.tasks == 1, worker.bury()
        self._workers.remove(worker)
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
        again = self._deaths.again(piece, begun)
        if again:
            return again
        error = WorkerDeathError(f"The worker process that ran this packet ended {how}, and again when it ran alone.")
        return [failed_alone(left[0], error, 0.0, self._data, worker.last_words)]

    def _after_late(
        self, worker: PoolProcess, row: int, left: list[Piece], limit: float
    ) -> Sequence[BatchResult | Piece]:
        """Return the failure of the row that did not end in time, among those that are left, which run again."""
        late_in = next((part for part in left if part.first <= row < part.last), None)
        if late_in is None or not worker.stayed_late():
            return left  # it went on to another row while it was ended
        before, late, after = around(late_in, row - late_in.first)
        error = took_too_long(limit, ended=True)
        failed = failed_alone(late, error, worker.row_seconds(), self._data, worker.last_words)
        place = left.index(late_in)
        return [*left[:place], *before, failed, *after, *left[place + 1 :]]

    def _cancel(self) -> None:
        try:
            if self._has_state:
                self._tear_down()
        finally:
            for worker in self._workers:
                worker.end()

    def _tear_down(self) -> None:
        """Let the workers tear down, all at once: those in which a row still runs are interrupted, and have less time."""
        busy = [worker for worker in self._workers if worker.is_busy]
        for worker in busy:
            worker.interrupt()
        for worker in self._workers:
            worker.dismiss()
        deadline = time.monotonic() + (CANCEL_SECONDS if busy else TEAR_DOWN_SECONDS)
        for worker in self._workers:
            tell_tear_downs(worker.last_report(deadline))


def _import_cloudpickle() -> Any:
    try:
        return importlib.import_module("cloudpickle")
    except ImportError as error:
        raise MissingExtraError(
            "cloudpickle is not installed. Install it: pip install 'orcapod-dagster[process-pool]'."
        ) from error
