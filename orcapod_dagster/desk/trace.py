"""Trace: from one row of a packet asset through every packet asset before it to the source rows.

A step names the rows that it was made from only where that is known: their hash is the one that the step's record holds, and
what it carries along is what they hold. Where a row has changed since, its table is looked at as it was; where that is not
found, the trace ends there and says so.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.casting import one_array, recast
from orcapod_dagster.core.errors import InputError, OrcapodError
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.identity import function_signature_hash
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.readable import readable_pair
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.desk.finding import FoundRows, find_rows
from orcapod_dagster.desk.history import TableHistory, read_history, versions_to_try
from orcapod_dagster.desk.opening import AssetLike, Desk, desk_at
from orcapod_dagster.desk.packets import (
    InputRows,
    check_partition,
    check_tags,
    input_rows,
    packet_tags,
    partition_of_rows,
    tags_told,
)
from orcapod_dagster.desk.steps import CHANGED, NOT_FOUND, TraceStep
from orcapod_dagster.desk.views import to_markdown, to_mermaid, to_table
from orcapod_dagster.inputs import INPUT_VERSIONS_INFO
from orcapod_dagster.spec import PacketAssetSpec

_MOST_STEPS: Final = 1_000
_MOST_VERSIONS: Final = 24
_MOST_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Trace:
    """The steps of a trace: the row that was asked for first, each before those that it was made from."""

    steps: tuple[TraceStep, ...]

    def to_table(self) -> pa.Table:
        """Return one row per step, with the columns `views.TRACE_SCHEMA`."""
        return to_table(self.steps)

    def to_mermaid(self) -> str:
        """Return a Mermaid flowchart, as GitHub and documentation tools draw it; Dagster's UI does not."""
        return to_mermaid(self.steps)

    def to_markdown(self) -> str:
        """Return an outline in Markdown that Dagster's UI shows."""
        return to_markdown(self.steps)


def trace(
    definitions: Any,
    asset: AssetLike | None = None,
    *,
    tags: Mapping[str, Any],
    partition: str | None = None,
    **lake: Any,
) -> Trace:
    """Trace one row of a packet asset's table back to the source rows. Nothing is stored, and no user code runs.

    Args:
        definitions, asset, tags, partition, lake: as `packet_row` takes them.

    Raises:
        InputError: the asset's table has no such row, or several.
        DefinitionError: there is no such packet asset. LakeError: a table cannot be read.
    """
    with desk_at(definitions, asset, lake) as (desk, wanted):
        return Trace(tuple(_Tracer(desk).run(desk.spec(wanted), tags, partition)))


