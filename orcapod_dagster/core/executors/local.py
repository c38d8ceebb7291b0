"""LocalPythonFunctionExecutor: in this process, row after row."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorBase, RowBatch, row_failures
from orcapod_dagster.core.executors.slices import EventLoopThread, call_in_thread, is_async, run_coroutine, run_slice
from orcapod_dagster.core.types import Schema


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
    ) -> Iterator[BatchResult]:
        """Run batch after batch, yielding at least every `slice_seconds`."""
        with EventLoopThread() as loop:
            for batch in batches:
                yield from self._run_batch(fn, batch, slice_seconds, loop)

    def _run_batch(
        self, fn: Callable[..., Any], batch: RowBatch, seconds: float, loop: EventLoopThread
    ) -> Iterator[BatchResult]:
        first = 0
        while first < batch.length:
            done = run_slice(fn, batch.columns, batch.keyword_columns, first, batch.length, seconds, loop)
            start, length = batch.start + first, len(done.outputs)
            failures = row_failures(done.failures, start)
            yield BatchResult(start, length, done.outputs, done.durations, failures, self.get_executor_data())
            first += length
