"""Recorder: what a computation finished, made durable: results, failures, skips, logs, and what the run set out to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.datagrams import Datagram, new_record_ids
from orcapod_dagster.core.errors import ExecutorError, StorageError
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA, flatten_execution_data
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.identity import Environment
from orcapod_dagster.core.interrupts import interrupts_deferred
from orcapod_dagster.core.outcomes import FAILED, KEPT_FAILURES, SKIPPED, Outcome, OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_logs import PacketLogs
from orcapod_dagster.core.plan_log import PlanLog
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.settling import Chunk
from orcapod_dagster.core.tag_texts import tags_as_text


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


class Recorder:
    """Stores what comes of the packets of one function.

    Args:
        cache, outcomes, codes: where results, failures and skips, and code are kept.
        environment: tells Python and distributions, when it is first needed, for that takes time.
        logs, plans: where what packets print and log is kept, and what runs set out to do; without them, it is not.
        executor: says how rows run whose tasks do not say it.
        extra_info: stored with each result.
    """

    def __init__(
        self,
        function: PythonPacketFunction,
        cache: ResultCache,
        outcomes: OutcomeLog,
        codes: CodeStore,
        environment: Callable[[], Environment],
        logs: PacketLogs | None,
        plans: PlanLog | None,
        executor: PythonFunctionExecutorProtocol,
        extra_info: Mapping[str, str],
    ) -> None:
        self._function = function
        self._cache = cache
        self._outcomes = outcomes
        self._codes = codes
        self._environment = environment
        self._logs = logs
        self._plans = plans
        self._executor = executor
        self._extra_info = dict(extra_info)
        self._contexts: dict[str, Context] = {}

    def begin(self, plan: Plan, report: PodReport) -> None:
        """Store what is known before the first call: the code, what the run sets out to do, and rows that cannot be called."""
        if len(plan.to_compute) or plan.invalid:
            # Before the first result that it made: what is kept of code may be more than what made results, never less.
            self._remember(plan)
            self._store_plan(plan, report)
        self._store_invalid(plan, report)

    def _remember(self, plan: Plan) -> None:
        variation = plan.variation
        code = self._function.get_function_code()
        self._codes.remember(variation["function_name"], variation["git_hash"], code, self._environment())

    def _store_plan(self, plan: Plan, report: PodReport) -> None:
        if self._plans is None:
            return
        try:
            self._plans.store(plan)
        except Exception as error:  # noqa: BLE001  # whatever it is, results are worth more than what is said of them
            report.lost_plan = f"{type(error).__name__}: {error}"

    def _store_invalid(self, plan: Plan, report: PodReport) -> None:
        outcomes = [Outcome(row, FAILED, "InputError", why, "", 0.0) for row, why in plan.invalid.items()]
        report.failed += len(outcomes)
        report.failures.extend(outcomes[: KEPT_FAILURES - len(report.failures)])
        if outcomes:
            hashes = plan.hashes.take(pa.array([o.row for o in outcomes], pa.int64()))
            tags = tags_as_text(plan.stream, pa.array([o.row for o in outcomes], pa.int64()))
            self._outcomes.store(hashes, outcomes, self._context(plan, self._executor.get_executor_data()), tags)

    def store(self, plan: Plan, waiting: Sequence[Chunk], report: PodReport) -> None:
        """Store finished work; an interrupt waits for that, for whoever stopped in the middle of it would lose it."""
        with interrupts_deferred():
            self._store_groups(plan, waiting, report)

    def _store_groups(self, plan: Plan, waiting: Sequence[Chunk], report: PodReport) -> None:
        """Store finished work, one commit per execution context; an error at one keeps none of the others from being stored."""
        errors: list[Exception] = []
        groups: dict[str, list[Chunk]] = {}
        for chunk in waiting:
            with _gathered(errors):
                groups.setdefault(self._context_key(chunk.execution), []).append(chunk)
        for chunks in groups.values():
            with _gathered(errors):
                self._store_chunks(plan, chunks, report)
        with _gathered(errors):
            self._cache.flush()
        _raise_all(errors, self._function.canonical_function_name)

    def _store_chunks(self, plan: Plan, chunks: Sequence[Chunk], report: PodReport) -> None:
        """Store finished work of one execution context; logs first, so that no result is ever without them."""
        context = self._context(plan, chunks[0].execution)
        rows = pa.concat_arrays([chunk.rows for chunk in chunks])
        outputs = pa.Table.from_batches([c.outputs for c in chunks]).combine_chunks().to_batches()
        durations = [seconds for chunk in chunks for seconds in chunk.durations]
        ids = new_record_ids(len(rows))
        self._store_logs(plan, chunks, rows, ids, context, report)
        start = 0
        for batch in outputs:  # one, unless a column has more bytes than one array holds
            end = start + batch.num_rows
            hashes = plan.hashes.take(rows.slice(start, batch.num_rows))
            self._cache.store_batch(hashes, batch, context, durations[start:end], ids[16 * start : 16 * end])
            start = end
        outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
        without = pa.array([outcome.row for outcome in outcomes], pa.int64())
        tags = tags_as_text(plan.stream, without) if outcomes else None
        self._outcomes.store(plan.hashes.take(without), outcomes, context, tags)
        report.unsettled.append(without)
        report.computed += len(rows)
        report.failed += sum(o.state == FAILED for o in outcomes)
        report.skipped += sum(o.state == SKIPPED for o in outcomes)
        room = KEPT_FAILURES - len(report.failures)
        report.failures.extend([o for o in outcomes if o.state == FAILED][:room])

    def _store_logs(
        self, plan: Plan, chunks: Sequence[Chunk], rows: pa.Array, ids: bytes, context: Context, report: PodReport
    ) -> None:
        if self._logs is None:
            return
        entries = [entry for chunk in chunks for entry in chunk.logs]
        records = pa.Array.from_buffers(HASH_TYPE, len(rows), [None, pa.py_buffer(ids)])
        try:
            self._logs.store(entries, plan.stream, plan.hashes, rows, records, context)
        except Exception as error:  # noqa: BLE001  # whatever it is, results are worth more than their logs
            report.lost_logs += len(entries)
            report.lost_logs_reason = report.lost_logs_reason or f"{type(error).__name__}: {error}"

    def _context_key(self, executor_data: Mapping[str, Any]) -> str:
        """Return a text that is the same for the same execution data."""
        with self._told_of_a_task():
            return json.dumps({**(executor_data or self._executor.get_executor_data())}, sort_keys=True, default=str)

    def _context(self, plan: Plan, executor_data: Mapping[str, Any]) -> Context:
        key = self._context_key(executor_data)
        if key not in self._contexts:
            with self._told_of_a_task():
                data = executor_data or self._executor.get_executor_data()
                execution = Datagram(flatten_execution_data(data, self._extra_info), EXECUTION_DATA_SCHEMA)
                execution.as_table()
            variation = Datagram(plan.variation, VARIATION_SCHEMA)
            self._contexts[key] = Context.of(variation, execution, self._environment().environment_hash)
        return self._contexts[key]

    @contextmanager
    def _told_of_a_task(self) -> Generator[None, None, None]:
        """Tell what an executor says of a task, where it is no execution data, as the executor's error.

        Raises:
            ExecutorError: what is no mapping, or cannot be text.
        """
        try:
            yield
        except Exception as error:
            raise ExecutorError(
                f"Executor {self._executor.executor_type_id!r} says of a task of function {self._function.canonical_function_name!r} what is no "
                f"execution data: {type(error).__name__}: {error}. The results of that task are not stored. Mend the executor: execution "
                "data is a dict, by names, of texts, numbers, lists and dicts."
            ) from error

    def context_row(self, plan: Plan, executor_data: Mapping[str, Any]) -> pa.RecordBatch:
        """Return variation and execution context as results of this pod would have them: one row of `CONTEXT_FIELDS`."""
        return self._context(plan, executor_data).rows(1)


@contextmanager
def _gathered(errors: list[Exception]) -> Generator[None, None, None]:
    """Keep an error for later, when everything else was tried."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # `_raise_all` raises it
        errors.append(error)


def _raise_all(errors: Sequence[Exception], function_name: str) -> None:
    """Raise what kept finished work from being stored: one error as it is, several as one that tells all of them."""
    told = list(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
    if len(told) == 1:
        raise errors[0]
    if told:
        lines = "\n".join(f"- {text}" for text in told)
        raise StorageError(
            f"function {function_name!r}: finished work could not be stored, for {len(told)} reasons. What none of them is about is stored; "
            f"run again when they are mended.\n{lines}"
        ) from errors[0]