class _Tracer:
    """Follows rows, breadth first; a row that several steps were made from is one step."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._steps: list[TraceStep] = []
        self._rows: list[pa.Table] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._past = Past(desk)

    def run(self, spec: PacketAssetSpec, tags: Mapping[str, Any], partition: str | None) -> list[TraceStep]:
        """Return the steps from one row."""
        check_tags(self._desk, spec, packet_tags(spec, tags))
        if partition is not None:
            check_partition(self._desk, spec, partition)
        source = self._desk.table(spec, partition)
        found = find_rows(source, tags)
        if found.num_rows != 1:
            raise InputError(
                f"{source.description}: {found.num_rows or 'no'} rows have the tags {tags_told(tags)}. A trace begins at one "
                "row of the table; `row` shows a packet that is not in it, and --partition names the part of the table."
            )
        self._add(spec.key, spec, found, 0, {})
        waiting = deque([0])
        while waiting and len(self._steps) < _MOST_STEPS:
            number = waiting.popleft()
            if self._steps[number].is_packet_asset:
                waiting.extend(self._follow(number))
        if waiting:
            self._say(0, f"cut at {_MOST_STEPS} steps")
        return self._steps

    def _follow(self, number: int) -> Iterator[int]:
        """Add the rows that a step was made from, and yield those that are new."""
        step, row = self._steps[number], self._rows[number]
        spec = self._desk.spec(step.asset)
        try:
            partition = partition_of_rows(self._desk, spec, row, step.tags)
            made_from = self._past.inputs_of(spec, row, step.tags, partition)
        except OrcapodError as error:
            self._say(number, f"what it was made from cannot be read: {error}")
            return
        self._steps[number] = replace(self._steps[number], partition=partition)
        if made_from.rows is None:
            for key in spec.inputs.values():
                self._add_lost(number, key, step.tags, made_from.note)
            return
        stream, used = made_from.rows.stream, {*spec.function.input_packet_schema, *spec.carry}
        self._steps[number] = replace(self._steps[number], consumed=self._past.pod(spec).arguments(stream)[0])
        for part, key in zip(stream.parts, spec.inputs.values(), strict=True):
            at = 0 if part.positions is None else part.positions[0].as_py()
            mine = {one: step.tags[one] for one in part.input.columns() if one in step.tags}
            before = len(self._steps)
            added = self._add(key, spec, made_from.rows.found[key], at, mine, used_by=number)
            if added == before:
                self._compare(added, made_from, key)
                if not used & (part.input.columns().keys() - step.tags.keys()):
                    self._say(added, "nothing of it was consumed but its tags, so other values of then would not show")
                yield added

    def _add(
        self, key: dg.AssetKey, reader: PacketAssetSpec, found: FoundRows, at: int, tags: Mapping[str, Any], used_by: int | None = None
    ) -> int:  # fmt: skip
        """Add a row as a step; where it is one already, only say what else was made from it."""
        row = found.take(pa.array([at], pa.int64()), found.schema.names)
        place = (key, found.version, hash_rows({name: row[name] for name in row.column_names})[0].as_py())
        consumers = () if used_by is None else (used_by,)
        if place in self._known:
            number = self._known[place]
            step = self._steps[number]
            self._steps[number] = replace(step, used_by=tuple(dict.fromkeys([*step.used_by, *consumers])))
            return number
        values = row.to_pylist()[0]
        own = {name: value for name, value in values.items() if not names.is_reserved(name)}
        record = {name: value for name, value in values.items() if names.is_reserved(name)}
        packets = self._desk.is_packet_asset(key) and names.INPUT_HASH in record
        if packets:
            tags = {name: own[name] for name in self._desk.tags_of(self._desk.spec(key))}
        lake = self._desk.lake_table(key, self._desk.asset(reader.key))
        number = self._known[place] = len(self._steps)
        self._rows.append(row)
        self._steps.append(
            TraceStep(
                number, key, packets, tags, own, record if packets else {}, used_by=consumers,
                table=None if lake is None else lake[0], version=found.version,
            )
        )  # fmt: skip
        return number

    def _add_lost(self, used_by: int, key: dg.AssetKey, tags: Mapping[str, Any], note: str) -> None:
        lost = TraceStep(
            len(self._steps), key, False, tags, {}, used_by=(used_by,), state=NOT_FOUND, note=note
        )  # fmt: skip
        self._steps.append(lost)
        self._rows.append(pa.table({}))

    def _compare(self, number: int, made_from: MadeFrom, key: dg.AssetKey) -> None:
        """Say of a row that was read as it was, how it differs from what its table holds now."""
        if made_from.now is None:
            return
        row, now = self._rows[number], made_from.now.found[key]
        change = _change(row, now)
        if change is not None:
            self._steps[number] = replace(self._steps[number], state=CHANGED)
            self._say(number, change)
        elif made_from.computed_again(key, row):
            self._say(number, "computed again since, with the same values")

    def _say(self, number: int, text: str) -> None:
        step = self._steps[number]
        self._steps[number] = replace(step, note=f"{step.note}; {text}" if step.note else text)


@dataclass(frozen=True)
class MadeFrom:
    """The rows that a packet was made from.

    Attributes:
        rows: those rows, as they were; None where they are not known.
        now: what the inputs hold of the same tags now; None where they cannot be brought together.
        note: why they are not known.
    """

    rows: InputRows | None
    now: InputRows | None
    note: str = ""

    def computed_again(self, key: dg.AssetKey, row: pa.Table) -> bool:
        """Tell whether an input's record is another one now than that which was consumed, as far as known."""
        if (
            self.now is None
            or names.RECORD_ID not in row.column_names
            or names.RECORD_ID not in self.now.found[key].schema.names
        ):
            return False
        records = pa.Table.from_batches(self.now.found[key].scan([names.RECORD_ID]))[names.RECORD_ID]
        return row[names.RECORD_ID][0].as_py() not in records.to_pylist()


