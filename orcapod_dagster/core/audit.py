"""Audit: packets that have a result are run again, and what comes out is held against what is stored.

sample    some of the packets whose stored result counts
first     all of them once more; most give what is stored, and are done
second    the others a second time: two runs that differ tell of the function, two that agree of the stored result
"""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import first_of_each, pc
from orcapod_dagster.core.casting import one_array, recast
from orcapod_dagster.core.contexts import CONTEXT_FIELDS
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.readable import readable_pair
from orcapod_dagster.core.streams import PacketStream

NOT_DETERMINISTIC: Final = "the function is not deterministic"
STORED_DIFFERS: Final = "the stored result differs from what two runs give now"
FAILS: Final = "the function fails now"
_SHOWN: Final = 100
_OF_A_RUN: Final = frozenset({"run_id", "step", "job", "partition", "retry_number", "input_versions"})
"""Extra info that says which run it was, and nothing of what could change a value."""

FINDING_SCHEMA: Final = pa.schema(
    [
        pa.field("what", pa.string(), nullable=False),
        pa.field("tags", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("columns", pa.list_(pa.string()), nullable=False),
        pa.field("stored", pa.string(), nullable=False),
        pa.field("now", pa.string(), nullable=False),
        pa.field("again", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("versions", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("computed_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One packet whose stored result is not what the function gives now.

    Attributes:
        what: `NOT_DETERMINISTIC`, `STORED_DIFFERS` or `FAILS`.
        tags: of its row. record_id, computed_at: of the stored result.
        columns: the output columns that differ; none where the function fails.
        stored, now, again: the values of these columns, cut to a readable length: as stored, of the first run, and of the
            second where it gave another.
        error: class and message where a run failed. traceback: of that.
        versions: what is recorded otherwise than it is now: name → recorded, now.
    """

    what: str
    tags: Mapping[str, Any]
    record_id: uuid.UUID
    computed_at: dt.datetime
    columns: tuple[str, ...] = ()
    stored: str = ""
    now: str = ""
    again: str = ""
    error: str = ""
    traceback: str = ""
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit saw.

    Attributes:
        rows: of the input. with_result: distinct packets among them whose stored result counts.
        checked: packets that were run again. equal: those that gave what is stored.
        counts: `AuditFinding.what` → packets.
        findings: the first of them, with values. seed: draws the same sample again. seconds: it took.
    """

    rows: int
    with_result: int
    checked: int
    equal: int
    counts: Mapping[str, int]
    findings: tuple[AuditFinding, ...]
    seed: int
    seconds: float

    def summary(self) -> str:
        """Return in one sentence what was seen, with the seed."""
        told = "; ".join(f"{count:,}: {what}" for what, count in self.counts.items())
        return (
            f"{self.checked:,} of {self.with_result:,} packets with a result were run again, {self.equal:,} gave what is stored"
            f"{'; ' + told if told else ''}. Seed {self.seed}, {self.seconds:,.1f} s."
        )

    def to_table(self) -> pa.Table:
        """Return the findings, one row each, with the columns `FINDING_SCHEMA`."""
        rows = [
            {
                **{name: getattr(one, name) for name in ("what", "columns", "stored", "now", "again", "error", "computed_at")},
                "tags": [(name, str(value)) for name, value in one.tags.items()],
                "versions": [(name, " → ".join(pair)) for name, pair in one.versions.items()],
                "record_id": str(one.record_id),
            }
            for one in self.findings
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, FINDING_SCHEMA)


def audit_packets(
    pod: FunctionPod,
    stream: PacketStream,
    *,
    size: int | None = None,
    fraction: float | None = None,
    seed: int | None = None,
) -> AuditReport:
    """Run a sample of the packets that have a result again, and compare; nothing is stored.

    Values are equal when their content hashes are: NaN equals NaN, large values count by their bytes, sets and maps in
    whatever order.

    Args:
        pod: over a `ReadOnlyDatabase`, with a `Digester` for large values.
        stream: the rows.
        size: packets to run; default 100. fraction: or this part of them, above 0, at most 1; one packet at least.
        seed: draws the sample; default a new one, which the report names.

    Raises:
        InputError: both `size` and `fraction` are given, or one is out of bounds.
        ExecutorError: the packets could not be run for a reason that is not the function's.
        StorageError: a stored result cannot be read.
    """
    began = time.monotonic()
    seed = random.randrange(2**32) if seed is None else seed  # noqa: S311  # a sample, no secret
    plan = pod.plan(stream)
    candidates = _with_result(plan)
    sample = _sample(candidates, size, fraction, seed)
    audit = _Audit(pod, plan)
    first = audit.run(sample)
    doubtful = pa.array(sorted(first), pa.int64())
    findings = audit.findings(doubtful, first, audit.run(doubtful, keep_equal=True))
    counts: dict[str, int] = {}
    for what, _ in findings.values():
        counts[what] = counts.get(what, 0) + 1
    shown = tuple(audit.finding(row, what, runs) for row, (what, runs) in list(findings.items())[:_SHOWN])
    equal = len(sample) - len(findings)
    return AuditReport(
        stream.num_rows, len(candidates), len(sample), equal, counts, shown, seed, time.monotonic() - began
    )


def _with_result(plan: Plan) -> pa.Array:
    """Return the rows (`int64`) that have a result, one per packet."""
    rows = one_array(pc.indices_nonzero(plan.found.is_valid())).cast(pa.int64())
    return rows.filter(first_of_each(plan.hashes.take(rows)))


def _sample(rows: pa.Array, size: int | None, fraction: float | None, seed: int) -> pa.Array:
    if size is not None and fraction is not None:
        raise InputError("Both a size and a fraction of the sample are given. Give one.")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InputError(f"The fraction of the sample is {fraction}; give one above 0, up to 1.")
        size = max(1, round(fraction * len(rows)))
    size = 100 if size is None else size
    if size < 1:
        raise InputError(f"The size of the sample is {size}; give 1 or more.")
    chosen = random.Random(seed).sample(range(len(rows)), min(size, len(rows)))  # noqa: S311  # a sample, no secret
    return rows.take(pa.array(sorted(chosen), pa.int64()))


class _Seen(NamedTuple):
    """What one run of a packet gave that is not what is stored: per column the hash, and the values of the first packets."""

    hashes: tuple[bytes, ...] = ()
    differing: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None
    execution: Mapping[str, Any] = {}  # never changed
    error: str = ""
    traceback: str = ""


class _Audit:
    """Runs packets of a plan that have a result, and compares."""

    def __init__(self, pod: FunctionPod, plan: Plan) -> None:
        self._pod = pod
        self._plan = plan
        self._schema = pod.function.output_arrow_schema
        self._valued = 0

    def run(self, rows: pa.Array, *, keep_equal: bool = False) -> dict[int, _Seen]:
        """Run rows, and return those that failed or gave another value than is stored; all of them with `keep_equal`."""
        seen: dict[int, _Seen] = {}
        self._valued = 0
        if not len(rows):
            return seen
        for chunk in self._pod.run(replace(self._plan, to_compute=rows)):
            for one in chunk.outcomes:
                seen[one.row] = _Seen(error=f"{one.error_type}: {one.message}", traceback=one.traceback)
            seen |= self._compared(chunk.rows, chunk.outputs, chunk.execution, keep_equal=keep_equal)
        return seen

    def _compared(
        self, rows: pa.Array, outputs: pa.RecordBatch, execution: Mapping[str, Any], *, keep_equal: bool
    ) -> Iterator[tuple[int, _Seen]]:
        """Yield what is not as it is stored; column by column, so that only rows that differ cost anything in Python."""
        if not len(rows) or not len(self._schema):
            return
        stored = self.stored(rows)
        pairs = {
            f.name: (_hashes(f, stored[f.name]), _hashes(f, outputs.column(i))) for i, f in enumerate(self._schema)
        }
        unequal = {name: pc.not_equal(*pair) for name, pair in pairs.items()}
        any_unequal: Any = pa.repeat(keep_equal, len(rows))
        for mask in unequal.values():
            any_unequal = pc.or_(any_unequal, mask)
        chosen = one_array(pc.indices_nonzero(any_unequal))
        hashes = [pair[1].take(chosen).to_pylist() for pair in pairs.values()]
        masks = [mask.take(chosen).to_pylist() for mask in unequal.values()]
        room = max(0, _SHOWN - self._valued)
        self._valued += len(chosen)
        values = outputs.take(chosen.slice(0, room)).to_pylist()
        for i, row in enumerate(rows.take(chosen).to_pylist()):
            differing = tuple(f.name for f, mask in zip(self._schema, masks, strict=True) if mask[i])
            value = values[i] if i < len(values) else None
            yield row, _Seen(tuple(column[i] for column in hashes), differing, value, execution)

    def stored(self, rows: pa.Array, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return columns of the stored results of rows, output columns by default."""
        assert self._plan.snapshot is not None
        positions = self._plan.found.take(rows)
        return self._plan.snapshot.source.take(positions, columns or self._schema.names)

    def findings(
        self, doubtful: pa.Array, first: Mapping[int, _Seen], second: Mapping[int, _Seen]
    ) -> dict[int, tuple[str, tuple[_Seen, _Seen]]]:
        """Tell apart what two runs of each doubtful packet say."""
        found: dict[int, tuple[str, tuple[_Seen, _Seen]]] = {}
        for row in doubtful.to_pylist():
            one, two = first[row], second.get(row, _Seen())
            if one.error and two.error:
                what = FAILS
            elif one.error or two.error or one.hashes != two.hashes:
                what = NOT_DETERMINISTIC
            else:
                what = STORED_DIFFERS
            found[row] = (what, (one, two))
        return found

    def finding(self, row: int, what: str, runs: tuple[_Seen, _Seen]) -> AuditFinding:
        """Describe one packet."""
        one, two = runs
        at = pa.array([row], pa.int64())
        narrowed = self._plan.stream.narrow(at)
        tags = pa.Table.from_batches(narrowed.scan(narrowed.tag_columns)).to_pylist()[0]
        record = self.stored(at, (names.RECORD_ID, names.TIMESTAMP)).to_pylist()[0]
        failed = one if one.error else two
        columns = tuple(dict.fromkeys([*one.differing, *two.differing]))
        return AuditFinding(
            what, tags, uuid.UUID(bytes=record[names.RECORD_ID]), record[names.TIMESTAMP], columns,
            **self._texts(at, columns, one, two), error=failed.error, traceback=failed.traceback,
            versions=self._versions(at, one.execution or two.execution),
        )  # fmt: skip

    def _texts(self, at: pa.Array, columns: tuple[str, ...], one: _Seen, two: _Seen) -> dict[str, str]:
        """Return the values of the columns that differ as text."""
        if not columns:
            return {}
        stored = self.stored(at, columns).to_pylist()[0]
        runs = [None if seen.values is None else {c: seen.values[c] for c in columns} for seen in (one, two)]
        shown: dict[str, list[str]] = {"stored": [], "now": [], "again": []}
        differ = one.hashes != two.hashes
        for column in columns:
            now = None if runs[0] is None else runs[0][column]
            texts = readable_pair(stored[column], now)
            shown["stored"].append(f"{column}={texts[0]}")
            shown["now"].append("" if runs[0] is None else f"{column}={texts[1]}")
            again = "" if runs[1] is None or not differ else readable_pair(stored[column], runs[1][column])[1]
            shown["again"].append(again and f"{column}={again}")
        return {name: ", ".join(filter(None, texts)) for name, texts in shown.items()}

    def _versions(self, at: pa.Array, execution: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Return what is recorded of code, machine and libraries that is otherwise now."""
        record = self.stored(at, tuple(f.name for f in CONTEXT_FIELDS)).to_pylist()[0]
        row = self._pod.context_row(self._plan, execution).to_pylist()[0]
        was = {**self._libraries(at), **_flat(record)}
        now = {**self._pod.environment.versions, **_flat(row)}
        return {name: (was[name], now[name]) for name in was if name in now and was[name] != now[name]}

    def _libraries(self, at: pa.Array) -> Mapping[str, str]:
        """Return the versions of the libraries that the code of a result referred to; none where nobody kept them."""
        assert self._plan.snapshot is not None
        if names.ENVIRONMENT_HASH not in self._plan.snapshot.source.schema.names:
            return {}
        kept = self.stored(at, (names.ENVIRONMENT_HASH,))[names.ENVIRONMENT_HASH][0].as_py()
        return {} if kept is None else self._pod.codes.environments({kept}).get(kept, {})


def _hashes(field: pa.Field, column: Any) -> pa.Array:
    return hash_rows({field.name: recast(one_array(column), field.type)})


def _flat(context: Mapping[str, Any]) -> dict[str, str]:
    """Return a context's values under short names, without what only says which run it was."""
    found: dict[str, str] = {}
    for name, value in context.items():
        short = name.removeprefix(names.VARIATION_PREFIX).removeprefix(names.EXECUTION_PREFIX)
        if isinstance(value, str):
            found[short] = value
        else:
            found |= {key: text for key, text in value if key not in _OF_A_RUN}
    return found
