"""The time limit of rows: a call that takes longer is stopped where it is, from within its own process.

A sync function is stopped by a signal, an async one by the end of its task; both by an exception that no `except Exception` takes. What
takes it nevertheless, or is in C code that never looks for signals, only the end of the process stops, and that is for who started it.

Sent to workers by value, so it imports nothing but the standard library, and what imports no more than that.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError, PacketTimeoutError
from orcapod_dagster.core.executors.slices import is_async

GRACE_SECONDS: Final = 2.0
"""So long a row may take to end once it was stopped, e.g. to close what it has open; then its process is ended."""


class RowStop(BaseException):
    """Raised in a row whose time is up; users' `except Exception` is not for it."""


def limited(function: Callable[..., Any], seconds: float | None) -> Callable[..., Any]:
    """Return the function, sync or async as it is, of which each call raises `PacketTimeoutError` when it takes longer.

    A call that comes to an end after it was stopped, whatever end, has still taken too long. What was set for the signal of
    timers before a call is there again after it.

    Args:
        function: without a limit (`None`), it is returned as it is.
        seconds: the limit.
    """
    if seconds is None:
        return function
    return (_limited_async if is_async(function) else _limited_sync)(function, seconds)


def check_can_stop(function: Callable[..., Any]) -> None:
    """Raise where a call of a sync function could not be stopped: signals reach the main thread of a POSIX process alone.

    Raises:
        ExecutorError: here it could not.
    """
    if is_async(function) or (os.name == "posix" and threading.current_thread() is threading.main_thread()):
        return
    raise ExecutorError(
        "time_limit cannot be kept here: a sync function is stopped by a signal, which reaches the main thread of a POSIX process "
        f"alone; this is thread {threading.current_thread().name!r} on {os.name!r}. Run the asset on the process pool or on Ray, in a "
        "step of its own process, or without time_limit."
    )


@contextmanager
def ending_process(seconds: float | None) -> Generator[None, None, None]:
    """End this process, with what it was at on the error stream, if the block takes longer; no code has to let go for that.

    Args:
        seconds: by the clock; `None` for no end.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def ending(function: Callable[..., Any], seconds: float | None) -> Callable[..., Any]:
    """Return the function, sync or async as it is, of which each call ends this process if it takes longer; see `ending_process`."""
    if seconds is None:
        return function
    if is_async(function):

        async def awaited(*values: Any, **keywords: Any) -> Any:
            with ending_process(seconds):
                return await function(*values, **keywords)

        return awaited

    def called(*values: Any, **keywords: Any) -> Any:
        with ending_process(seconds):
            return function(*values, **keywords)

    return called


def took_too_long(seconds: float, *, ended: bool) -> PacketTimeoutError:
    """Return the error of a row, which says whether its process had to be ended."""
    how = f", and did not end when it was stopped: {GRACE_SECONDS:g} s later its process was ended" if ended else ""
    return PacketTimeoutError(f"The packet took longer than its time limit of {seconds:g} s{how}.")


def _limited_sync(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    runs = stopped = False

    def stop(_signal: int, _frame: Any) -> None:
        nonlocal stopped
        if runs:
            stopped = True
            raise RowStop

    @functools.wraps(function)
    def called(*values: Any, **keywords: Any) -> Any:
        nonlocal runs, stopped
        stopped = False
        handler = signal.signal(signal.SIGALRM, stop)
        timer = 0.0, 0.0
        try:
            try:
                runs = True
                timer = signal.setitimer(signal.ITIMER_REAL, seconds)
                value = function(*values, **keywords)
            finally:
                runs = False
                signal.setitimer(signal.ITIMER_REAL, *timer)
                signal.signal(signal.SIGALRM, handler)
        except BaseException as error:
            if stopped:
                raise took_too_long(seconds, ended=False).with_traceback(_where(error)) from _cause(error)
            raise
        if stopped:
            raise took_too_long(seconds, ended=False)
        return value

    return called


def _limited_async(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    async def awaited(*values: Any, **keywords: Any) -> Any:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                value = await function(*values, **keywords)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if limit.expired():
                # Python says where it was in the cancellation that it has made an error of its own of.
                place = error.__cause__ if isinstance(error, TimeoutError) and error.__cause__ else error
                raise took_too_long(seconds, ended=False).with_traceback(place.__traceback__) from _cause(error)
            raise
        if limit.expired():
            raise took_too_long(seconds, ended=False)
        return value

    return awaited


def _where(error: BaseException) -> TracebackType | None:
    """Return the traceback of the stop down to where the row was; the last frame is that of the signal."""
    place = error.__traceback__
    while isinstance(error, RowStop) and place is not None and place.tb_next is not None:
        if place.tb_next.tb_next is None:
            place.tb_next = None
        place = place.tb_next
    return error.__traceback__


def _cause(error: BaseException) -> BaseException | None:
    """Return what a row raised in place of the stop; the stop itself says nothing."""
    return None if isinstance(error, (RowStop, TimeoutError)) else error
