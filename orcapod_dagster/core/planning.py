"""Planner: which packets of a stream must be computed, and why; runs no user code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, first_of_each, pc
from orcapod_dagster.core.blobs.presence import lost_rows, without_lost
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.code_diff import CodeChange, code_changes
from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.counting import Counting
from orcapod_dagster.core.earlier_rows import EarlierRows
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.files import FileReader, Looks
from orcapod_dagster.core.hashing import HASH_TYPE, hash_rows, split_lanes
from orcapod_dagster.core.identity import Environment
from orcapod_dagster.core.matching import Constraints, MatchPolicy
from orcapod_dagster.core.outcomes import DETAILS, FAILED, SKIPPED, OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
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
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.siblings import results_elsewhere
from orcapod_dagster.core.snapshots import Snapshot
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.streams import PacketStream


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


def consumed(function: PythonPacketFunction, stream: PacketStream) -> list[str]:
    """Return the columns of a stream that a function reads."""
    available = set(stream.schema().names)
    return [name for name in function.input_packet_schema if name in available]


def bind(function: PythonPacketFunction, batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Bring the rows of a stream to the types of a function's parameters."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    return function.bind_columns(columns, batch.num_rows)


class Planner:
    """Plans runs of one packet function.

    Args:
        function, cache, outcomes, match: as `FunctionPod` takes them.
        failures: says which failures of earlier runs are tried again.
        blobs: the large values of the lake; without it, they lie in the records themselves.
        files: what reads the contents of files; None for a function without files.
    """

    def __init__(
        self,
        function: PythonPacketFunction,
        cache: ResultCache,
        outcomes: OutcomeLog,
        match: MatchPolicy,
        failures: FailurePolicy,
        blobs: BlobStore | None,
        files: FileReader | None,
    ) -> None:
        self.function = function
        self.cache = cache
        self.outcomes = outcomes
        self.match: MatchPolicy = match
        self.codes = CodeStore(cache.database)
        self.counting = Counting(function, cache, outcomes, match)
        self.earlier_rows: EarlierRows | None = None
        """The rows of the asset's table, where there is one: a plan says by them whether a packet is new."""
        self._failures = failures
        self._blobs = blobs
        self._files = files

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
        constraints = self.constraints(variation)
        found = pa.nulls(len(hashes), pa.int64())
        snapshot: Snapshot | None = None
        lost = pa.array([], HASH_TYPE)
        if not force and (snapshot := self.cache.snapshot(constraints, hashes)) is not None:
            stored = snapshot.find(hashes)
            found = self.with_values(snapshot, stored)
            if found.null_count > stored.null_count:
                lost = hashes.filter(pc.and_(found.is_null(), stored.is_valid()))
        wanted = found.is_null()
        if invalid:
            wanted = pc.and_(
                wanted, pc.invert(pc.is_in(count_up(len(hashes)), value_set=pa.array(list(invalid), pa.int64())))
            )
        # What had a result, and lost a large value of it, is made again, whatever became of the packet before or since.
        before = self.earlier_outcomes(constraints, hashes, variation).without(lost)
        skipped = failed = pa.array([], pa.int64())
        if not force:
            wanted, skipped = _split(wanted, hashes, before.skipped)
            wanted, failed = _split(wanted, hashes, before.standing)
        rows = _first_of_each(positions(wanted), hashes)
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
    def environment(self) -> Environment:
        """The Python and the distributions that the function's code refers to."""
        return self.counting.environment

    def constraints(self, variation: Mapping[str, str]) -> Constraints:
        """Return what stored results must have so that they count."""
        return self.counting.constraints(variation)

    def with_values(self, snapshot: Snapshot, found: pa.Array) -> pa.Array:
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
        return self.counting.identity(self.function.get_function_variation_data())

    def hash(self, stream: PacketStream) -> Hashed:
        """Hash the consumed columns of every row, files by their content, and find the rows that cannot be computed."""
        hashed: list[pa.Array] = []
        looks: list[Looks] = []
        invalid: dict[int, str] = {}
        start = 0
        for batch in stream.scan(consumed(self.function, stream)):
            counted: Mapping[str, pa.Array] = bind(self.function, batch)
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

    def earlier_outcomes(self, constraints: Constraints, hashes: pa.Array, variation: Mapping[str, str]) -> Before:
        """Return how the packets ended that have no result, as far as earlier runs recorded it."""
        details = () if self._failures.retry_failed == "all" else DETAILS
        found = self.outcomes.latest(constraints, hashes, details)
        failed, skipped = (found.filter(pc.equal(found["state"], state)) for state in (FAILED, SKIPPED))
        keys = one_array(failed[names.INPUT_HASH]).cast(HASH_TYPE)
        standing = keys.slice(0, 0)
        if details and len(keys):
            # Whatever the match policy asks of results: a function that was mended is to be tried.
            contents = self.counting.contents(variation["function_content_hash"])
            standing = keys.filter(self._failures.stands(failed, contents))
        return Before(keys, standing, one_array(skipped[names.INPUT_HASH]).cast(HASH_TYPE))

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
            rows = positions(new).filter(left)
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


class Before(NamedTuple):
    """Input hashes whose latest outcome is a failure, those of them that are not tried again, and those that were skipped."""

    failed: pa.Array
    standing: pa.Array
    skipped: pa.Array

    def without(self, hashes: pa.Array) -> Before:
        """Return it without some packets."""
        if not len(hashes):
            return self
        return Before(*(one.filter(pc.invert(pc.is_in(one, value_set=hashes))) for one in self))


def _split(wanted: Any, hashes: pa.Array, settled: pa.Array) -> tuple[Any, pa.Array]:
    """Return which rows are wanted but for those of settled packets, and the positions of these."""
    if not len(settled):
        return wanted, pa.array([], pa.int64())
    mask = pc.and_(wanted, pc.is_in(hashes, value_set=settled))
    return pc.and_not(wanted, mask), positions(mask)


def positions(mask: Any) -> pa.Array:
    """Return where a mask is true, as `int64`."""
    return one_array(pc.indices_nonzero(mask)).cast(pa.int64())


def _first_of_each(rows: pa.Array, hashes: pa.Array) -> pa.Array:
    """Return the rows whose packet occurs for the first time among them."""
    keys = hashes if len(rows) == len(hashes) else hashes.take(rows)
    if pc.count_distinct(split_lanes(keys).a).as_py() == len(keys):
        return rows
    return rows.filter(first_of_each(keys))
