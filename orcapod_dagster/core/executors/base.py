"""The executor contract: where and how a callable runs; never part of an identity.

An executor is told, never asked: it receives a callable and rows, and knows nothing of Dagster, Delta
or hashes. Assets use the batch form, `run_rows`; `execute_callable` is one call for one packet.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self, runtime_checkable

from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.event_loop import call_in_thread
from orcapod_dagster.core.executors.slices import SliceFailure
from orcapod_dagster.core.types import Schema


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows that go to an executor, column by column.

    Attributes:
        columns: one list per positional parameter of the callable, in the callable's order; all of equal length.
        keyword_columns: one list per keyword-only parameter.
        start: position of the first row in the stream of all rows sent; results refer to it.
        not_before: when its first row may begin, by `time.monotonic()` of this process; an executor that does not look at it
            gets the batch only then.
    """

    columns: tuple[Sequence[Any], ...]
    keyword_columns: Mapping[str, Sequence[Any]]
    start: int
    length: int
    not_before: float = 0.0

    def part(self, first: int, end: int, *, not_before: float) -> RowBatch:
        """Return the rows `first … end`, counted from the first of these, `end` exclusive, to begin at another time."""
        span = slice(first, end)
        keywords = {name: column[span] for name, column in self.keyword_columns.items()}
        columns = tuple(column[span] for column in self.columns)
        return RowBatch(columns, keywords, self.start + first, end - first, not_before)


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One row whose call raised.

    Attributes:
        row: position in the stream of all rows sent.
        error: the user's exception, unchanged where it can be pickled, else a stand-in of the same text.
        error_type: qualified name of its class. traceback: formatted, as text.
        skipped: whether it was `SkipPacket`, i.e. skipped on purpose.
        kinds: names of its class and of all that it is derived from, as `slices.kinds_of` gives them; left out, those of `error`.
    """

    row: int
    error: BaseException
    error_type: str
    message: str
    traceback: str
    duration: float
    skipped: bool = False
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Results of a run of consecutive rows `start .. start + length`.

    Attributes:
        start, length: the rows covered; every one is in `outputs` or in `failures`.
        outputs: one return value per row; `None` stands at failed rows.
        durations: seconds per row, of the user's function alone.
        failures: rows that raised, in row order.
        execution_data: the executor's data of the task that ran these rows (as `get_executor_data`, more keys allowed).
        logs: what these rows printed and logged, in row order; their `row` is a position in the stream of all rows sent.
    """

    start: int
    length: int
    outputs: list[Any]
    durations: list[float]
    failures: tuple[RowFailure, ...] = ()
    execution_data: Mapping[str, Any] = field(default_factory=dict)
    logs: tuple[LogEntry, ...] = ()

    def part(self, first: int, end: int) -> BatchResult:
        """Return the rows `first … end`, counted from the first of these, `end` exclusive."""
        failures = tuple(f for f in self.failures if first <= f.row - self.start < end)
        outputs, durations = self.outputs[first:end], self.durations[first:end]
        logs = tuple(entry for entry in self.logs if first <= entry.row - self.start < end)
        return BatchResult(self.start + first, end - first, outputs, durations, failures, self.execution_data, logs)


HONOURED: Final = frozenset({"time_limit", "batch_size", "state"})
"""Options of `CallOptions` without which a function that needs them is called wrongly, or without end."""

NOTHING_YET: Final = BatchResult(0, 0, [], [])
"""A result of no rows: nothing has finished for a while, and the caller has its turn, e.g. to store what it has."""


@runtime_checkable
class PacketFunctionExecutorProtocol(Protocol):
    """What every executor says of itself."""

    @property
    def executor_type_id(self) -> str:
        """Name of the kind of executor, as stored in `__pf_exec_executor_type`."""
        ...

    @property
    def supports_concurrent_execution(self) -> bool:
        """Whether rows may run at the same time."""
        ...

    def supported_function_type_ids(self) -> frozenset[str]:
        """Return the function types it runs; empty means all."""
        ...

    def supports(self, type_id: str) -> bool:
        """Tell whether it runs functions of a type."""
        ...

    def with_options(self, **opts: Any) -> Self:
        """Return a new executor with other options; this one stays as it is."""
        ...


@runtime_checkable
class PythonFunctionExecutorProtocol(PacketFunctionExecutorProtocol, Protocol):
    """Runs Python callables: one packet at a time, and many rows per task."""

    def execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """Call `fn(**kwargs)` and return its value; its exception is raised unchanged."""
        ...

    async def async_execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """As `execute_callable`, without blocking the running event loop."""
        ...

    def get_executor_data(self) -> dict[str, Any]:
        """Return `executor_type` and whatever else says how rows ran; no secret."""
        ...

    def get_executor_data_schema(self) -> Schema:
        """Return names and Python types of `get_executor_data`."""
        ...

    def run_rows(
        self,
        fn: Callable[..., Any],
        batches: Iterable[RowBatch],
        *,
        executor_options: Mapping[str, Any] | None = None,
        call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
    ) -> Iterator[BatchResult]:
        """Run rows; see `PythonFunctionExecutorBase.run_rows`."""
        ...


