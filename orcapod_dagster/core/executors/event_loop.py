"""Where async functions run: an event loop in a thread of its own, so that they work also where a loop runs already.

Sent to workers by value, so it imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Final, Self

_CLOSE_SECONDS: Final = 5.0


class EventLoopThread:
    """An event loop in a thread of its own, started when it is first needed.

    The thread makes `async def` functions work also where the caller's thread runs a loop already. One loop for all
    slices of a run keeps alive what a function binds to its loop, such as an HTTP client.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end and return its value; it sees the caller's context variables.

        When the caller is interrupted, the coroutine is cancelled and its end waited for, for it uses what the caller takes down;
        a row that does not end in time is left behind.
        """
        loop = self._loop = self._loop or self._start()
        future = Future[Any]()
        tasks: list[asyncio.Task[Any]] = []

        def cancel() -> None:
            for task in tasks:
                task.cancel()
            if not tasks:  # the interrupt came before it was begun
                coroutine.close()
                _cancelled(future)

        try:
            loop.call_soon_threadsafe(_begin, loop, coroutine, future, tasks)
            return future.result()
        except BaseException:
            if not future.done():
                loop.call_soon_threadsafe(cancel)
                wait([future], _CLOSE_SECONDS)
            raise

    def end(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine that ends what runs, and wait for it, but not longer than `close` waits."""
        if self._loop is None:
            coroutine.close()
            return
        future = Future[Any]()
        self._loop.call_soon_threadsafe(_begin, self._loop, coroutine, future, [])
        wait([future], _CLOSE_SECONDS)

    def close(self) -> None:
        """Cancel what the function left running, and end the thread; one that does not end is left behind."""
        self._closed = True
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_SECONDS)
        self._loop = None

    def _start(self) -> asyncio.AbstractEventLoop:
        loops: list[asyncio.AbstractEventLoop] = []
        ready = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, args=(loops, ready), name="orcapod-async", daemon=True)
        self._thread.start()
        ready.wait()
        return loops[0]

    def _serve(self, loops: list[asyncio.AbstractEventLoop], ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loops.append(loop)
            ready.set()
            while not self._closed:
                try:
                    loop.run_forever()
                except (KeyboardInterrupt, SystemExit):
                    continue  # raised by a task; whoever awaits that task gets it when the loop goes on


def _begin(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    future: Future[Any],
    tasks: list[asyncio.Task[Any]],
) -> None:
    """Begin a coroutine in the loop's thread; `future` gets its end, and `tasks` its task."""
    tasks.append(loop.create_task(coroutine))
    tasks[0].add_done_callback(functools.partial(_settle, future))


def _settle(future: Future[Any], task: asyncio.Task[Any]) -> None:
    """Give the end of a task to the thread that waits for it."""
    error = None if task.cancelled() else task.exception()
    if task.cancelled():
        _cancelled(future)
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _cancelled(future: Future[Any]) -> None:
    future.cancel()
    future.set_running_or_notify_cancel()  # else `wait` would not know


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run one coroutine to its end; in a thread of its own where this thread runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with EventLoopThread() as loop:
        return loop.run(coroutine)


async def call_in_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread, so that the running loop goes on; context variables come along."""

    def guarded() -> tuple[Any, StopIteration | None]:
        try:
            return call(), None
        except StopIteration as error:
            return None, error

    value, stopped = await asyncio.to_thread(guarded)
    if stopped is not None:
        # A future cannot carry a StopIteration: the caller would wait for ever (Python 3.11).
        raise RuntimeError("the function raised StopIteration") from stopped
    return value
