"""The innermost loop of every executor: call a function row after row, until a time is up.

This module is sent to workers by value, so it imports nothing but the standard library, and keeps no state of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

from orcapod_dagster.core.executors.capture import Capture, LogEntry, NoCapture
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.process_state import process_as_it_was

SKIP_CLASS: Final = "SkipPacket"
_OWN_ERRORS: Final = "orcapod_dagster.core.errors"


class SliceFailure(NamedTuple):
    """One row whose call raised; `row` counts from the first row of the slice, `kinds` are the names of its classes."""

    row: int
    error: BaseException
    error_type: str
    message: str
    traceback: str
    duration: float
    skipped: bool
    kinds: tuple[str, ...] = ()


class SliceResult(NamedTuple):
    """Finished rows of those that were given: `first` and the ones that follow it.

    Attributes:
        outputs, durations: one per row. failures, logs: in the order of the rows; their `row` counts from `first`.
        first: counts from the first row that was given.
        more: whether further results of the rows that were given will come.
        interrupt: what ended the slice in the middle of the row after them, e.g. Ctrl-C; to be raised by whoever has taken the rest.
    """

    outputs: list[Any]
    durations: list[float]
    failures: list[SliceFailure]
    logs: Sequence[LogEntry] = ()
    first: int = 0
    more: bool = False
    interrupt: BaseException | None = None


def run_slice(
    function: Callable[..., Any],
    columns: Sequence[Sequence[Any]],
    keyword_columns: Mapping[str, Sequence[Any]],
    first: int,
    length: int,
    seconds: float,
    loop: EventLoopThread | None = None,
    capture: Capture | None = None,
) -> SliceResult:
    """Call `function` for rows `first … length`, and stop after the row during which `seconds` are over.

    Args:
        function: sync or async; positional values come from `columns`, keyword values from `keyword_columns`.
        columns, keyword_columns: one sequence of `length` values each.
        first, length: the rows to run, `length` exclusive; at least one is run.
        seconds: the bound; checked after each row.
        loop: where an async function runs; default a loop for this slice alone.
        capture: keeps what each row prints and logs.

    Returns:
        The finished rows from `first` on: outputs and durations in seconds, `None` and the time spent where a row raised.
        A `SystemExit` is that row's failure. A `KeyboardInterrupt` ends the slice: of a sync function, it is given back with what is
        finished; of an async one, it is raised.
    """
    call, rows = as_rows(function, columns, keyword_columns, first, length)
    watch = capture or NoCapture()
    with process_as_it_was(), watch.slice() as logs:
        return _run(function, call, rows, seconds, loop, watch)._replace(logs=logs, first=first)


def as_rows(
    function: Callable[..., Any],
    columns: Sequence[Sequence[Any]],
    keyword_columns: Mapping[str, Sequence[Any]],
    first: int,
    length: int,
) -> tuple[Callable[..., Any], Iterable[tuple[Any, ...]]]:
    """Return what to call with each row, and the rows `first … length` as its positional arguments."""
    rows: Iterable[tuple[Any, ...]] = repeat((), length - first)
    if columns:
        rows = zip(*_tails(columns, first), strict=True)
    if not keyword_columns:
        return function, rows
    values = zip(*_tails(keyword_columns.values(), first), strict=True)
    keywords = map(dict, map(zip, repeat(tuple(keyword_columns)), values))
    return _with_keywords(function), zip(rows, keywords, strict=True)


def _run(
    function: Callable[..., Any],
    call: Callable[..., Any],
    rows: Iterable[tuple[Any, ...]],
    seconds: float,
    loop: EventLoopThread | None,
    capture: NoCapture,
) -> SliceResult:
    if not is_async(function):
        return _call_rows(call, rows, seconds, capture)
    if loop is not None:
        return loop.run(_await_rows(call, rows, seconds, capture))
    with EventLoopThread() as own:
        return own.run(_await_rows(call, rows, seconds, capture))


def _tails(columns: Iterable[Sequence[Any]], first: int) -> list[Sequence[Any]]:
    return [column[first:] if first else column for column in columns]


def _with_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda values, keywords: function(*values, **keywords)


def _call_rows(
    call: Callable[..., Any], rows: Iterable[tuple[Any, ...]], seconds: float, capture: NoCapture
) -> SliceResult:
    outputs: list[Any] = []
    durations: list[float] = []
    errors: list[tuple[int, BaseException]] = []
    add_output, add_duration, clock = outputs.append, durations.append, time.perf_counter
    quick, asked, heard, (out, err) = capture.quick, capture.asked, capture.heard, capture.streams
    enough = quick
    before = clock()
    deadline = before + seconds
    interrupt: BaseException | None = None
    try:
        for values in rows:
            try:
                add_output(call(*values))
            except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  # users raise anything
                errors.append((len(outputs), error))
                add_output(None)
            now = clock()
            took = now - before
            add_duration(took)
            if took <= enough:
                enough = quick
            elif heard(0, 1) or sys.stdout is not out or sys.stderr is not err:
                now, enough = capture.take(len(outputs) - 1), quick
            else:
                enough = (
                    asked  # the next row's time has this question in it, which costs less than to read the clock again
                )
            if now > deadline:
                break
            before = now
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        interrupt, finished = error, len(durations)
        del outputs[finished:], errors[sum(row < finished for row, _ in errors) :]
    return slice_result(outputs, durations, errors)._replace(interrupt=interrupt)


async def _await_rows(
    call: Callable[..., Any], rows: Iterable[tuple[Any, ...]], seconds: float, capture: NoCapture
) -> SliceResult:
    """Do the same for an async function, one row after the other."""
    outputs: list[Any] = []
    durations: list[float] = []
    errors: list[tuple[int, BaseException]] = []
    clock, task = time.perf_counter, asyncio.current_task()
    quick, heard, (out, err) = capture.quick, capture.heard, capture.streams
    begin = capture.begin
    before = clock()
    deadline = before + seconds
    for values in rows:
        try:
            begin(len(outputs))
            outputs.append(await call(*values))
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the run is cancelled, not the row's own work
            errors.append((len(outputs), error))
            outputs.append(None)
        now = clock()
        took = now - before
        durations.append(took)
        if took > quick and (heard(0, 1) or sys.stdout is not out or sys.stderr is not err):
            now = capture.take(len(outputs) - 1)
        if now > deadline:
            break
        before = now
    return slice_result(outputs, durations, errors)


def slice_result(outputs: list[Any], durations: list[float], errors: list[tuple[int, BaseException]]) -> SliceResult:
    """Describe the errors; done after the loop, so that it counts in no row's time."""
    return SliceResult(outputs, durations, [describe(error, row, durations[row]) for row, error in errors])


def describe(error: BaseException, row: int, duration: float) -> SliceFailure:
    """Return what is kept of an exception; the frames that called the function are left out of the traceback."""
    frames, here = error.__traceback__, Path(describe.__code__.co_filename).parent
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).parent == here:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    kind = type(error)
    skipped = any(base.__name__ == SKIP_CLASS for base in kind.__mro__)
    kinds = kinds_of(error)
    name = kind.__name__ if kind.__module__ == _OWN_ERRORS else kinds[0]
    return SliceFailure(row, error, name, message_of(error), text, duration, skipped, kinds)


def kinds_of(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and of all that it is derived from, but for `object`; its own is the first."""
    return tuple(
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
        for kind in type(error).__mro__[:-1]
    )


def message_of(error: BaseException) -> str:
    """Return the text of a user's exception, or that it has none."""
    try:
        return str(error)
    except Exception as unreadable:  # noqa: BLE001  # a user's `__str__` may do anything
        return f"<no message: {type(unreadable).__name__} in __str__>"


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling it gives a coroutine: an `async def`, a partial of one, or an object with such a `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # to look inside
