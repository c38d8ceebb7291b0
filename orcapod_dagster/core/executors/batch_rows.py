"""Functions that take many rows in one call: a list or an Arrow array per parameter in, as many results out.

A call that fails is made again with its halves, until the rows that fail are found; each is called alone at the end.

Sent to workers by value, so it imports nothing but the standard library and what is sent beside it.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from orcapod_dagster.core.errors import OutputCountError
from orcapod_dagster.core.executors.capture import Capture, NoCapture
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.process_state import process_as_it_was
from orcapod_dagster.core.executors.slices import SliceResult, is_async, slice_result


class Columns(NamedTuple):
    """The rows that are given: one sequence of `length` values per parameter, or an Arrow array."""

    positional: Sequence[Any]
    keyword: Mapping[str, Any]
    length: int


def run_batches(
    function: Callable[..., Any],
    columns: Columns,
    first: int,
    seconds: float,
    size: int,
    loop: EventLoopThread,
    capture: Capture | None = None,
    mark: Callable[[int], None] | None = None,
) -> SliceResult:
    """Call a function with batches of rows, from `first` on, and stop after the call during which `seconds` are over.

    Args:
        function: sync or async; gives a list of one result per row, see `with_rows`.
        columns: the rows.
        first: the row to begin with.
        seconds: the bound, checked after each call; one row at least is finished.
        size: the most rows of a call.
        loop: where an async function runs.
        capture: keeps what each call prints and logs, as the first of its rows.
        mark: called with the first row of each call, counted from 1.

    Returns:
        The finished rows: a row's duration is its share of the call that gave its result. A result that is an exception is
        its row's failure, or its skip. A `KeyboardInterrupt` is raised.
    """
    watch = capture or NoCapture()
    with process_as_it_was(), watch.slice() as logs:
        batches = _Batches(columns, first, seconds, size, watch, mark)
        if is_async(function):
            loop.run(_await_batches(function, batches))
        else:
            _call_batches(function, batches)
        return batches.result()._replace(logs=logs, first=first)


def _call_batches(function: Callable[..., Any], batches: _Batches) -> None:
    while (arguments := batches.next()) is not None:
        try:
            outputs = function(*arguments[0], **arguments[1])
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  # users raise anything
            batches.failed(error)
        else:
            batches.succeeded(outputs)


async def _await_batches(function: Callable[..., Any], batches: _Batches) -> None:
    task = asyncio.current_task()
    while (arguments := batches.next()) is not None:
        batches.begin()
        try:
            outputs = await function(*arguments[0], **arguments[1])
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the run is cancelled, not the call's own work
            batches.failed(error)
        else:
            batches.succeeded(outputs)


class _Batches:
    """Which rows to call next, and what came of them; rows are finished in their order."""

    def __init__(
        self,
        columns: Columns,
        first: int,
        seconds: float,
        size: int,
        capture: NoCapture,
        mark: Callable[[int], None] | None,
    ) -> None:
        self._columns = columns
        self._first = self._next = first
        self._size = size
        self._capture = capture
        self._mark = mark
        self._halves: list[tuple[int, int]] = []
        self._span = (first, first)
        self._outputs: list[Any] = []
        self._durations: list[float] = []
        self._errors: list[tuple[int, BaseException]] = []
        self._began = time.perf_counter()
        self._deadline = self._began + seconds

    def next(self) -> tuple[list[Any], dict[str, Any]] | None:
        """Return the arguments of the next call; `None` when the rows, or the time, are over."""
        if self._outputs and self._began > self._deadline:
            return None
        if self._halves:
            self._span = self._halves.pop()
        elif self._next < self._columns.length:
            self._span = self._next, min(self._next + self._size, self._columns.length)
            self._next = self._span[1]
        else:
            return None
        begin, end = self._span
        if self._mark is not None:
            self._mark(begin + 1)
        self._began = time.perf_counter()
        keywords = {name: column[begin:end] for name, column in self._columns.keyword.items()}
        return [column[begin:end] for column in self._columns.positional], keywords

    def begin(self) -> None:
        """Give the context of the caller to the call; only a task's, which ends with the slice: a thread's would keep it."""
        self._capture.begin(self._span[0] - self._first)

    def failed(self, error: BaseException) -> None:
        """Note that the call raised: it is made again with both halves, unless it is known whose fault it is."""
        begin, end = self._span
        took = self._after_call()
        if end - begin > 1 and not isinstance(error, OutputCountError):
            middle = (begin + end) // 2
            self._halves += [(middle, end), (begin, middle)]
            return
        self._add([error] * (end - begin), took)

    def succeeded(self, outputs: Sequence[Any]) -> None:
        """Note what the call gave, one result per row."""
        self._add(outputs, self._after_call())

    def _after_call(self) -> float:
        took = time.perf_counter() - self._began
        # What was printed is kept with the first row of the call. With too much of it, the slice ends.
        self._began = self._capture.take(self._span[0] - self._first)
        return took

    def _add(self, outputs: Sequence[Any], took: float) -> None:
        for output in outputs:
            if isinstance(output, BaseException):
                self._errors.append((len(self._outputs), output))
            self._outputs.append(None if isinstance(output, BaseException) else output)
        self._durations += [took / len(outputs)] * len(outputs)

    def result(self) -> SliceResult:
        """Return the finished rows."""
        return slice_result(self._outputs, self._durations, self._errors)


# ---------------------------------------------------------------------------- what a batch function gives


def with_rows(function: Callable[..., Any], keys: Sequence[str], owner: str, column: str = "") -> Callable[..., Any]:
    """Return the batch function, sync or async as it is, as one that gives a list of one result per row.

    Args:
        function: gives a list or another iterable of results, a numpy array, or Arrow: an array for the one output key, a list
            or tuple of arrays, one per key, or a table or record batch with the keys as columns.
        keys: the output keys.
        owner: for messages ("function 'f'").
        column: a parameter that gets one value per row, where others do not; default the first.

    Raises:
        OutputCountError: at a call: it gave another number of results than rows.
    """

    def checked(outputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        rows = len(args[0] if args else kwargs.get(column, next(iter(kwargs.values()))))
        results = _results(outputs, keys, owner, rows)
        if len(results) != rows:
            raise OutputCountError(
                f"{owner} was called with a batch of {rows} packets and returned {len(results)} results. Return one per packet; an "
                "exception in its place marks a packet that failed, a SkipPacket one to skip."
            )
        return results

    if is_async(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> list[Any]:
            return checked(await function(*args, **kwargs), args, kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> list[Any]:
        return checked(function(*args, **kwargs), args, kwargs)

    return call


def first_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, sync or async as the one given by `with_rows`, that gives the result of the first row, or raises it."""

    def first(outputs: list[Any]) -> Any:
        if isinstance(outputs[0], BaseException):
            raise outputs[0]
        return outputs[0]

    if is_async(function):

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return first(await function(*args, **kwargs))

        return call_async

    return lambda *args, **kwargs: first(function(*args, **kwargs))


