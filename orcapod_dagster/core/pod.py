"""FunctionPod: a stream of packets through cache and executor, results first and durable chunk by chunk.

plan      hash the consumed columns, find hits, misses and the reason of each
compute   run the misses in rounds, store results, at most about 5 s of finished work not yet durable
assemble  the stream's rows with their results beside them, streamed from what is stored
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, first_of_each, pc, size_of
from orcapod_dagster.core.attempts import Rounds, Turns
from orcapod_dagster.core.blobs.keeper import Keeper
from orcapod_dagster.core.blobs.presence import lost_rows, without_lost
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.code_diff import CodeChange, code_changes
from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.counting import Counting
from orcapod_dagster.core.datagrams import Datagram, new_record_ids
from orcapod_dagster.core.earlier_rows import EarlierRows
from orcapod_dagster.core.errors import OrcapodError, StorageError
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA, check_executor, flatten_execution_data
from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.failure_limit import FailureLimit
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.files import FileMemory, FileReader, Looks, PathsInFlight
from orcapod_dagster.core.hashing import HASH_TYPE, hash_rows, split_lanes
from orcapod_dagster.core.identity import Environment
from orcapod_dagster.core.infrastructure import InfrastructureError
from orcapod_dagster.core.interrupts import interrupts_deferred, termination_put_off
from orcapod_dagster.core.outcomes import DETAILS, FAILED, SKIPPED, Outcome, OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_logs import PacketLogs
from orcapod_dagster.core.plan_log import PlanLog
from orcapod_dagster.core.progress import Progress
from orcapod_dagster.core.rate_limit import Meter, RateLimit
from orcapod_dagster.core.reasons import (
    EARLIER_FAILURE,
    FORCED,
    NO_EARLIER_RESULT,
    VALUE_LOST,
    Identity,
    Reasons,
    changes,
    earlier_codes,
)
from orcapod_dagster.core.result_cache import Constraints, MatchPolicy, ResultCache, Snapshot
from orcapod_dagster.core.settling import Chunk, Settler
from orcapod_dagster.core.siblings import results_elsewhere
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.core.tag_texts import tags_as_text
from orcapod_dagster.core.waiting import Waiting

_BATCH_ROWS: Final = 16_384
_BATCH_BYTES: Final = 64 * 1024 * 1024
_KEPT_FAILURES: Final = 100
_TURN_SECONDS: Final = 1.0


class Hashed(NamedTuple):
    """Input packet hash per row, the rows that cannot be computed: row → why, and how files looked, where there are any."""

    hashes: pa.Array
    invalid: Mapping[int, str]
    looks: Looks | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do with each row of a stream.

    Attributes:
        stream: the rows.
        hashes: input packet hash per row, `fixed_size_binary[16]`.
        to_compute: rows (`int64`) to compute, one per distinct packet.
        invalid: rows with a value that its parameter does not take, or a file that cannot be read: row → why.
        skipped: rows that the function skipped in an earlier run.
        failed: rows that failed in an earlier run and are not tried again.
        reasons: why, for each of them.
        recomputed: seconds that the result of each took, as recorded, where there is one that does not count any more; a
            `float64` per packet to compute, null for the others.
        variation: what the function is, as of now.
        snapshot, found: the results as of the plan, and the position of each row's result in them, null without.
        looks: how each row's files looked when they were hashed; None for a function without files.
    """

    stream: PacketStream
    hashes: pa.Array
    to_compute: pa.Array
    invalid: Mapping[int, str]
    skipped: pa.Array
    failed: pa.Array
    reasons: Reasons
    recomputed: pa.Array
    variation: Mapping[str, str]
    snapshot: Snapshot | None
    found: pa.Array
    looks: Looks | None = None


