"""Rows as tasks of about one length: the loop that executors with workers share.

How many rows make a task is found while they run. A task that reaches its bound gives back its finished rows, and the
rest is sent again. Only as many tasks as there are places for are under way, so rows never pile up at the workers.
"""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.errors import ConversionError
from orcapod_dagster.core.executors.base import (
    NOTHING_YET,
    BatchResult,
    RowBatch,
    RowFailure,
    nothing_until,
    row_failures,
    row_logs,
)
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.set_ups import set_up_error
from orcapod_dagster.core.executors.slices import SliceFailure, is_async
from orcapod_dagster.core.executors.worker_states import SetUpFailure

_GROWTH: Final = 16
_LAST_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a batch, `first` up to `last` (exclusive), without those whose results have come: spans in `told`."""

    batch: RowBatch
    first: int
    last: int
    told: tuple[tuple[int, int], ...] = ()

    @property
    def start(self) -> int:
        """Position of the first row in the stream of all rows."""
        return self.batch.start + self.first

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.last - self.first

    def values(self) -> tuple[tuple[Any, ...], Mapping[str, Any], int]:
        """Return columns, keyword columns and number of just these rows."""
        span = slice(self.first, self.last)
        keywords = {name: _cut(column, span) for name, column in self.batch.keyword_columns.items()}
        return tuple(_cut(column, span) for column in self.batch.columns), keywords, self.length

    def without(self, result: BatchResult) -> Piece:
        """Return the piece without the rows of a result."""
        first = result.start - self.batch.start
        return Piece(self.batch, self.first, self.last, (*self.told, (first, first + result.length)))

    def left(self) -> list[Piece]:
        """Return the rows whose results are still to come, as pieces in their order."""
        found: list[Piece] = []
        begin = self.first
        for first, last in (*sorted(self.told), (self.last, self.last)):
            if begin < first:
                found.append(Piece(self.batch, begin, first))
            begin = last
        return found

    def split(self, rows: int) -> tuple[Piece, Piece | None]:
        """Return the first `rows` rows and what is left, if anything."""
        if self.length <= rows:
            return self, None
        middle = self.first + rows
        return Piece(self.batch, self.first, middle), Piece(self.batch, middle, self.last)


def _cut(column: Sequence[Any], span: slice) -> Sequence[Any]:
    """Return some values of a column; of an Arrow array without the memory of the others, which pickling would send along."""
    part: Any = column[span]
    return pa.concat_arrays([part]) if isinstance(part, pa.Array) else part


@dataclass(frozen=True, slots=True)
class Unread(BatchResult):
    """Rows whose outputs came and cannot be unpickled here, for the sake of one of them at least."""

    error: Exception = field(default_factory=Exception)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a task has answered that will answer again."""

    result: BatchResult


def rows_at_once(fn: Callable[..., Any], call_options: CallOptions) -> int:
    """Return how many rows a task has under way at a time."""
    return call_options.max_concurrency if is_async(fn) else 1


