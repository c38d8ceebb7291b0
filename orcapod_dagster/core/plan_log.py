"""PlanLog: what runs set out to do with each packet; one append-only table per function, beside its results.

A run that computes something says it once, before its first packet. Most packets of a run share one intention (all are new, or
nearly all are cached); so that one is said in one row for all packets that no other row names, and only the others are named.
What became of each packet is not said here: results and failures carry the id of their run.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.outcomes import FAILED, SKIPPED
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.sources import TableSource

PENDING: Final = "PENDING"
CACHED: Final = "CACHED"
REFUSED: Final = "its input is refused"
SKIPPED_BEFORE: Final = "skipped in an earlier run"
FAILED_BEFORE: Final = "failed in an earlier run, not tried again"
LEFT_OUT: Final = "left out by limit"
PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("asset", pa.string(), nullable=False),
        pa.field("partition", pa.string()),
        pa.field("step", pa.string(), nullable=False),
        pa.field(names.PACKET_HASH, pa.binary()),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("packets", pa.int64(), nullable=False),
        pa.field("input", pa.string()),
        pa.field(names.TIMESTAMP, UTC_TIMESTAMP, nullable=False),
    ]
)
"""`packet_hash`: the input hash of one row; null in the one row of a run that speaks of all packets without a row of their own.
`state`: PENDING (to be computed), CACHED, FAILED or SKIPPED. `reason`: why; null of what is cached. `packets`: how many rows; of those to compute, rows of equal packets count once.
`input`: what was read, as JSON; in that one row. `__pod_ts`: when the run said so."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """Which run of which asset.

    Attributes:
        run_id, step: as results carry them. asset: its key as text. partition: key, or range of keys, or None.
        input: what finds the same rows again: versions of tables, partitions, the condition on rows; of values that JSON has.
    """

    run_id: str
    step: str
    asset: str
    partition: str | None
    input: Mapping[str, Any]


class Planned(NamedTuple):
    """Packets, by their input hashes, that share state and reason; of those to compute, no two are alike."""

    state: str
    reason: str | None
    hashes: pa.Array


class PlanLog:
    """What the runs of one function set out to do.

    Args:
        database, path: where it is kept; never inside the results' own table.
        run: that adds to it; None to read alone.
    """

    def __init__(self, database: ArrowDatabase, path: Sequence[str], run: PlannedRun | None = None) -> None:
        self.database = database
        self.path = tuple(path)
        self._run = run

    def store(self, plan: Plan) -> None:
        """Store a plan with something to compute; durable on return."""
        run = self._run
        assert run is not None
        classes = planned(plan)
        usual = max(classes, key=lambda one: len(one.hashes))
        said = json.dumps({**run.input, "digest": digest(plan.hashes)})
        now = dt.datetime.now(dt.UTC)
        parts = [_rows(run, usual.state, usual.reason, pa.nulls(1, pa.binary()), len(usual.hashes), said, now)]
        others = [one for one in classes if one is not usual]
        parts += [_rows(run, one.state, one.reason, one.hashes.cast(pa.binary()), 1, None, now) for one in others]
        self.database.append(self.path, pa.concat_tables(parts).to_reader)
        self.database.flush()
        self.database.keep_quick(self.path)

    def runs(self) -> list[dict[str, Any]]:
        """Return the rows that speak of whole runs, as `PLAN_SCHEMA` without the hash, oldest first; `input` decoded."""
        source = self.database.source(self.path)
        if source is None:
            return []
        columns = [name for name in PLAN_SCHEMA.names if name != names.PACKET_HASH]
        tables = [batch.filter(batch.column("input").is_valid()) for batch in source.scan(columns)]
        rows = pa.Table.from_batches(tables, pa.schema([source.schema.field(name) for name in columns]))
        found = rows.sort_by(names.TIMESTAMP).to_pylist()
        return [{**row, "input": json.loads(row["input"])} for row in found]

    def named(self, run: Mapping[str, Any]) -> pa.Table:
        """Return the packets that one plan names, `packet_hash: fixed_size_binary[16]`, `state` and `reason`.

        Args:
            run: one of `runs()`.
        """
        schema = pa.schema([(names.PACKET_HASH, HASH_TYPE), ("state", pa.string()), ("reason", pa.string())])
        source = self.database.source(self.path)
        found = [] if source is None else [batch.cast(schema) for batch in _of_run(source, run, schema.names)]
        return pa.Table.from_batches(found, schema)


def _of_run(source: TableSource, run: Mapping[str, Any], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one plan that name a packet; files of other runs alone are not read."""
    wanted = [*columns, names.TIMESTAMP]
    for known, batches in source.scan_parts(wanted, ["run_id", "asset"]):
        if any(run[name] != value for name, value in known.items()):
            continue
        for batch in batches:
            mask = batch.column(names.PACKET_HASH).is_valid()
            mask = pc.and_(
                mask, pc.equal(batch.column(names.TIMESTAMP), pa.scalar(run[names.TIMESTAMP], UTC_TIMESTAMP))
            )
            for name in ("run_id", "asset"):
                if name not in known:
                    mask = pc.and_(mask, pc.equal(batch.column(name), run[name]))
            yield batch.filter(mask).select(list(columns))


