"""Rows of an async function, several at once, whose results come as they are ready.

A row that ends makes room for the next one, so the function is always called so many times at once, also while results are
fetched and stored. A slow row holds back nobody's result: what is ready is told as runs of consecutive rows.

Sent to workers by value, so it imports nothing but the standard library and what is sent beside it.
"""

from __future__ import annotations

import asyncio
import math
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from orcapod_dagster.core.executors.capture import Capture, LogEntry, NoCapture
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.slices import SliceResult, as_rows, slice_result


def run_concurrently(
    function: Callable[..., Any],
    columns: Sequence[Sequence[Any]],
    keyword_columns: Mapping[str, Sequence[Any]],
    length: int,
    seconds: float,
    at_once: int,
    loop: EventLoopThread,
    capture: Capture | None = None,
    entered: Callable[[int], None] | None = None,
) -> Generator[SliceResult, None, None]:
    """Call an async function for all rows, at most `at_once` of them at a time.

    Args:
        function, columns, keyword_columns, length: as `run_slice` takes them.
        seconds: how long finished rows wait, about, before they are told; one row at least is told each time. When they are
            not fetched for longer than that, no further row begins until they are.
        at_once: how many rows are under way at a time.
        loop: where they run.
        capture: keeps what each row prints and logs.
        entered: called with the row, counted from 0, whenever its code goes on.

    Yields:
        Runs of consecutive rows, in any order, together each row once; the last one says that no more come. Durations are
        from the beginning of a row to its end, also while others had their turn.

    Raises:
        KeyboardInterrupt: a row raised it; no other error of a row is raised.
    """
    call, rows = as_rows(function, columns, keyword_columns, 0, length)
    watch = capture or NoCapture()
    with watch.slice():
        under_way = _RowsAtOnce(call, rows, length, at_once, watch, entered)
        try:
            more = True
            while more:
                parts, more = loop.run(under_way.collect(seconds))
                for number, part in enumerate(parts, 1):
                    yield part._replace(more=more or number < len(parts))
        except GeneratorExit:
            loop.end(under_way.cancel())
            raise


class _RowsAtOnce:
    """The rows that are under way, and those that are ready; everything but `__init__` runs in the loop's thread."""

    def __init__(
        self,
        call: Callable[..., Any],
        rows: Iterable[tuple[Any, ...]],
        length: int,
        at_once: int,
        capture: NoCapture,
        entered: Callable[[int], None] | None,
    ) -> None:
        self._call = call
        self._waiting = enumerate(rows)
        self._left = self._untold = length
        self._at_once = at_once
        self._capture = capture
        self._entered = entered
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ready: dict[int, tuple[Any, float, BaseException | None]] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._fatal: BaseException | None = None
        self._due = self._pause = math.inf

    async def collect(self, seconds: float) -> tuple[list[SliceResult], bool]:
        """Wait until `seconds` are over and a row is ready, or all are; return what is ready, and whether more will come."""
        self._wake.clear()
        self._pause, self._due = math.inf, time.perf_counter() + seconds
        self._fill()
        tick = asyncio.get_running_loop().call_later(seconds, self._look)
        try:
            self._look()
            await self._wake.wait()
        except asyncio.CancelledError:
            await self.cancel()
            raise
        finally:
            tick.cancel()
        if self._fatal is not None:
            await self.cancel()
            raise self._fatal
        self._pause = time.perf_counter() + seconds
        ready, self._ready = self._ready, {}
        self._untold -= len(ready)
        return list(_runs(ready, self._capture.drain())), self._untold > 0

    async def cancel(self) -> None:
        """End what is under way, and begin nothing."""
        self._closing, self._left = True, 0
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _fill(self) -> None:
        while self._left and len(self._tasks) < self._at_once and time.perf_counter() <= self._pause:
            row, values = next(self._waiting)
            self._left -= 1
            task = asyncio.get_running_loop().create_task(self._run(row, values))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _run(self, row: int, values: tuple[Any, ...]) -> None:
        """Call the function with one row, in a task of its own, so that contexts and cancellations are the row's own."""
        self._capture.begin(row)
        began, output, caught = time.perf_counter(), None, None
        try:
            call = self._call(*values)
            output = await (call if self._entered is None else _announced(call, row, self._entered))
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise  # the run is cancelled, not the row's own work
            caught = error
        took = time.perf_counter() - began
        self._ready[row] = output, took, caught
        if self._capture.settle(row):
            self._due = self._pause = -math.inf  # so much is kept of what rows printed that it is to be fetched first

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fatal = task.exception()
        elif not self._closing:
            self._fill()
        self._look()

    def _look(self) -> None:
        """Wake who collects, where there is a reason to."""
        over = bool(self._ready) and time.perf_counter() >= self._due
        if over or self._fatal is not None or len(self._ready) == self._untold:
            self._wake.set()


@types.coroutine
def _announced(call: Coroutine[Any, Any, Any], row: int, entered: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and say whose it is whenever it goes on: who dies then, dies of this row."""
    step: Callable[[Any], Any] = call.send
    value: Any = None
    while True:
        entered(row)
        try:
            awaited = step(value)
        except StopIteration as end:
            return end.value
        try:
            value = yield awaited
            step = call.send
        except GeneratorExit:
            call.close()
            raise
        except BaseException as error:  # noqa: BLE001  # handed on to the row
            value, step = error, call.throw


def _runs(
    ready: Mapping[int, tuple[Any, float, BaseException | None]], logs: Sequence[LogEntry]
) -> Iterator[SliceResult]:
    """Yield rows that are ready as runs of consecutive ones."""
    rows = sorted(ready)
    by_row: dict[int, list[LogEntry]] = {}
    for entry in logs:
        by_row.setdefault(entry.row, []).append(entry)
    begin = 0
    for end in range(1, len(rows) + 1):
        if end < len(rows) and rows[end] == rows[end - 1] + 1:
            continue
        first, run = rows[begin], [ready[row] for row in rows[begin:end]]
        errors = [(i, error) for i, (_, _, error) in enumerate(run) if error is not None]
        entries = [e._replace(row=e.row - first) for row in rows[begin:end] for e in by_row.get(row, ())]
        outputs, durations = [output for output, _, _ in run], [took for _, took, _ in run]
        yield slice_result(outputs, durations, errors)._replace(logs=entries, first=first)
        begin = end