class PythonFunctionExecutorBase(ABC):
    """Base class of executors; subclass it to bring your own, with `run_rows` and what it says of itself."""

    executor_type_id: str = ""
    supports_concurrent_execution: bool = False
    waits_for_batches: bool = False
    """Whether `run_rows` looks at `RowBatch.not_before`, and collects finished rows while no other may begin."""
    honours: frozenset[str] = frozenset()
    """Which of `HONOURED` its `run_rows` does as `CallOptions` says; assets that need another are refused, instead of run otherwise."""

    def supported_function_type_ids(self) -> frozenset[str]:
        """Return the function types it runs: Python functions."""
        return frozenset({"python.function.v0"})

    def supports(self, type_id: str) -> bool:
        """Tell whether it runs functions of a type; no supported types at all means every type."""
        supported = self.supported_function_type_ids()
        return not supported or type_id in supported

    def with_options(self, **opts: Any) -> Self:
        """Return a new executor; one without options takes none.

        Raises:
            TypeError: the executor has no such option.
        """
        if opts:
            raise TypeError(f"executor {self.executor_type_id!r} has no options; got {sorted(opts)}. Leave them out.")
        return type(self)()

    def concurrency(self, executor_options: Mapping[str, Any] | None = None) -> int | None:
        """Return how many rows run at a time, at most, with these options; `None` where nobody can tell."""
        return None if self.supports_concurrent_execution else 1

    def execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """Call `fn(**kwargs)` where this executor runs things; the user's exception is raised unchanged.

        By default one row of `run_rows`.
        """
        return run_one(self, fn, kwargs, executor_options)

    async def async_execute_callable(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        executor_options: Mapping[str, Any] | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Any:
        """As `execute_callable`, without blocking the running event loop: by default it is waited for in a thread."""
        return await call_in_thread(lambda: self.execute_callable(fn, kwargs, executor_options, logger=logger))

    @abstractmethod
    def get_executor_data(self) -> dict[str, Any]:
        """Return a fresh dict with `executor_type` and whatever else says how rows ran; no secret."""

    @abstractmethod
    def get_executor_data_schema(self) -> Schema:
        """Return names and Python types of `get_executor_data`."""

    @abstractmethod
    def run_rows(
        self,
        fn: Callable[..., Any],
        batches: Iterable[RowBatch],
        *,
        executor_options: Mapping[str, Any] | None = None,
        call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
    ) -> Iterator[BatchResult]:
        """Run many rows.

        Note to implementers: take `batches` as you need them, never all at once. Yield each finished run of consecutive
        rows soon, so that the caller can make it durable: at most about `call_options.slice_seconds` of work, at least one row. Runs
        may come in any order; together they cover every row once. A row that raises is a `RowFailure` and stops no other.
        Without `waits_for_batches`, taking a batch may last until its rows may begin.
        With `call_options.turn_seconds`, yield `NOTHING_YET` where nothing finishes for so long, if you can.
        Call `call_options.under_way` with the number of rows that workers have, when it changes, if you know it.
        Say in `honours` which of `HONOURED` are kept; `max_concurrency` is an upper bound, so one row at a time keeps it.
        Where an interrupt ends the run, call `call_options.leaving` before you wait for workers to end, if any wait is needed.
        When the caller closes the generator, cancel what still runs. With `call_options.capture`, keep at most so many bytes of what each
        row writes to stdout, to stderr, and logs, and yield them as `BatchResult.logs`; show them where this process shows
        its own, too. `capture.Capture` does it for `run_slice`.

        Raises:
            ExecutorError: rows could not be run for a reason that is not the function's.
        """


def run_one(
    executor: PythonFunctionExecutorProtocol,
    fn: Callable[..., Any],
    kwargs: Mapping[str, Any],
    executor_options: Mapping[str, Any] | None = None,
    call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
) -> Any:
    """Call `fn(**kwargs)` as one row of `run_rows`, and return its value; its exception is raised unchanged."""
    batch = RowBatch((), {name: [value] for name, value in kwargs.items()}, 0, 1)
    (result,) = executor.run_rows(fn, [batch], executor_options=executor_options, call_options=call_options)
    for failure in result.failures:
        raise failure.error
    return result.outputs[0]


def nothing_until(moment: float, turn_seconds: float) -> Iterator[BatchResult]:
    """Wait until a moment of `time.monotonic()`; with `turn_seconds`, the caller has turns meanwhile."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, turn_seconds or left))
        if turn_seconds:
            yield NOTHING_YET


def row_logs(logs: Iterable[Sequence[Any]], start: int) -> tuple[LogEntry, ...]:
    """Bring what the rows of a slice that began at row `start` printed and logged to positions in the stream."""
    return tuple(LogEntry(start + row, *rest) for row, *rest in logs)


def row_failures(failures: Iterable[SliceFailure], start: int) -> tuple[RowFailure, ...]:
    """Bring the failures of a slice that began at row `start` to positions in the stream."""
    return tuple(
        RowFailure(start + f.row, f.error, f.error_type, f.message, f.traceback, f.duration, f.skipped, f.kinds)
        for f in failures
    )
