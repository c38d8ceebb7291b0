"""FunctionPod: a stream of packets through cache and executor, results first and durable chunk by chunk.

plan      hash the consumed columns, find hits, misses and the reason of each
compute   run the misses in rounds, store results; what is finished waits for that at most `waiting.FLUSH_SECONDS`
assemble  the stream's rows with their results beside them, streamed from what is stored
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.calling import Caller
from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.counting import Counting
from orcapod_dagster.core.errors import OrcapodError, StorageError
from orcapod_dagster.core.execution_data import check_executor, check_honours
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.files import FileMemory, FileReader
from orcapod_dagster.core.identity import Environment
from orcapod_dagster.core.interrupts import termination_put_off
from orcapod_dagster.core.matching import MatchPolicy
from orcapod_dagster.core.outcomes import KEPT_FAILURES, Outcome, OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_logs import PacketLogs
from orcapod_dagster.core.plan_log import PlanLog
from orcapod_dagster.core.planning import Hashed, Plan, Planner, positions
from orcapod_dagster.core.progress import Progress
from orcapod_dagster.core.rate_limit import RateLimit
from orcapod_dagster.core.recording import PodReport, Recorder
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.settling import Chunk
from orcapod_dagster.core.snapshots import Snapshot
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.core.waiting import Waiting


class FunctionPod:
    """Runs one packet function over streams.

    Args:
        function: the packet function.
        cache: its results.
        outcomes: its failures and skips.
        executor: where it runs; default the function's own.
        match: which stored result counts as the same computation.
        executor_options: for the executor, as they are.
        extra_info: stored with each result.
        blobs: the large values of the lake; without it, they lie in the records themselves.
        logs: what its packets print and log; without it, that is not captured.
        failures: what becomes of packets that fail.
        plans: where it says what it sets out to do, before it computes.
        time_limit: seconds that one packet may take; without it, as long as it likes.
        rate_limit: how many packets begin per second at most; without it, as many as can.
        max_concurrency: how many packets of an async function are under way at a time in a process; default as the function says.

    Raises:
        TypeError: the executor does not support the function, or what it needs.
    """

    def __init__(
        self,
        function: PythonPacketFunction,
        cache: ResultCache,
        outcomes: OutcomeLog,
        *,
        executor: PythonFunctionExecutorProtocol | None = None,
        match: MatchPolicy = "content",
        executor_options: Mapping[str, Any] | None = None,
        extra_info: Mapping[str, str] | None = None,
        blobs: BlobStore | None = None,
        logs: PacketLogs | None = None,
        failures: FailurePolicy = FailurePolicy(),  # noqa: B008  # immutable
        plans: PlanLog | None = None,
        time_limit: float | None = None,
        rate_limit: RateLimit | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        chosen = check_executor(executor or function.executor, function.packet_function_type_id, repr(function))
        if chosen is None:
            raise OrcapodError(f"{function!r} has no executor. Give one.")
        self.function = function
        self.cache = cache
        self.outcomes = outcomes
        self.executor: PythonFunctionExecutorProtocol = chosen
        self.extra_info = dict(extra_info or {})
        self._owner = f"function {function.canonical_function_name!r}"
        files = None
        if function.file_columns:
            files = FileReader(function.input_packet_schema, self._owner, FileMemory(cache.database))
        self.planner = Planner(function, cache, outcomes, match, failures, blobs, files)
        calls = CallOptions(
            capture=0 if logs is None else logs.limit,
            time_limit=time_limit,
            max_concurrency=function.max_concurrency if max_concurrency is None else max_concurrency,
            batch_size=function.batch_size,
        )
        state = function.worker_state or function.resources
        needs = {"time_limit": time_limit is not None, "batch_size": function.batch_size, "state": state}
        check_honours(chosen, (name for name, is_needed in needs.items() if is_needed), self._owner)
        self._caller = Caller(function, chosen, executor_options or {}, calls, failures, rate_limit, blobs, files)
        self._recorder = Recorder(
            function, cache, outcomes, self.codes, lambda: self.environment, logs, plans, chosen, self.extra_info
        )

    @property
    def match(self) -> MatchPolicy:
        """Which stored result counts as the same computation."""
        return self.planner.match

    @property
    def codes(self) -> CodeStore:
        """What the code was that made results."""
        return self.planner.codes

    @property
    def counting(self) -> Counting:
        """Which stored results count."""
        return self.planner.counting

    @property
    def environment(self) -> Environment:
        """The Python and the distributions that the function's code refers to."""
        return self.planner.environment

    @property
    def concurrency(self) -> int | None:
        """How many packets run at a time, at most; None where the executor does not tell."""
        return self._caller.concurrency

    def hash(self, stream: PacketStream) -> Hashed:
        """Hash the consumed columns of every row; see `Planner.hash`."""
        return self.planner.hash(stream)

    def plan(
        self, stream: PacketStream, hashed: Hashed | None = None, *, force: bool = False, limit: int | None = None
    ) -> Plan:
        """Say which packets must be computed, and why; see `Planner.plan`."""
        return self.planner.plan(stream, hashed, force=force, limit=limit)

    def compute(self, plan: Plan, progress: Progress | None = None) -> PodReport:
        """Run what the plan says and store every result.

        Args:
            plan: of this pod, made just now.
            progress: counts the packets as they finish.

        Returns:
            The final counts. Failures of packets do not raise here; everything else does, with all finished work stored.

        Raises:
            TooManyFailuresError: the run stopped, as `max_failures` says, or because the first packets all failed alike.
        """
        with termination_put_off():
            return self._compute(plan, progress or Progress(len(plan.to_compute)))

    def _compute(self, plan: Plan, progress: Progress) -> PodReport:
        began = time.monotonic()
        report = PodReport(len(plan.hashes), len(plan.to_compute), reasons=plan.reasons.counts())
        report.skipped, report.failed = len(plan.skipped), len(plan.failed)
        report.before = report.skipped + report.failed
        report.failures.extend(self._standing_failures(plan, plan.failed.slice(0, KEPT_FAILURES)))
        self._recorder.begin(plan, report)
        waiting = Waiting(self._caller.meter)

        def store_waiting() -> None:
            report.tried_again = rounds.tried_again
            if left := waiting.take():
                self._recorder.store(plan, left, report)

        rounds = self._caller.rounds(plan, progress, limited=True, leaving=store_waiting)
        with closing(rounds.chunks(plan.to_compute)) as chunks:
            try:
                for chunk in chunks:
                    if chunk is not None:
                        progress.add(len(chunk.rows), *chunk.without_result)
                    progress.tried_again = report.tried_again = rounds.tried_again
                    if waiting.add(chunk):
                        self._recorder.store(plan, waiting.take(), report)
                        report.seconds = time.monotonic() - began
            finally:
                # Whatever ended the run, what is finished is stored, and before workers are ended, for that may take its time; what
                # could not be stored just now is no longer there.
                store_waiting()
        if report.computed:
            self.cache.compact()
        report.seconds = time.monotonic() - began
        return report

    def run(self, plan: Plan) -> Iterator[Chunk]:
        """Run what the plan says, and yield finished work in whatever order; nothing is stored but large values."""
        rounds = self._caller.rounds(plan, Progress(len(plan.to_compute)), limited=False)
        with closing(rounds.chunks(plan.to_compute)) as chunks:
            yield from (chunk for chunk in chunks if chunk is not None)

    def arguments(self, stream: PacketStream) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
        """Return the function's arguments for the one row of a stream; see `Caller.arguments`."""
        return self._caller.arguments(stream)

    def context_row(self, plan: Plan, executor_data: Mapping[str, Any]) -> pa.RecordBatch:
        """Return variation and execution context as results of this pod would have them; see `Recorder.context_row`."""
        return self._recorder.context_row(plan, executor_data)

    def _standing_failures(self, plan: Plan, rows: pa.Array) -> list[Outcome]:
        found = self.outcomes.stored_failures(self.planner.constraints(plan.variation), plan.hashes.take(rows))
        return [replace(one, row=row) for row, one in zip(rows.to_pylist(), found, strict=True) if one is not None]

    def assemble(self, plan: Plan, report: PodReport) -> tuple[PacketStream, Snapshot | None, pa.Array]:
        """Find the newest matching result of every row, and count the rows, where `compute` counted packets.

        Returns:
            The stream narrowed to rows with a result, the results, and per row the position of its result in them.

        Raises:
            StorageError: a result that was found by the plan, or stored by this run, is gone, or its large value.
        """
        snapshot, found = plan.snapshot, plan.found
        if len(plan.to_compute) or snapshot is None:
            snapshot = self.cache.snapshot(self.planner.constraints(plan.variation), plan.hashes)
            found = pa.nulls(len(found), pa.int64())
            if snapshot is not None:
                found = self.planner.with_values(snapshot, snapshot.find(plan.hashes))
        self._refuse_lost(plan, report, found)
        self._count_rows(plan, report, found)
        report.accepted = self._count_accepted(plan, snapshot, found)
        if snapshot is None:
            return plan.stream.narrow(pa.array([], pa.int64())), None, pa.array([], pa.int64())
        if found.null_count:
            rows = positions(found.is_valid())
            return plan.stream.narrow(rows), snapshot, found.filter(found.is_valid())
        return plan.stream, snapshot, found

    def _count_accepted(self, plan: Plan, snapshot: Snapshot | None, found: pa.Array) -> dict[str, int]:
        """Count the rows with results of other versions of the code; reads nothing where only one version counts."""
        own = plan.variation["function_content_hash"]
        if snapshot is None or self.match in ("version", "signature") or len(self.counting.contents(own)) == 1:
            return {}
        made = snapshot.source.take(found.drop_null(), [names.CONTENT_HASH])[names.CONTENT_HASH]
        return {one["values"]: one["counts"] for one in pc.value_counts(made).to_pylist() if one["values"] != own}

    def _refuse_lost(self, plan: Plan, report: PodReport, found: pa.Array) -> None:
        """Refuse to leave rows out that must have a result: the hits of the plan, and what this run computed."""
        if not found.null_count:
            return
        without = pa.concat_arrays([pa.array([], pa.int64()), *report.unsettled])
        computed = plan.to_compute.filter(pc.invert(pc.is_in(plan.to_compute, value_set=without)))
        stored = pc.is_in(plan.hashes, value_set=plan.hashes.take(computed))
        lost = positions(pc.and_(found.is_null(), pc.or_(plan.found.is_valid(), stored)))
        if len(lost):
            raise StorageError(
                f"{self._owner}: the results of {len(lost):,} rows (the first is row {lost[0].as_py()} of the input) were stored "
                f"in {'/'.join(self.cache.record_path)} and are gone, or their large values: something removed them while this run was going on. "
                "Nothing was written from them. Run again: what is missing is computed again."
            )

    def _count_rows(self, plan: Plan, report: PodReport, found: pa.Array) -> None:
        """Count rows without a result as failed or skipped, and those whose packets this run called without getting one.

        Rows of equal packets share one outcome. A packet that failed though an earlier run had its result, as `force` may do, has
        failed: the row keeps that result, and whoever asked for a new one is told that there is none.
        """
        called = plan.hashes.take(pa.concat_arrays([pa.array([], pa.int64()), *report.unsettled]))
        without = found.is_null()
        if len(called):
            without = pc.or_(without, pc.is_in(plan.hashes, value_set=called))
        left = plan.hashes.filter(without)
        report.cached = max(0, len(found) - len(left) - report.computed)
        if not len(left) or not (report.failed or report.skipped):
            return
        now = self.planner.earlier_outcomes(self.planner.constraints(plan.variation), left, plan.variation)
        report.failed = pc.sum(pc.is_in(left, value_set=now.failed)).as_py() or 0
        report.skipped = pc.sum(pc.is_in(left, value_set=now.skipped)).as_py() or 0