def _results(outputs: Any, keys: Sequence[str], owner: str, rows: int) -> list[Any]:
    if not keys:
        return [None] * rows
    if hasattr(outputs, "schema") and hasattr(outputs, "column"):
        missing = [key for key in keys if key not in outputs.schema.names]
        if missing:
            raise OutputCountError(
                f"{owner} returned a table without the columns {missing}; it has {outputs.schema.names}."
            )
        return _beside([outputs.column(key) for key in keys])
    if _is_arrow(outputs):
        return _python(outputs)
    if isinstance(outputs, (list, tuple)) and len(outputs) == len(keys) and all(map(_is_arrow, outputs)):  # pyright: ignore[reportUnknownArgumentType]  # of anything
        return _beside(outputs)  # pyright: ignore[reportUnknownArgumentType]
    given: Any = outputs
    if type(given).__module__ == "numpy" and getattr(given, "ndim", 0) == 1:
        return given.tolist()
    try:
        return list(outputs)
    except TypeError:
        raise OutputCountError(
            f"{owner} was called with a batch of {rows} packets and returned a {type(outputs).__qualname__}, which holds no results. "
            "Return a list, or Arrow, of one result per packet."
        ) from None


def _is_arrow(value: Any) -> bool:
    return "pyarrow" in sys.modules and hasattr(value, "to_pylist") and hasattr(value, "type")


def _python(array: Any) -> list[Any]:
    return array.to_pylist(maps_as_pydicts="strict")


def _beside(columns: Sequence[Any]) -> list[Any]:
    """Return the values of columns row by row; columns of different lengths as the longest, for whoever counts them."""
    if len({len(column) for column in columns}) > 1:
        raise OutputCountError(
            f"the columns that were returned have {[len(c) for c in columns]} values; return as many in each."
        )
    return _python(columns[0]) if len(columns) == 1 else list(zip(*map(_python, columns), strict=True))
