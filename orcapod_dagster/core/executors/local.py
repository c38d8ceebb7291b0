"""LocalPythonFunctionExecutor: in this process, row after row."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any, Final

from orcapod_dagster.core.executors.base import (
    BatchResult,
    PythonFunctionExecutorBase,
    RowBatch,
    row_failures,
    row_logs,
)
from orcapod_dagster.core.executors.capture import Capture
from orcapod_dagster.core.executors.slices import (
    EventLoopThread,
    SliceResult,
    call_in_thread,
    is_async,
    run_coroutine,
    run_slice,
)
from orcapod_dagster.core.types import Schema

_OUTPUT: Final = threading.Lock()
"""Held by the slice whose output is captured: a process has one stdout."""


class LocalPythonFunctionExecutor(PythonFunctionExecutorBase):
    """Runs functions in this process, in order."""

    executor_type_id = "local"

    def execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """Call `fn`; an `async def` runs to its end."""
        value = fn(**kwargs)
        return run_coroutine(value) if inspect.iscoroutine(value) else value

    async def async_execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """Await an `async def` in the running loop; run a plain function in a thread, so that the loop goes on."""
        if is_async(fn):
            return await fn(**kwargs)
        return await call_in_thread(lambda: fn(**kwargs))

    def get_executor_data(self) -> dict[str, Any]:
        """Return `{"executor_type": "local"}`."""
        return {"executor_type": self.executor_type_id}

    def get_executor_data_schema(self) -> Schema:
        """Return the schema of `get_executor_data`."""
        return Schema({"executor_type": str})

    def run_rows(
        self,
        fn: Callable[..., Any],
        batches: Iterable[RowBatch],
        *,
        executor_options: Mapping[str, Any] | None = None,
        slice_seconds: float = 1.0,
        capture: int = 0,
    ) -> Iterator[BatchResult]:
        """Run batch after batch, yielding at least every `slice_seconds`."""
        watched = closing(Capture(capture)) if capture and os.name == "posix" else nullcontext()
        with watched as capturing, EventLoopThread() as loop:
            for batch in batches:
                first = 0
                while first < batch.length:
                    done = _run_slice(fn, batch, first, slice_seconds, loop, capturing)
                    start, length = batch.start + first, len(done.outputs)
                    failures, logs = row_failures(done.failures, start), row_logs(done.logs, start)
                    data = self.get_executor_data()
                    yield BatchResult(start, length, done.outputs, done.durations, failures, data, logs)
                    first += length


def _run_slice(
    fn: Callable[..., Any],
    batch: RowBatch,
    first: int,
    seconds: float,
    loop: EventLoopThread,
    capturing: Capture | None,
) -> SliceResult:
    """Run a slice with its output captured, unless another slice of this process has it captured now."""
    alone = capturing is not None and _OUTPUT.acquire(blocking=False)
    try:
        watch = capturing if alone else None
        return run_slice(fn, batch.columns, batch.keyword_columns, first, batch.length, seconds, loop, watch)
    finally:
        if alone:
            _OUTPUT.release()
