"""Caller: the packets of a plan through the executor, in rounds; what comes back is settled, and nothing of it stored but large values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc, size_of
from orcapod_dagster.core.attempts import Rounds, Turns
from orcapod_dagster.core.blobs.keeper import Keeper
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.failure_limit import FailureLimit
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.files import FileReader, PathsInFlight
from orcapod_dagster.core.infrastructure import InfrastructureError
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.planning import Plan, bind, consumed
from orcapod_dagster.core.progress import Progress
from orcapod_dagster.core.rate_limit import Meter, RateLimit
from orcapod_dagster.core.reasons import EARLIER_FAILURE
from orcapod_dagster.core.settling import Settler
from orcapod_dagster.core.streams import PacketStream

_BATCH_ROWS: Final = 16_384
_BATCH_BYTES: Final = 64 * 1024 * 1024
_TURN_SECONDS: Final = 1.0


class Caller:
    """Calls one packet function on one executor.

    Args:
        function, executor, executor_options: what runs, and where.
        calls: how; what a run adds, it adds itself.
        failures: what becomes of packets that fail.
        rate_limit: how many packets begin per second at most.
        blobs, files: the large values of the lake; what tells whether a file changed.
    """

    def __init__(
        self,
        function: PythonPacketFunction,
        executor: PythonFunctionExecutorProtocol,
        executor_options: Mapping[str, Any],
        calls: CallOptions,
        failures: FailurePolicy,
        rate_limit: RateLimit | None,
        blobs: BlobStore | None,
        files: FileReader | None,
    ) -> None:
        self.meter = None if rate_limit is None else Meter(rate_limit)
        self._function = function
        self._executor = executor
        self._options = dict(executor_options)
        self._calls = calls
        self._failures = failures
        self._blobs = blobs
        self._keeper = Keeper() if blobs is None else blobs.keeper
        self._files = files
        self._owner = f"function {function.canonical_function_name!r}"

    @property
    def concurrency(self) -> int | None:
        """How many packets run at a time, at most; None where the executor does not tell."""
        tell = getattr(self._executor, "concurrency", None)
        processes = None if tell is None else tell(self._options or None)
        return None if processes is None else processes * self._calls.max_concurrency

    def rounds(
        self, plan: Plan, progress: Progress, *, limited: bool, leaving: Callable[[], None] | None = None
    ) -> Rounds:
        """Return the rounds in which the packets of a plan are called; with `limited`, too many failures stop them.

        `leaving` is called where an interrupt ends them, before workers are ended.
        """
        limit = self._failure_limit(plan) if limited else None
        calls = self._calls if leaving is None else replace(self._calls, leaving=leaving)
        return Rounds(functools.partial(self._round, plan, progress, calls), self._failures.retry, limit)

    def _failure_limit(self, plan: Plan) -> FailureLimit:
        expected = frozenset[int]()
        if plan.found.null_count < len(plan.found):
            failed_before = pc.starts_with(plan.reasons.texts, EARLIER_FAILURE)
            expected = frozenset(plan.to_compute.filter(failed_before).to_pylist())
        return FailureLimit(self._failures.max_failures, len(plan.to_compute), self.concurrency, self._owner, expected)

    def arguments(self, stream: PacketStream) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
        """Return the function's arguments for the one row of a stream: all by name, and as positional and keyword ones.

        Of a batch function, the latter are those of a batch of this row.
        """
        (batch,) = stream.scan(consumed(self._function, stream))
        bind_blobs = None if self._blobs is None else self._blobs.bind
        positional, keyword = self._function.argument_columns(bind(self._function, batch), bind_blobs)
        keywords = {name: column[0] for name, column in keyword.items()}
        values = [column[0] for column in positional]
        by_order = [name for name in self._function.input_packet_schema if name not in keywords]
        by_name = {**dict(zip(by_order, values, strict=True)), **keywords}
        return (by_name, list(positional), keyword) if self._function.batch_size else (by_name, values, keywords)

    def _round(self, plan: Plan, progress: Progress, calls: CallOptions, rows: pa.Array) -> Turns:
        """Call rows of a plan once each."""
        function, in_flight = self._function.keeping(self._keeper), PathsInFlight()
        settler = Settler(self._function, self._keeper)
        batches = self._row_batches(plan.stream, rows, in_flight)
        if self.meter is not None:
            batches = self.meter.metered(batches, wait=not getattr(self._executor, "waits_for_batches", False))
        calls = replace(
            calls,
            turn_seconds=_TURN_SECONDS,
            under_way=progress.workers_have,
            state=self._function.factories(),
        )
        results = self._executor.run_rows(function, batches, executor_options=self._options or None, call_options=calls)
        try:
            for result in results:
                if not result.length:
                    yield None
                    continue
                these = rows.slice(result.start, result.length)
                changed = self._changed_files(plan, these, result, in_flight)
                for chunk in settler.settled(these, result, changed):
                    finished, fault = chunk.without_faults()
                    yield finished
                    if fault is not None:
                        raise StorageError(f"{self._owner}: {fault} Everything that was finished is stored; run again.")
        except InfrastructureError as fault:  # of this process, where large values come back from workers
            raise StorageError(f"{self._owner}: {fault} Everything that was finished is stored; run again.") from fault
        finally:
            progress.workers_have(0)
            close = getattr(results, "close", None)
            if close is not None:
                close()

    def _row_batches(self, stream: PacketStream, rows: pa.Array, in_flight: PathsInFlight) -> Iterator[RowBatch]:
        """Yield rows as Python values, in stream order, at most `_BATCH_ROWS` or about `_BATCH_BYTES` at a time."""
        if len(rows) < stream.num_rows:
            stream = stream.narrow(rows)
        start = 0
        for batch in stream.scan(consumed(self._function, stream)):
            length = min(_BATCH_ROWS, max(1, _BATCH_BYTES * batch.num_rows // max(1, size_of(batch))))
            for offset in range(0, batch.num_rows, length):
                piece = batch.slice(offset, length)
                bound = bind(self._function, piece)
                if self._files is not None:
                    in_flight.send(start, {name: bound[name] for name in self._files.names})
                bind_blobs = None if self._blobs is None else self._blobs.bind
                positional, keyword = self._function.argument_columns(bound, bind_blobs)
                yield RowBatch(positional, keyword, start, piece.num_rows)
                start += piece.num_rows

    def _changed_files(
        self, plan: Plan, rows: pa.Array, result: BatchResult, in_flight: PathsInFlight
    ) -> dict[int, str]:
        """Return the packets of a result, counted from its first, whose files changed since they were hashed, and why."""
        if self._files is None or plan.looks is None:
            return {}
        return self._files.changed(in_flight.receive(result.start, result.length), plan.looks.take(rows))
