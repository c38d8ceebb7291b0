"""What calls a function in a worker process; sent there by value, because the worker need not have this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from array import array
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.keeper import output_directory
from orcapod_dagster.core.executors.batch_rows import Columns, run_batches
from orcapod_dagster.core.executors.capture import Capture
from orcapod_dagster.core.executors.concurrent_rows import run_concurrently
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.late_modules import LateModules, set_late_modules_aside
from orcapod_dagster.core.executors.slices import SliceFailure, SliceResult, describe, is_async, run_slice
from orcapod_dagster.core.executors.time_limit import GRACE_SECONDS, ending, ending_process, limited
from orcapod_dagster.core.executors.worker_states import Interrupts, SetUpError, WorkerStates
from orcapod_dagster.core.skip import SkipPacket


class RowWorker:
    """The user's function in a worker process, with its state, and the event loop that its async calls share.

    Args:
        function: the function, the factories of its state by keyword, and its late modules by name, pickled together, for they share modules.
        pickler: name of the module that pickled it; values go both ways by it.
        before_call, after_call: called before each row, in the worker, and after it. Where nobody is told so, nobody watches: then
            the process ends itself, if a row does not stop when its time is up.
        capture: keeps what each row prints and logs.
        options: how rows are called, as `CallOptions` has it.
    """

    def __init__(
        self,
        function: bytes,
        pickler: str,
        options: Mapping[str, Any],
        before_call: Callable[[], None] | None = None,
        capture: Capture | None = None,
        after_call: Callable[[], None] | None = None,
    ) -> None:
        _provide_package()
        self._pickler = importlib.import_module(pickler)
        set_late_modules_aside()  # those of another function
        loaded, factories, late = self._pickler.loads(function)
        self._late_modules = LateModules(late)
        time_limit: float | None = options["time_limit"]
        loaded = limited(loaded, time_limit)
        self._limited, self._options = loaded, options
        self._function = loaded if before_call is None else _announced(loaded, before_call, after_call)
        self._longest = None if time_limit is None or before_call is not None else time_limit + GRACE_SECONDS
        self._loop = EventLoopThread()
        self._states = WorkerStates(factories, self._loop)
        self._failed = b""
        self._interrupts: Interrupts | None = None
        self._capture = capture

    def listen(self) -> None:
        """Let SIGINT interrupt the rows that run, and none after them; to be called in the main thread of the process."""
        self._interrupts = Interrupts()

    def set_up(self) -> bytes:
        """Build the state of the function; return nothing, or what to say of a set-up that failed, packed. It is tried once."""
        self._late_modules.take_place()
        if not self._failed:
            try:
                self._states.values()
            except SetUpError as error:
                self._failed = self._pickler.dumps(error.failure._asdict())
        return self._failed

    def run(self, rows: bytes, seconds: float, runs: Callable[[int], None] | None = None) -> bytes:
        """Run a finished prefix of the rows: pickled columns, keyword columns and length in, a packed result out.

        The first call builds the state of the function; where that fails, what to say of it is given back, packed.

        Args:
            rows, seconds: the rows, and how long they may take, about.
            runs: told, where they are called in batches, which is the first row of each, counted from 1.

        Raises:
            KeyboardInterrupt: a row was interrupted, or one before these.
        """
        with self._interrupts or nullcontext():
            if self.set_up():
                return self._failed
            columns, keywords, length = self._pickler.loads(rows)
            if size := self._options["batch_size"]:
                # Each call by itself: one that fails is made again in halves, of which none has less time for that.
                call = self._states.bind(ending(self._function, self._longest))
                given = Columns(columns, keywords, length)
                result = run_batches(call, given, 0, seconds, size, self._loop, self._capture, runs or _ignored)
            else:
                call = self._states.bind(self._function)
                # All calls together, for a timer costs a thread each time; the last one begins before `seconds` are over.
                longest = self._longest and self._longest + (seconds if length > 1 else 0.0)
                with ending_process(longest):
                    result = run_slice(call, columns, keywords, 0, length, seconds, self._loop, self._capture)
            if result.interrupt is not None:
                raise result.interrupt
            return self._pack(result)

    @property
    def runs_several(self) -> bool:
        """Whether several rows are under way at a time: `run_at_once` runs them."""
        return self._options["max_concurrency"] > 1 and is_async(self._limited)

    def run_at_once(
        self, rows: bytes, seconds: float, runs: Callable[[int], None] | None = None
    ) -> Generator[bytes, None, None]:
        """Run all rows, several at a time, and yield packed results as they are ready; the last one says that it is.

        Args:
            rows, seconds: as `run` takes them.
            runs: told which row's code goes on, counted from 1.
        """
        with self._interrupts or nullcontext():
            if self.set_up():
                yield self._failed
                return
            call = self._states.bind(self._limited)
            columns, keywords, length = self._pickler.loads(rows)
            at_once, entered = self._options["max_concurrency"], None if runs is None else _from_one(runs)
            for result in run_concurrently(
                call, columns, keywords, length, seconds, at_once, self._loop, self._capture, entered
            ):
                yield self._pack(result)

    def close(self) -> list[str]:
        """Tear down the state, give back the event loop and what the capture holds; return what failed, as text."""
        self._late_modules.take_place()
        failed = self._states.close()
        set_late_modules_aside()
        self._loop.close()
        if self._capture is not None:
            self._capture.close()
        return failed

    def _pack(self, result: SliceResult) -> bytes:
        """Pickle a result as plain tuples; an output that cannot be pickled is its row's failure alone."""
        packed = self._try_dumps(result.outputs)
        if packed is None:
            result = self._without_unpicklable(result)
            packed = self._try_dumps(result.outputs)
        failures = [(f.row, self._try_dumps(f.error), *f[2:]) for f in result.failures]
        # Durations of 4 bytes, exact to a ten-millionth, help results of small values stay below the 100 KB that Ray sends inline.
        logs = [tuple(entry) for entry in result.logs]
        durations = array("f", result.durations)
        return self._pickler.dumps((packed, durations, failures, logs, result.first, result.more))

    def _without_unpicklable(self, result: SliceResult) -> SliceResult:
        outputs, failures = list(result.outputs), list(result.failures)
        for row, output in enumerate(outputs):
            try:
                self._pickler.dumps(output)
            except Exception as error:  # noqa: BLE001  # pickling runs users' `__reduce__`, which may raise anything
                outputs[row] = None
                failures.append(describe(error, row, result.durations[row]))
        return result._replace(outputs=outputs, failures=sorted(failures, key=_row))

    def _try_dumps(self, value: Any) -> bytes | None:
        try:
            return self._pickler.dumps(value)
        except Exception:  # noqa: BLE001  # as above; the caller has a stand-in
            return None