class Past:
    """Finds what a packet was made from: in the inputs as they are, or else as they were."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pods: dict[dg.AssetKey, FunctionPod] = {}
        self._histories: dict[dg.AssetKey, TableHistory | None] = {}
        self._deadline = time.monotonic() + _MOST_SECONDS

    def pod(self, spec: PacketAssetSpec) -> FunctionPod:
        """Return the engine of an asset."""
        if spec.key not in self._pods:
            self._pods[spec.key] = self._desk.pod(spec)
        return self._pods[spec.key]

    def inputs_of(
        self, spec: PacketAssetSpec, row: pa.Table, tags: Mapping[str, Any], partition: str | None
    ) -> MadeFrom:
        """Return the input rows of a packet asset's row."""
        now = self._opened(spec, tags, partition, None)
        fits = now is not None and self._fits(spec, row, now.stream)
        said = _versions_said(row)
        if fits and now is not None and not _is_younger(now, row):
            return MadeFrom(now, now)
        histories = self._histories_of(spec)
        tried = 0
        for versions in versions_to_try(histories, said, row[names.TIMESTAMP][0].as_py()):
            if tried >= (1 if fits else _MOST_VERSIONS) or time.monotonic() > self._deadline:
                break
            tried += 1
            then = self._opened(spec, tags, partition, versions)
            if then is not None and self._fits(spec, row, then.stream):
                return MadeFrom(then, now)
        if fits:
            return MadeFrom(now, now)
        return MadeFrom(None, now, self._why_lost(spec, row, now, tried))

    def _opened(
        self, spec: PacketAssetSpec, tags: Mapping[str, Any], partition: str | None, versions: Mapping[dg.AssetKey, int] | None
    ) -> InputRows | None:  # fmt: skip
        """Open the inputs; `None` where they cannot be read, or brought together, as the asset is declared now."""
        try:
            return input_rows(self._desk, spec, tags, partition, versions)
        except OrcapodError:
            return None

    def _fits(self, spec: PacketAssetSpec, row: pa.Table, stream: PacketStream) -> bool:
        """Tell whether a packet is the one that a row was made from: by its hash, and by what the row carries along."""
        if stream.num_rows != 1:
            return False
        try:
            hashed = self.pod(spec).hash(stream)
            if hashed.hashes[0].as_py() != row[names.INPUT_HASH][0].as_py():
                return False
            carried = [name for name in spec.carry if name in row.column_names]
            (batch,) = stream.scan(carried) if carried else (pa.table({}),)
            return all(_same(batch.column(i), row[name]) for i, name in enumerate(carried))
        except (OrcapodError, pa.ArrowException):
            return False

    def _histories_of(self, spec: PacketAssetSpec) -> dict[dg.AssetKey, TableHistory]:
        for key in spec.inputs.values():
            if key not in self._histories:
                lake = self._desk.lake_table(key, self._desk.asset(spec.key))
                self._histories[key] = None if lake is None else read_history(*lake)
        found = {key: self._histories[key] for key in spec.inputs.values()}
        return {key: history for key, history in found.items() if history is not None and history.commits}

    def _why_lost(self, spec: PacketAssetSpec, row: pa.Table, now: InputRows | None, tried: int) -> str:
        if now is None:
            seen = "its inputs cannot be brought together as they are declared now"
        elif now.stream.num_rows != 1:
            seen = f"{now.stream.num_rows or 'no'} input rows have its tags now"
        else:
            seen = "the input row with its tags has other values now"
        then = (
            f"and none of {tried} earlier versions of the tables that were looked at has them"
            if tried
            else "and no earlier version of the tables is there"
        )
        signature = function_signature_hash(spec.function.function)
        code = (
            ""
            if row[names.SIGNATURE_HASH][0].as_py() == signature
            else "; the function's parameters are others than then"
        )
        return f"the values that it was made from are not known any more: {seen}, {then}{code}"


def _versions_said(row: pa.Table) -> dict[str, int]:
    extra = dict(row[names.EXECUTION_PREFIX + "extra_info"][0].as_py() or ())
    return json.loads(extra.get(INPUT_VERSIONS_INFO, "{}"))


def _is_younger(inputs: InputRows, row: pa.Table) -> bool:
    """Tell whether a record among the inputs was made after the row that it should have made."""
    made = row[names.TIMESTAMP][0].as_py()
    for found in inputs.found.values():
        if names.TIMESTAMP in found.schema.names:
            for batch in found.scan([names.TIMESTAMP]):
                if any(stamp > made for stamp in batch.column(0).to_pylist()):
                    return True
    return False


def _change(row: pa.Table, now: FoundRows) -> str | None:
    """Return how a row differs from what its table holds of the same tags now; `None` where it stands there as it was."""
    own = [name for name in row.column_names if not names.is_reserved(name)]
    if not now.num_rows:
        return "its table has no such row now"
    missing = [name for name in own if name not in now.schema.names]
    if missing:
        return f"its table has no column {missing[0]!r} now"
    table = pa.Table.from_batches(now.scan(own))
    differing = [[c for c in own if not _same(table[c].slice(i, 1), row[c])] for i in range(table.num_rows)]
    if not all(differing):
        return None
    column = differing[0][0]
    was, is_now = readable_pair(row[column][0].as_py(), table[column][0].as_py(), 40)
    more = f" and {len(differing[0]) - 1} other columns" if len(differing[0]) > 1 else ""
    return f"{column} was {was}, is {is_now} now{more}"


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values, arrays of one, are equal by content; of another type, where it holds the value exactly."""
    try:
        target = one_array(other)
        return hash_rows({"": recast(one_array(one), target.type)}).equals(hash_rows({"": target}))
    except (OrcapodError, pa.ArrowException):
        return False
