"""LocalPythonFunctionExecutor: in this process, row after row."""

from __future__ import annotations

import inspect
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.base import (
    HONOURED,
    BatchResult,
    PythonFunctionExecutorBase,
    RowBatch,
    nothing_until,
    row_failures,
    row_logs,
)
from orcapod_dagster.core.executors.batch_rows import Columns, run_batches
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.capture import ASIDE, Capture, Packets
from orcapod_dagster.core.executors.concurrent_rows import run_concurrently
from orcapod_dagster.core.executors.event_loop import EventLoopThread, call_in_thread, run_coroutine
from orcapod_dagster.core.executors.last_words import LastWords
from orcapod_dagster.core.executors.set_ups import states_here
from orcapod_dagster.core.executors.slices import SliceResult, is_async, run_slice
from orcapod_dagster.core.executors.spool import open_spool, provide_streams
from orcapod_dagster.core.executors.time_limit import check_can_stop, limited
from orcapod_dagster.core.types import Schema


class _Output:
    """A process has one stdout, so one slice at a time has it captured."""

    lock: Final = threading.Lock()
    packets: Final = Packets()
    owner: int | None = None


class LocalPythonFunctionExecutor(PythonFunctionExecutorBase):
    """Runs functions in this process, in order."""

    executor_type_id = "local"
    waits_for_batches = True
    honours = HONOURED

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
        call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
    ) -> Iterator[BatchResult]:
        """Run batch after batch, yielding at least every `call_options.slice_seconds`; this process is the one worker."""
        capture, seconds, at_once = call_options.capture, call_options.slice_seconds, call_options.max_concurrency
        if call_options.time_limit is not None:
            check_can_stop(fn)
            fn = limited(fn, call_options.time_limit)
        tell = call_options.under_way
        watched = _captured(capture) if capture and os.name == "posix" else nullcontext()
        with watched as capturing, EventLoopThread() as loop, states_here(call_options.state, loop) as bind:
            try:
                for batch in batches:
                    if batch.not_before:
                        yield from nothing_until(batch.not_before, call_options.turn_seconds)
                    function = bind(fn) if batch.length else fn
                    several = at_once > 1 and is_async(function)
                    tell(min(batch.length, at_once) if several else 1)
                    if several:
                        slices = _run_at_once(function, batch, seconds, at_once, loop, capturing)
                    else:
                        slices = _run_in_order(function, batch, call_options, loop, capturing)
                    with closing(slices):
                        for done in slices:
                            start = batch.start + done.first
                            failures, logs = row_failures(done.failures, start), row_logs(done.logs, start)
                            data, length = self.get_executor_data(), len(done.outputs)
                            if length:
                                yield BatchResult(start, length, done.outputs, done.durations, failures, data, logs)
                            if done.interrupt is not None:
                                raise done.interrupt
            except (KeyboardInterrupt, SystemExit):
                call_options.leaving()
                raise


def stay_aside() -> None:
    """Have nothing that this thread prints or logs from now on taken for a packet's that runs in this process."""
    _Output.packets.context.set(ASIDE)


@contextmanager
def _captured(limit: int) -> Generator[Capture, None, None]:
    """Give what captures the packets that run in this process."""
    provide_streams()
    files: tuple[int, ...] = ()
    words, capture = None, None
    try:
        files = (open_spool(), open_spool())
        words = LastWords.try_beside(files)
        capture = Capture(limit, files=files, marks=words and words.marks, packets=_Output.packets)
    except OSError as error:
        _give_back(files if capture is None else (), words)
        raise ExecutorError(
            f"What packets print cannot be captured: {error}. It goes through files in {tempfile.gettempdir()}, the folder for "
            "temporary files: make room there, or set TMPDIR; or leave it with capture=False."
        ) from error
    try:
        yield capture
    finally:
        capture.close()
        _give_back((), words)


def _give_back(files: Iterable[int], words: LastWords | None) -> None:
    if words is not None:
        words.close()
    for file in files:
        os.close(file)


def _run_in_order(
    fn: Callable[..., Any],
    batch: RowBatch,
    call_options: CallOptions,
    loop: EventLoopThread,
    capturing: Capture | None,
) -> Generator[SliceResult, None, None]:
    """Run row after row, or batch after batch; between two slices, while the caller has the turn, nothing here is captured."""
    first, seconds, size = 0, call_options.slice_seconds, call_options.batch_size
    columns, keywords, length = batch.columns, batch.keyword_columns, batch.length
    while first < length:
        with _watching(capturing) as (inside, watch):
            if size:
                done = inside(run_batches, fn, Columns(columns, keywords, length), first, seconds, size, loop, watch)
            else:
                done = inside(run_slice, fn, columns, keywords, first, length, seconds, loop, watch)
        yield done
        first += len(done.outputs)


def _run_at_once(
    fn: Callable[..., Any],
    batch: RowBatch,
    seconds: float,
    at_once: int,
    loop: EventLoopThread,
    capturing: Capture | None,
) -> Generator[SliceResult, None, None]:
    """Run several rows at a time; they go on while the caller has the turn."""
    with _watching(capturing) as (inside, watch):
        columns, keywords, length = batch.columns, batch.keyword_columns, batch.length
        with closing(run_concurrently(fn, columns, keywords, length, seconds, at_once, loop, watch)) as slices:
            while (done := inside(next, slices, None)) is not None:
                yield done


@contextmanager
def _watching(capturing: Capture | None) -> Generator[tuple[Callable[..., Any], Capture | None], None, None]:
    """Give what to call by, and what captures there: nothing while another slice of this process has its output captured.

    What is printed then counts as that one's, if it runs within one of its packets, else as nobody's.
    """
    if capturing is not None and _Output.lock.acquire(blocking=False):
        _Output.owner = threading.get_ident()
        try:
            yield _directly, capturing
        finally:
            _Output.owner = None
            _Output.lock.release()
        return
    if threading.get_ident() == _Output.owner or _Output.packets.context.get() is not None:
        yield _directly, None
        return
    context = copy_context()
    context.run(_Output.packets.context.set, ASIDE)
    yield context.run, None


def _directly(call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)