def make_worker(
    function: bytes,
    pickler: str,
    order: tuple[Any, ...] | None,
    options: Mapping[str, Any],
    before_call: Callable[[], None] | None = None,
    after_call: Callable[[], None] | None = None,
    **where: Any,
) -> RowWorker:
    """Return a worker that captures what it is told to; `order` is a `CaptureOrder`, `where` goes to the `Capture`."""
    capture: Capture | None = None
    if order is not None:
        limit, levels = order
        capture = Capture(limit, **where, levels=levels, show_records=False)
    return RowWorker(function, pickler, options, before_call, capture, after_call)


def _row(failure: SliceFailure) -> int:
    return failure.row


def _announced(
    function: Callable[..., Any], before_call: Callable[[], None], after_call: Callable[[], None] | None
) -> Callable[..., Any]:
    """Return the function, sync or async as it is, that says so before each call, and after it where somebody wants to know."""
    after = after_call or _nothing
    if is_async(function):

        async def awaited(*values: Any, **keywords: Any) -> Any:
            before_call()
            try:
                return await function(*values, **keywords)
            finally:
                after()

        return awaited

    if after_call is None:

        def called(*values: Any, **keywords: Any) -> Any:
            before_call()
            return function(*values, **keywords)

        return called

    def watched(*values: Any, **keywords: Any) -> Any:
        before_call()
        try:
            return function(*values, **keywords)
        finally:
            after()

    return watched


def _from_one(runs: Callable[[int], None]) -> Callable[[int], None]:
    return lambda row: runs(row + 1)


def _ignored(_row: int) -> None:
    pass


def _nothing() -> None:
    pass


def _provide_package() -> None:
    """Let functions import what they need of this package in a worker that lacks it."""
    if "orcapod_dagster" in sys.modules or importlib.util.find_spec("orcapod_dagster") is not None:
        return
    provided = {"SkipPacket": SkipPacket, "Blob": Blob, "output_directory": output_directory}
    for name in ("orcapod_dagster", "orcapod_dagster.core", "orcapod_dagster.core.skip"):
        module = ModuleType(name, "Stands in for orcapod_dagster, which is not installed here.")
        module.__path__ = []
        vars(module).update(provided)
        sys.modules[name] = module
