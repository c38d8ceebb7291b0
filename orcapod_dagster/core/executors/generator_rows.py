"""Functions that give any number of rows for one packet: called so that all of them come back together, or none.

Sent to workers by value, so it imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterable, Callable
from typing import Any


def gives_async(function: Callable[..., Any]) -> bool:
    """Tell whether a generator function is async: `async def` with `yield`, or one that is awaited for what it iterates over."""
    while isinstance(function, functools.partial):
        function = function.func
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004  # to look inside
    return inspect.isasyncgenfunction(called) or inspect.iscoroutinefunction(called)


def as_list(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, sync or async as the given one, that gives the list of the rows that it yields."""
    if gives_async(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> list[Any]:
            rows = function(*args, **kwargs)
            if inspect.isawaitable(rows):
                rows = await rows
            if isinstance(rows, AsyncIterable):
                return [row async for row in rows]
            return list(rows)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> list[Any]:
        return list(function(*args, **kwargs))

    return call
