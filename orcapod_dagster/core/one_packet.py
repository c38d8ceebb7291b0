"""One packet at a time: through an executor, or by the plain function here; worker state is made for the call, and torn down."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orcapod_dagster.core.execution_data import check_honours
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol, run_one
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.event_loop import EventLoopThread, call_in_thread
from orcapod_dagster.core.executors.set_ups import states_here

Factories = Mapping[str, Callable[[], Any]]


def execute(
    executor: PythonFunctionExecutorProtocol,
    function: Callable[..., Any],
    values: Mapping[str, Any],
    state: Factories,
    logger: logging.Logger | None = None,
) -> Any:
    """Call a function through an executor; with worker state as one row, for that is how executors build it.

    Args:
        executor: where. function: the plain one. values: its arguments, by name.
        state: what makes its worker state, by keyword. logger: for the executor.

    Raises:
        TypeError: it has worker state, which the executor does not build.
    """
    if not state:
        return executor.execute_callable(function, values, logger=logger)
    check_honours(executor, ["state"], f"function {getattr(function, '__name__', function)!r}")
    return run_one(executor, function, values, call_options=CallOptions(state=state))


async def execute_async(
    executor: PythonFunctionExecutorProtocol,
    function: Callable[..., Any],
    values: Mapping[str, Any],
    state: Factories,
    logger: logging.Logger | None = None,
) -> Any:
    """As `execute`, without blocking the running event loop."""
    if not state:
        return await executor.async_execute_callable(function, values, logger=logger)
    return await call_in_thread(lambda: execute(executor, function, values, state, logger))


def call_here(
    function: Callable[..., Any], values: Sequence[Any], keywords: Mapping[str, Any], state: Factories
) -> Any:
    """Call the plain function in this process; what is not passed of its worker state is made for this call, then torn down.

    An `async def` gives its coroutine where all is passed, else its value.
    """
    passed = inspect.signature(function).bind_partial(*values, **keywords).arguments
    missing = {name: factory for name, factory in state.items() if name not in passed}
    if not missing:
        return function(*values, **keywords)
    with EventLoopThread() as loop, states_here(missing, loop) as bind:
        value = bind(function)(*values, **keywords)
        return loop.run(value) if inspect.iscoroutine(value) else value