def _rows(
    run: PlannedRun, state: str, reason: str | None, hashes: pa.Array, packets: int, said: str | None, now: dt.datetime
) -> pa.Table:
    values: dict[str, Any] = {
        "run_id": run.run_id, "asset": run.asset, "partition": run.partition, "step": run.step, "state": state,
        "reason": reason, "packets": packets, "input": said, names.TIMESTAMP: now,
    }  # fmt: skip
    columns = [
        hashes if field.name == names.PACKET_HASH else pa.repeat(pa.scalar(values[field.name], field.type), len(hashes))
        for field in PLAN_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=PLAN_SCHEMA)


def planned(plan: Plan) -> list[Planned]:
    """Return the packets of a plan by what the run does with them, and why."""
    hashes, found = plan.hashes, plan.found
    classes = [
        Planned(CACHED, None, hashes if not found.null_count else hashes.filter(found.is_valid())),
        Planned(SKIPPED, SKIPPED_BEFORE, hashes.take(plan.skipped)),
        Planned(FAILED, FAILED_BEFORE, hashes.take(plan.failed)),
        Planned(PENDING, REFUSED, hashes.take(pa.array(list(plan.invalid), pa.int64()))),
    ]
    misses = hashes.take(plan.to_compute)
    coded: Any = plan.reasons.texts.dictionary_encode()
    for index, reason in enumerate(coded.dictionary.to_pylist()):
        alike = misses if len(coded.dictionary) == 1 else misses.filter(pc.equal(coded.indices, index))
        classes.append(Planned(PENDING, reason, alike))
    if len(hashes) > sum(len(one.hashes) for one in classes):  # rows of equal packets, and those beyond a limit
        done = pa.concat_arrays([plan.to_compute, plan.skipped, plan.failed, pa.array(list(plan.invalid), pa.int64())])
        left = pc.and_(found.is_null(), pc.invert(pc.is_in(count_up(len(hashes)), value_set=done)))
        others = hashes.filter(left)
        beyond = one_array(others.filter(pc.invert(pc.is_in(others, value_set=misses))))
        classes.append(Planned(PENDING, LEFT_OUT, beyond))
    return [one for one in classes if len(one.hashes)]


def digest(hashes: pa.Array) -> str:
    """Return a text that two sets of rows share only if they are the same packets, in whatever order."""
    words = pa.Array.from_buffers(pa.uint64(), 2 * len(hashes), hashes.buffers(), offset=2 * hashes.offset)
    return f"{len(hashes)}:{pc.sum(words, min_count=0).as_py():016x}"


def plan_path(uri: Sequence[str]) -> tuple[str, ...]:
    """Return the path of the plans of the function with a `uri`, among the hidden tables."""
    return ("plans", *uri)