class TaskRun(ABC):
    """One run of rows as tasks.

    Args:
        call_options: `slice_seconds` is how long a task may take; at least one row is always run.
        max_rows: the most rows of a task.
        at_once: how many rows a task has under way at a time.
    """

    def __init__(self, call_options: CallOptions, max_rows: int, at_once: int = 1) -> None:
        self._seconds = call_options.slice_seconds
        self._turn_seconds = call_options.turn_seconds
        self._tell, self._leaving = call_options.under_way, call_options.leaving
        self._max_rows = max_rows
        self._at_once = at_once
        self._batch = max(1, call_options.batch_size)
        self._rows = max(at_once, self._batch)

    @abstractmethod
    def _slots(self) -> int:
        """Return how many tasks may be under way now."""

    @abstractmethod
    def _submit(self, piece: Piece) -> Hashable:
        """Send a task, and return what stands for it; from then on, `_cancel` finds it, whatever comes of this call."""

    @abstractmethod
    def _finished(self, running: Mapping[Any, Piece], seconds: float) -> Any:
        """Wait until a task is finished, at most so many seconds (infinite for as long as it takes), and return what stands for it; `None` where none is."""

    @abstractmethod
    def _collect(self, task: Any, piece: Piece) -> Partial | Sequence[BatchResult | Piece]:
        """Return what a task answered: what is not all yet, its last result, or in order what is settled and what is to run again."""

    @abstractmethod
    def _cancel(self) -> None:
        """End what still runs, and free what the run holds; an interrupt may have come anywhere, so no list of the loop's says that."""

    def results(self, batches: Iterable[RowBatch]) -> Iterator[BatchResult]:
        """Keep every place taken, and yield what finishes first."""
        running: dict[Any, Piece] = {}
        waiting: deque[Piece] = deque()
        source = (Piece(batch, 0, batch.length) for batch in batches if batch.length)
        try:
            while True:
                early = self._fill(running, waiting, source)
                self._tell(sum(part.length for piece in running.values() for part in piece.left()))
                if not running and early is None:
                    return
                if not running:
                    yield from nothing_until(time.monotonic() + (early or 0.0), self._turn_seconds)
                    continue
                task = self._finished(running, min(early or math.inf, self._turn_seconds or math.inf))
                if task is None:
                    if self._turn_seconds:
                        yield NOTHING_YET
                    continue
                # Forgotten first, for no row may come twice, also where an interrupt comes now.
                piece = running.pop(task)
                found = self._collect(task, piece)
                if isinstance(found, Partial):
                    running[task] = piece.without(found.result)
                    yield from _readable(found.result, piece.batch, waiting)
                    continue
                done = [one for one in found if isinstance(one, BatchResult)]
                waiting.extendleft(one for one in reversed(found) if isinstance(one, Piece))
                if len(found) == 1 == len(done):
                    self._adapt(piece.length, done[0])
                    waiting.extendleft(reversed(piece.without(done[0]).left()))
                for one in done:
                    yield from _readable(one, piece.batch, waiting)
        except GeneratorExit:
            raise
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt; what workers finish just now is not to be lost
                yield from self._last_results(running)
                self._leaving()
            raise
        finally:
            self._cancel()

    def _last_results(self, running: dict[Any, Piece]) -> Iterator[BatchResult]:
        """Yield what ends within two seconds: slices are shorter than that, but for rows that are longer."""
        until = time.monotonic() + _LAST_SECONDS
        with contextlib.suppress(Exception):  # the interrupt is what ends the run
            while running and (task := self._finished(running, max(0.0, until - time.monotonic()))) is not None:
                piece = running.pop(task)
                found = self._collect(task, piece)
                if isinstance(found, Partial):
                    running[task] = piece.without(found.result)
                done = [found.result] if isinstance(found, Partial) else found
                yield from (one for one in done if isinstance(one, BatchResult) and not isinstance(one, Unread))

    def _fill(self, running: dict[Any, Piece], waiting: deque[Piece], source: Iterator[Piece]) -> float | None:
        """Send tasks while there are places; where the next rows may not begin yet, return in how many seconds they may."""
        while len(running) < self._slots():
            piece = waiting.popleft() if waiting else next(source, None)
            if piece is None:
                return None
            if piece.batch.not_before and (early := piece.batch.not_before - time.monotonic()) > 0:
                waiting.appendleft(piece)
                return early
            piece, rest = piece.split(self._rows)
            if rest is not None:
                waiting.appendleft(rest)
            running[self._submit(piece)] = piece
        return None

    def _adapt(self, sent: int, done: BatchResult) -> None:
        """Choose the rows of the next tasks: about half a slice, because a task that is cut short has to be sent twice.

        Of rows that run at once, many follow one another in a task, because at its end it waits for the last of them alone. Of
        batches, a task has whole ones.
        """
        fitting = int(0.5 * self._seconds * self._at_once * done.length / max(sum(done.durations), 1e-9))
        most = self._rows * _GROWTH if sent >= self._rows else self._rows
        least = 1 if self._at_once == 1 else self._at_once * _GROWTH
        rows = min(max(fitting, least), most, self._max_rows)
        self._rows = max(1, rows // self._batch) * self._batch


def _readable(result: BatchResult, batch: RowBatch, waiting: deque[Piece]) -> Iterator[BatchResult]:
    """Yield a result; rows of which nobody knows whose output cannot be read run again in halves, and one alone has failed."""
    if not isinstance(result, Unread):
        yield result
        return
    first = result.start - batch.start
    part, rest = Piece(batch, first, first + result.length).split(max(1, result.length // 2))
    if rest is not None:
        waiting.extendleft((rest, part))
        return
    told = f"The output cannot be unpickled here: {type(result.error).__qualname__}: {result.error}"
    error, duration = ConversionError(told), result.durations[0]
    failure = RowFailure(result.start, error, "ConversionError", told, "", duration)
    yield BatchResult(result.start, 1, [None], [duration], (failure,), result.execution_data, result.logs)


def unpacked(
    packed: bytes, loads: Callable[[bytes], Any], start: int, data: Mapping[str, Any]
) -> tuple[BatchResult, bool]:
    """Return what a `RowWorker` packed, for rows that began at `start` in the stream, and whether it will answer again.

    Outputs that cannot be unpickled are an `Unread`.

    Raises:
        WorkerStateError: it packed a set-up that failed.
    """
    answer = loads(packed)
    if isinstance(answer, dict):
        raise set_up_error(SetUpFailure(**answer))
    outputs, seconds, failures, logs, first, more = answer
    start += first
    durations = seconds.tolist()
    try:
        values = loads(outputs)
    except Exception as error:  # noqa: BLE001  # unpickling calls users' classes, which may raise anything
        rows = len(durations)
        return Unread(start, rows, [None] * rows, durations, (), data, row_logs(logs, start), error), more
    found = [SliceFailure(f[0], _load_error(loads, f), *f[2:]) for f in failures]
    result = BatchResult(start, len(values), values, durations, row_failures(found, start), data, row_logs(logs, start))
    return result, more


def _load_error(loads: Callable[[bytes], Any], failure: tuple[Any, ...]) -> BaseException:
    """Return the user's exception, or a stand-in of the same text where it cannot be pickled."""
    _, packed, error_type, message = failure[:4]
    if packed is not None:
        try:
            error = loads(packed)
        except Exception:  # noqa: BLE001  # unpickling calls the user's class, which may raise anything
            error = None
        if isinstance(error, BaseException):
            return error
    return RuntimeError(f"{error_type}: {message}")
