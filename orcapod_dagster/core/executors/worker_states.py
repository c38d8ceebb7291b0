"""WorkerStates: what a function is given with every row and is made once per worker, such as a loaded model.

This module is sent to workers by value, so it imports nothing but the standard library and what is sent along.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.slices import message_of


class SetUpFailure(NamedTuple):
    """What a worker tells of a set-up that failed; plain values, which every process can unpickle.

    Attributes:
        parameter: of the function. factory: its name. worker: host and process.
        error: class and message. traceback: as text, from the factory on.
    """

    parameter: str
    factory: str
    worker: str
    error: str
    traceback: str


class SetUpError(Exception):
    """A set-up failed; raised and caught within one process."""

    def __init__(self, failure: SetUpFailure) -> None:
        super().__init__(failure.error)
        self.failure = failure


class WorkerStates:
    """The state of a function in one worker: built when it is first asked for, torn down by `close`.

    A factory is called without arguments. A generator gives the value that it yields, and what follows the `yield` tears down; a
    context manager, sync or async, gives what it is entered with, and is left; of anything else `close()` or `aclose()` is
    called, where there is one. Coroutines and async context managers run in the loop in which async functions run.

    Args:
        factories: keyword of the function → factory, in the order in which they are built.
        loop: where async functions run in this worker.
    """

    def __init__(self, factories: Mapping[str, Callable[[], Any]], loop: EventLoopThread) -> None:
        self._factories = factories
        self._loop = loop
        self._values: dict[str, Any] | None = None
        self._ends: list[tuple[str, Callable[[], Any]]] = []

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its state, built now if it is not yet.

        Raises:
            SetUpError: a factory raised; what was built before it is torn down.
        """
        if not self._factories:
            return function
        return functools.partial(function, **self.values())

    def values(self) -> dict[str, Any]:
        """Return the state by keyword; see `bind`."""
        if self._values is None:
            values: dict[str, Any] = {}
            for name, factory in self._factories.items():
                try:
                    values[name] = self._enter(name, factory)
                except (Exception, SystemExit, asyncio.CancelledError) as error:
                    self.close()
                    raise SetUpError(_failure(name, factory, error)) from error
                except BaseException:
                    self.close()
                    raise
            self._values = values
        return self._values

    def close(self) -> list[str]:
        """Tear down, the last one built first; return a text for each that raised instead."""
        failed: list[str] = []
        self._values = None
        while self._ends:
            name, end = self._ends.pop()
            try:
                end()
            except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  # users raise anything, and the others go on
                told = "".join(traceback.format_exception(error))
                failed.append(f"The tear-down of worker state {name!r} failed in {here()}:\n{told}")
        return failed

    def _enter(self, name: str, factory: Callable[[], Any]) -> Any:
        made: Any = factory()
        if inspect.isawaitable(made):
            made = self._loop.run(_awaited(made))
        if inspect.isgenerator(made):
            made = _entered_once(contextlib.contextmanager, made)
        elif inspect.isasyncgen(made):
            made = _entered_once(contextlib.asynccontextmanager, made)
        kind: Any = type(made)
        # Where an object is both, as HTTP clients are, the sync form is there to say that it is the wrong one.
        if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
            value = self._loop.run(_awaited(kind.__aenter__(made)))
            self._ends.append((name, lambda: self._loop.run(_awaited(kind.__aexit__(made, None, None, None)))))
        elif hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
            value = kind.__enter__(made)
            self._ends.append((name, lambda: kind.__exit__(made, None, None, None)))
        else:
            value = made
            if callable(getattr(kind, "aclose", None)):
                self._ends.append((name, lambda: self._loop.run(_awaited(made.aclose()))))
            elif callable(getattr(kind, "close", None)):
                self._ends.append((name, lambda: self._settled(made.close())))
        return value

    def _settled(self, closed: Any) -> None:
        if inspect.isawaitable(closed):
            self._loop.run(_awaited(closed))


def name_of(factory: Callable[..., Any]) -> str:
    """Return what a factory is called, with its module."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    name = getattr(factory, "__qualname__", None) or type(factory).__qualname__
    module = getattr(factory, "__module__", None)
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def here() -> str:
    """Return host and process, as text."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _entered_once(kind: Any, generator: Any) -> Any:
    """Return a generator that runs already as a context manager."""
    return kind(lambda: generator)()


async def _awaited(value: Any) -> Any:
    return await value


def _failure(name: str, factory: Callable[..., Any], error: BaseException) -> SetUpFailure:
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this module's own
    told = "".join(traceback.format_exception(type(error), error, frames))
    return SetUpFailure(name, name_of(factory), here(), f"{type(error).__qualname__}: {message_of(error)}", told)


class Interrupts:
    """Lets SIGINT interrupt what runs within the block, and nothing else: neither a tear-down, nor a wait for rows.

    After a signal, wherever it came, no further block is entered. To be made in the main thread of a worker process, whose signal it
    takes over.

    Raises:
        KeyboardInterrupt: within the block, or where it is entered after a signal.
    """

    def __init__(self) -> None:
        self._inside = self._came = False
        signal.signal(signal.SIGINT, self._interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray starts its workers with it blocked

    def __enter__(self) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False

    def _interrupt(self, *_: object) -> None:
        self._came = True
        if self._inside:
            self._inside = False
            raise KeyboardInterrupt