@dataclass(slots=True)
class PodReport:
    """Counts of a run; grows while it runs.

    Attributes:
        total: rows of the stream. cached: rows whose result was there before. computed: packets computed now.
        failed, skipped: rows without a result. before: those of them that an earlier run left so, and this one did not call.
        to_compute: packets that this run computes.
        failures: the first failures, with their rows. seconds: since the run began.
        tried_again: further attempts of packets that had failed in this run.
        unsettled: rows that were computed without a result, in arrays of `int64`.
        accepted: content hash of another version of the code → rows with a result of it; known once the table is assembled.
        lost_logs: entries of the log table that could not be written. lost_logs_reason: of the first of them.
        lost_plan: why the plan could not be stored, so that nobody can ask for the state of each packet; empty where it is.
    """

    total: int
    to_compute: int
    cached: int = 0
    computed: int = 0
    failed: int = 0
    skipped: int = 0
    before: int = 0
    tried_again: int = 0
    seconds: float = 0.0
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    failures: list[Outcome] = field(default_factory=list[Outcome])
    unsettled: list[pa.Array] = field(default_factory=list[pa.Array])
    accepted: Mapping[str, int] = field(default_factory=dict[str, int])
    lost_logs: int = 0
    lost_logs_reason: str = ""
    lost_plan: str = ""

    @property
    def done(self) -> int:
        """Packets that this run has finished, well or not."""
        return self.computed + self.failed + self.skipped - self.before


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
        TypeError: the executor does not support the function.
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
        self.match: MatchPolicy = match
        self.max_concurrency = function.max_concurrency if max_concurrency is None else max_concurrency
        self._options = dict(executor_options or {})
        self.extra_info = dict(extra_info or {})
        self._logs = logs
        self.failures = failures
        self._plans = plans
        self._time_limit = time_limit
        self._meter = None if rate_limit is None else Meter(rate_limit)
        self._blobs = blobs
        self._keeper = Keeper() if blobs is None else blobs.keeper
        self.codes = CodeStore(cache.database)
        self.counting = Counting(function, cache, outcomes, match)
        self.earlier_rows: EarlierRows | None = None
        """The rows of the asset's table, where there is one: a plan says by them whether a packet is new."""
        self._contexts: dict[str, Context] = {}
        self._owner = f"function {function.canonical_function_name!r}"
        self._files: FileReader | None = None
        if function.file_columns:
            self._files = FileReader(function.input_packet_schema, self._owner, FileMemory(cache.database))

    # ------------------------------------------------------------------ plan

    def plan(
        self, stream: PacketStream, hashed: Hashed | None = None, *, force: bool = False, limit: int | None = None
    ) -> Plan:
        """Hash every row and say which packets must be computed, and why; runs no user code.

        Args:
            stream: the input.
            hashed: what `hash` gave for it; hashed here by default.
            force: compute everything, also what is stored.
            limit: compute at most so many packets, the first ones.

        Raises:
            InputError: a column is missing or of a type that does not fit.
        """
        hashes, invalid, looks = hashed or self.hash(stream)
        self.counting.refresh()
        variation = self.function.get_function_variation_data()
        constraints = self._constraints(variation)
        found = pa.nulls(len(hashes), pa.int64())
        snapshot: Snapshot | None = None
        lost = pa.array([], HASH_TYPE)
        if not force and (snapshot := self.cache.snapshot(constraints, hashes)) is not None:
            stored = snapshot.find(hashes)
            found = self._with_values(snapshot, stored)
            if found.null_count > stored.null_count:
                lost = hashes.filter(pc.and_(found.is_null(), stored.is_valid()))
        wanted = found.is_null()
        if invalid:
            wanted = pc.and_(
                wanted, pc.invert(pc.is_in(count_up(len(hashes)), value_set=pa.array(list(invalid), pa.int64())))
            )
        before = self._earlier_outcomes(constraints, hashes, variation)
        skipped = failed = pa.array([], pa.int64())
        if not force:
            wanted, skipped = _split(wanted, hashes, before.skipped)
            wanted, failed = _split(wanted, hashes, before.standing)
        rows = _first_of_each(_positions(wanted), hashes)
        if limit is not None:
            rows = rows.slice(0, limit)
        misses = hashes.take(rows)
        if force:
            reasons, recomputed = Reasons.all_alike(FORCED, len(rows)), pa.nulls(len(rows), pa.float64())
        else:
            reasons, recomputed = self._reasons(misses, before.failed, lost, snapshot, variation)
            reasons, recomputed = self._look_elsewhere(stream.narrow(rows), misses, reasons, recomputed)
        return Plan(
            stream, hashes, rows, invalid, skipped, failed, reasons, recomputed, variation, snapshot, found, looks
        )

    @property
    def concurrency(self) -> int | None:
        """How many packets run at a time, at most; None where the executor does not tell."""
        tell = getattr(self.executor, "concurrency", None)
        processes = None if tell is None else tell(self._options or None)
        return None if processes is None else processes * self.max_concurrency

    @functools.cached_property
    def environment(self) -> Environment:
        """The Python and the distributions that the function's code refers to."""
        return self.function.get_environment()

    def _constraints(self, variation: Mapping[str, str]) -> Constraints:
        return self.counting.constraints(variation, self._environment_asked())

    def _environment_asked(self) -> str:
        # Which distributions are installed is asked only where it counts, for it takes time.
        return self.environment.environment_hash if self.match == "environment" else ""

    def _with_values(self, snapshot: Snapshot, found: pa.Array) -> pa.Array:
        """Return the positions of results, null where a result has lost a large value."""
        columns = self.function.blob_outputs
        if self._blobs is None or not columns:
            return found
        return without_lost(found, snapshot.source, columns, self._blobs)

    def lost_values(self, source: TableSource) -> bool:
        """Tell whether a table of this function's outputs names a large value that is not there."""
        columns = self.function.blob_outputs
        return self._blobs is not None and bool(columns) and len(lost_rows(source, columns, self._blobs)) > 0

    def identity(self) -> str:
        """Return a text that says which stored results count; `counting.covers` compares two."""
        return self.counting.identity(self.function.get_function_variation_data(), self._environment_asked())

    def hash(self, stream: PacketStream) -> Hashed:
        """Hash the consumed columns of every row, files by their content, and find the rows that cannot be computed."""
        hashed: list[pa.Array] = []
        looks: list[Looks] = []
        invalid: dict[int, str] = {}
        start = 0
        for batch in stream.scan(self._consumed(stream)):
            counted: Mapping[str, pa.Array] = self._bind(batch)
            found = self.function.refused_rows(counted)
            if self._files is not None:
                counted, look, unreadable = self._files.contents(counted)
                looks.append(look)
                found = {**unreadable, **found}
            invalid |= {start + row: why for row, why in found.items()}
            hashed.append(hash_rows(counted))
            start += batch.num_rows
        if self._files is not None:
            self._files.flush()
        hashes = pa.concat_arrays(hashed) if hashed else pa.array([], HASH_TYPE)
        return Hashed(hashes, invalid, None if self._files is None else Looks.concat(looks))

    def _consumed(self, stream: PacketStream) -> list[str]:
        available = set(stream.schema().names)
        return [name for name in self.function.input_packet_schema if name in available]

    def _bind(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        return self.function.bind_columns(columns, batch.num_rows)

    def _earlier_outcomes(self, constraints: Constraints, hashes: pa.Array, variation: Mapping[str, str]) -> _Before:
        details = () if self.failures.retry_failed == "all" else DETAILS
        found = self.outcomes.latest(constraints, hashes, details)
        failed, skipped = (found.filter(pc.equal(found["state"], state)) for state in (FAILED, SKIPPED))
        keys = one_array(failed[names.INPUT_HASH]).cast(HASH_TYPE)
        standing = keys.slice(0, 0)
        if details and len(keys):
            # Whatever the match policy asks of results: a function that was mended is to be tried.
            contents = self.counting.contents(variation["function_content_hash"])
            standing = keys.filter(self.failures.stands(failed, contents))
        return _Before(keys, standing, one_array(skipped[names.INPUT_HASH]).cast(HASH_TYPE))

    def _reasons(
        self,
        misses: pa.Array,
        failed_before: pa.Array,
        lost: pa.Array,
        snapshot: Snapshot | None,
        variation: Mapping[str, str],
    ) -> tuple[Reasons, pa.Array]:
        """Say why each packet is computed, and how long the results took, as recorded, that do not count any more."""
        reasons = Reasons.all_alike(NO_EARLIER_RESULT, len(misses))
        took = pa.nulls(len(misses), pa.float64())
        if not len(misses):
            return reasons, took
        if snapshot is not None:
            known = pc.and_not(pc.is_in(misses, value_set=snapshot.all_keys), pc.is_in(misses, value_set=lost))
            if pc.any(known).as_py():
                earlier = self.cache.newest(misses.filter(known), snapshot.source)
                texts = changes(earlier, self._identity(variation), self.codes)
                reasons = reasons.where(known, texts)
                took = one_array(pc.replace_with_mask(took, known, one_array(earlier[names.DURATION])))
                reasons = reasons.with_codes(earlier_codes(earlier, self._identity(variation)))
        reasons = reasons.where(pc.is_in(misses, value_set=lost), VALUE_LOST)
        failed = pc.is_in(misses, value_set=failed_before)
        return reasons.where(failed, EARLIER_FAILURE), one_array(pc.if_else(failed, None, took))

    def _look_elsewhere(
        self, stream: PacketStream, misses: pa.Array, reasons: Reasons, took: pa.Array
    ) -> tuple[Reasons, pa.Array]:
        """Say more of packets without an earlier result: results of another version, rows that the asset's table knows.

        Args:
            stream, misses: the rows of all packets to compute, and their input hashes.
            reasons, took: as `_reasons` gave them.
        """
        new = pc.equal(reasons.texts, NO_EARLIER_RESULT)
        if not pc.any(new).as_py():
            return reasons, took
        hashes = misses.filter(new)
        elsewhere = results_elsewhere(
            self.cache.database, self.cache.record_path, hashes, self.function.output_arrow_schema
        )
        texts, durations = elsewhere
        if self.earlier_rows is not None and texts.null_count:
            left = one_array(texts.is_null())
            rows = _positions(new).filter(left)
            explained = self.earlier_rows.explain(stream.narrow(rows), hashes.filter(left), self.function)
            texts = one_array(pc.replace_with_mask(texts, left, explained.texts))
            durations = one_array(pc.replace_with_mask(durations, left, explained.durations))
            reasons = reasons.with_codes(explained.codes)
        reasons = reasons.where(new, one_array(pc.fill_null(texts, NO_EARLIER_RESULT)))
        return reasons, one_array(pc.replace_with_mask(took, new, durations))

    def code_changes(self, plan: Plan) -> list[CodeChange]:
        """Return what changed in the code since results were made that do not count for it any more."""
        earlier = plan.reasons.earlier_codes
        return code_changes(earlier, self.function.get_function_code(), self.codes) if earlier else []

    def _identity(self, variation: Mapping[str, str]) -> Identity:
        return Identity(self.match, variation, self.function.get_function_code(), self.environment)

    # ------------------------------------------------------------------ compute

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
        report.failures.extend(self._standing_failures(plan, plan.failed.slice(0, _KEPT_FAILURES)))
        if len(plan.to_compute) or plan.invalid:
            # Before the first result that it made: what is kept of code may be more than what made results, never less.
            self._remember(plan)
            self._store_plan(plan, report)
        self._store_invalid(plan, report)
        waiting, rounds = Waiting(self._meter), self._rounds(plan, progress, self._failure_limit(plan))
        try:
            with closing(rounds.chunks(plan.to_compute)) as chunks:
                for chunk in chunks:
                    if chunk is not None:
                        progress.add(len(chunk.rows), *chunk.without_result)
                    progress.tried_again = report.tried_again = rounds.tried_again
                    if waiting.add(chunk):
                        self._flush(plan, waiting.take(), report)
                        report.seconds = time.monotonic() - began
        finally:
            # Whatever ended the run, what is finished is stored; what could not be stored just now is no longer there.
            report.tried_again = rounds.tried_again
            if left := waiting.take():
                self._flush(plan, left, report)
        if report.computed:
            self.cache.compact()
        report.seconds = time.monotonic() - began
        return report

    def _failure_limit(self, plan: Plan) -> FailureLimit:
        expected = frozenset[int]()
        if plan.found.null_count < len(plan.found):
            failed_before = pc.starts_with(plan.reasons.texts, EARLIER_FAILURE)
            expected = frozenset(plan.to_compute.filter(failed_before).to_pylist())
        return FailureLimit(self.failures.max_failures, len(plan.to_compute), self.concurrency, self._owner, expected)

    def _remember(self, plan: Plan) -> None:
        variation = plan.variation
        code = self.function.get_function_code()
        self.codes.remember(variation["function_name"], variation["git_hash"], code, self.environment)

    def _store_plan(self, plan: Plan, report: PodReport) -> None:
        if self._plans is None:
            return
        try:
            self._plans.store(plan)
        except Exception as error:  # noqa: BLE001  # whatever it is, results are worth more than what is said of them
            report.lost_plan = f"{type(error).__name__}: {error}"

    def run(self, plan: Plan) -> Iterator[Chunk]:
        """Run what the plan says, and yield finished work in whatever order; nothing is stored but large values."""
        with closing(self._rounds(plan, Progress(len(plan.to_compute))).chunks(plan.to_compute)) as chunks:
            yield from (chunk for chunk in chunks if chunk is not None)

    def arguments(self, stream: PacketStream) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
        """Return the function's arguments for the one row of a stream: all by name, and as positional and keyword ones.

        Of a batch function, the latter are those of a batch of this row.
        """
        (batch,) = stream.scan(self._consumed(stream))
        bind = None if self._blobs is None else self._blobs.bind
        positional, keyword = self.function.argument_columns(self._bind(batch), bind)
        keywords = {name: column[0] for name, column in keyword.items()}
        values = [column[0] for column in positional]
        by_order = [name for name in self.function.input_packet_schema if name not in keywords]
        by_name = {**dict(zip(by_order, values, strict=True)), **keywords}
        return (by_name, list(positional), keyword) if self.function.batch_size else (by_name, values, keywords)

    def _standing_failures(self, plan: Plan, rows: pa.Array) -> list[Outcome]:
        found = self.outcomes.stored_failures(self._constraints(plan.variation), plan.hashes.take(rows))
        return [replace(one, row=row) for row, one in zip(rows.to_pylist(), found, strict=True) if one is not None]

    def _store_invalid(self, plan: Plan, report: PodReport) -> None:
        outcomes = [Outcome(row, FAILED, "InputError", why, "", 0.0) for row, why in plan.invalid.items()]
        report.failed += len(outcomes)
        report.failures.extend(outcomes[: _KEPT_FAILURES - len(report.failures)])
        if outcomes:
            hashes = plan.hashes.take(pa.array([o.row for o in outcomes], pa.int64()))
            tags = tags_as_text(plan.stream, pa.array([o.row for o in outcomes], pa.int64()))
            self.outcomes.store(hashes, outcomes, self._context(plan, self.executor.get_executor_data()), tags)

    def _rounds(self, plan: Plan, progress: Progress, limit: FailureLimit | None = None) -> Rounds:
        return Rounds(functools.partial(self._round, plan, progress), self.failures.retry, limit)

    def _round(self, plan: Plan, progress: Progress, rows: pa.Array) -> Turns:
        """Call rows of a plan once each."""
        function, in_flight = self.function.keeping(self._keeper), PathsInFlight()
        settler = Settler(self.function, self._keeper)
        batches = self._row_batches(plan.stream, rows, in_flight)
        if self._meter is not None:
            batches = self._meter.metered(batches, wait=not getattr(self.executor, "waits_for_batches", False))
        calls = CallOptions(
            capture=0 if self._logs is None else self._logs.limit,
            turn_seconds=_TURN_SECONDS,
            under_way=progress.workers_have,
            time_limit=self._time_limit,
            max_concurrency=self.max_concurrency,
            batch_size=self.function.batch_size,
        )
        results = self.executor.run_rows(function, batches, executor_options=self._options or None, call_options=calls)
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
        for batch in stream.scan(self._consumed(stream)):
            length = min(_BATCH_ROWS, max(1, _BATCH_BYTES * batch.num_rows // max(1, size_of(batch))))
            for offset in range(0, batch.num_rows, length):
                piece = batch.slice(offset, length)
                bound = self._bind(piece)
                if self._files is not None:
                    in_flight.send(start, {name: bound[name] for name in self._files.names})
                bind = None if self._blobs is None else self._blobs.bind
                positional, keyword = self.function.argument_columns(bound, bind)
                yield RowBatch(positional, keyword, start, piece.num_rows)
                start += piece.num_rows

    def _changed_files(
        self, plan: Plan, rows: pa.Array, result: BatchResult, in_flight: PathsInFlight
    ) -> dict[int, str]:
        """Return the packets of a result, counted from its first, whose files changed since they were hashed, and why."""
        if self._files is None or plan.looks is None:
            return {}
        return self._files.changed(in_flight.receive(result.start, result.length), plan.looks.take(rows))

    def _flush(self, plan: Plan, waiting: Sequence[Chunk], report: PodReport) -> None:
        """Store finished work; an interrupt waits for that, for whoever stopped in the middle of it would lose it."""
        with interrupts_deferred():
            self._store(plan, waiting, report)

    def _store(self, plan: Plan, waiting: Sequence[Chunk], report: PodReport) -> None:
        """Store finished work, one commit per execution context; logs first, so that no result is ever without them."""
        groups: dict[int, list[Chunk]] = {}
        contexts: dict[int, Context] = {}
        for chunk in waiting:
            context = self._context(plan, chunk.execution)
            contexts[id(context)] = context
            groups.setdefault(id(context), []).append(chunk)
        for key, chunks in groups.items():
            rows = pa.concat_arrays([chunk.rows for chunk in chunks])
            outputs = pa.Table.from_batches([c.outputs for c in chunks]).combine_chunks().to_batches()
            durations = [seconds for chunk in chunks for seconds in chunk.durations]
            ids = new_record_ids(len(rows))
            if self._logs is not None:
                entries = [entry for chunk in chunks for entry in chunk.logs]
                records = pa.Array.from_buffers(HASH_TYPE, len(rows), [None, pa.py_buffer(ids)])
                try:
                    self._logs.store(entries, plan.stream, plan.hashes, rows, records, contexts[key])
                except Exception as error:  # noqa: BLE001  # whatever it is, results are worth more than their logs
                    report.lost_logs += len(entries)
                    report.lost_logs_reason = report.lost_logs_reason or f"{type(error).__name__}: {error}"
            start = 0
            for batch in outputs:  # one, unless a column has more bytes than one array holds
                end = start + batch.num_rows
                hashes = plan.hashes.take(rows.slice(start, batch.num_rows))
                self.cache.store_batch(hashes, batch, contexts[key], durations[start:end], ids[16 * start : 16 * end])
                start = end
            outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
            without = pa.array([outcome.row for outcome in outcomes], pa.int64())
            tags = tags_as_text(plan.stream, without) if outcomes else None
            self.outcomes.store(plan.hashes.take(without), outcomes, contexts[key], tags)
            report.unsettled.append(without)
            report.computed += len(rows)
            report.failed += sum(o.state == FAILED for o in outcomes)
            report.skipped += sum(o.state == SKIPPED for o in outcomes)
            room = _KEPT_FAILURES - len(report.failures)
            report.failures.extend([o for o in outcomes if o.state == FAILED][:room])
        self.cache.flush()

    def _context(self, plan: Plan, executor_data: Mapping[str, Any]) -> Context:
        data = executor_data or self.executor.get_executor_data()
        key = json.dumps(data, sort_keys=True, default=str)
        if key not in self._contexts:
            execution = Datagram(flatten_execution_data(data, self.extra_info), EXECUTION_DATA_SCHEMA)
            variation = Datagram(plan.variation, VARIATION_SCHEMA)
            self._contexts[key] = Context.of(variation, execution, self.environment.environment_hash)
        return self._contexts[key]

    def context_row(self, plan: Plan, executor_data: Mapping[str, Any]) -> pa.RecordBatch:
        """Return variation and execution context as results of this pod would have them: one row of `CONTEXT_FIELDS`."""
        return self._context(plan, executor_data).rows(1)

    # ------------------------------------------------------------------ assemble

    def assemble(self, plan: Plan, report: PodReport) -> tuple[PacketStream, Snapshot | None, pa.Array]:
        """Find the newest matching result of every row, and count the rows, where `compute` counted packets.

        Returns:
            The stream narrowed to rows with a result, the results, and per row the position of its result in them.

        Raises:
            StorageError: a result that was found by the plan, or stored by this run, is gone, or its large value.
        """
        snapshot, found = plan.snapshot, plan.found
        if len(plan.to_compute) or snapshot is None:
            snapshot = self.cache.snapshot(self._constraints(plan.variation), plan.hashes)
            found = pa.nulls(len(found), pa.int64())
            if snapshot is not None:
                found = self._with_values(snapshot, snapshot.find(plan.hashes))
        self._refuse_lost(plan, report, found)
        self._count_rows(plan, report, found)
        report.accepted = self._count_accepted(plan, snapshot, found)
        if snapshot is None:
            return plan.stream.narrow(pa.array([], pa.int64())), None, pa.array([], pa.int64())
        if found.null_count:
            rows = _positions(found.is_valid())
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
        lost = _positions(pc.and_(found.is_null(), pc.or_(plan.found.is_valid(), stored)))
        if len(lost):
            raise StorageError(
                f"{self._owner}: the results of {len(lost):,} rows (the first is row {lost[0].as_py()} of the input) were stored "
                f"in {'/'.join(self.cache.record_path)} and are gone, or their large values: something removed them while this run was going on. "
                "Nothing was written from them. Run again: what is missing is computed again."
            )

    def _count_rows(self, plan: Plan, report: PodReport, found: pa.Array) -> None:
        """Count rows without a result as failed or skipped; rows of equal packets share one outcome."""
        report.cached = max(0, len(found) - found.null_count - report.computed)
        if not found.null_count or not (report.failed or report.skipped):
            return
        left = plan.hashes.filter(found.is_null())
        now = self._earlier_outcomes(self._constraints(plan.variation), left, plan.variation)
        report.failed = pc.sum(pc.is_in(left, value_set=now.failed)).as_py() or 0
        report.skipped = pc.sum(pc.is_in(left, value_set=now.skipped)).as_py() or 0


class _Before(NamedTuple):
    """Input hashes whose latest outcome is a failure, those of them that are not tried again, and those that were skipped."""

    failed: pa.Array
    standing: pa.Array
    skipped: pa.Array


def _split(wanted: Any, hashes: pa.Array, settled: pa.Array) -> tuple[Any, pa.Array]:
    """Return which rows are wanted but for those of settled packets, and the positions of these."""
    if not len(settled):
        return wanted, pa.array([], pa.int64())
    mask = pc.and_(wanted, pc.is_in(hashes, value_set=settled))
    return pc.and_not(wanted, mask), _positions(mask)


def _positions(mask: Any) -> pa.Array:
    return one_array(pc.indices_nonzero(mask)).cast(pa.int64())


def _first_of_each(rows: pa.Array, hashes: pa.Array) -> pa.Array:
    """Return the rows whose packet occurs for the first time among them."""
    keys = hashes if len(rows) == len(hashes) else hashes.take(rows)
    if pc.count_distinct(split_lanes(keys).a).as_py() == len(keys):
        return rows
    return rows.filter(first_of_each(keys))
