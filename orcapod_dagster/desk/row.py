"""PacketRow: one packet of an asset as it stands, and the function called with it in this process."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import InputError, TableNotFoundError
from orcapod_dagster.core.executors.event_loop import run_coroutine
from orcapod_dagster.core.hashing import PACKET_METHOD
from orcapod_dagster.core.one_packet import call_here
from orcapod_dagster.core.packet_logs import PacketLogs, log_path
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.readable import readable
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.core.types import ContentHash
from orcapod_dagster.desk.finding import find_rows
from orcapod_dagster.desk.opening import AssetLike, Desk, desk_at
from orcapod_dagster.desk.packets import check_partition, input_rows, packet_tags, partition_of, tags_told
from orcapod_dagster.spec import PacketAssetSpec

_LINES: Final = 20


@dataclass(frozen=True)
class PacketRow:
    """One packet of a packet asset, outside of a run. Tables have one row per record, with all columns.

    Attributes:
        asset, partition, tags: which it is.
        arguments: parameter → Python value, as a run gives it to the function; `positional` and `keyword` are the same.
        input_hash: of the packet.
        refused: why a run does not call the function with it; None where it does.
        table_row: its row in the asset's table, or None.
        result: the stored result that counts for the function as it is now, or None.
        other_results: further stored results of the packet, of other code or older, newest first; or None.
        outcome: its newest failure or skip, or None; of whatever code.
        logs: what it printed and logged in all runs that computed it, as `core.packet_logs.LOG_SCHEMA`, in the order of time.
        next_run: what the next run does with it, and why.
    """

    asset: dg.AssetKey
    partition: str | None
    tags: Mapping[str, Any]
    arguments: Mapping[str, Any]
    input_hash: ContentHash
    refused: str | None
    table_row: pa.Table | None
    result: pa.Table | None
    other_results: pa.Table | None
    outcome: pa.Table | None
    logs: pa.Table
    next_run: str
    _spec: PacketAssetSpec = field(repr=False)
    positional: Sequence[Any] = field(repr=False)
    keyword: Mapping[str, Any] = field(repr=False)

    def call(self) -> Any:
        """Call the plain function in this process with the packet's arguments, and return what it returns.

        Worker state, and resources, are made here for this call. Nothing is caught, captured, converted or stored; a breakpoint
        in the function stops there. An `async def` runs to its end.
        """
        value = call_here(self.function, self.positional, self.keyword, self._spec.function.factories())
        return run_coroutine(value) if inspect.iscoroutine(value) else value

    @property
    def function(self) -> Any:
        """The plain function; a generator as one that gives the list of its rows, for it would not run else."""
        function = self._spec.function
        return function.for_rows() if function.is_generator else function.function

    def describe(self) -> str:
        """Return all of this as text, values cut to a readable length."""
        part = "" if self.partition is None else f", partition {self.partition}"
        lines = [f"{self.asset.to_user_string()}: {tags_told(self.tags)}{part}", f"  input   {self.input_hash}"]
        lines += [f"    {name} = {readable(value)}" for name, value in self.arguments.items()]
        if self.refused is not None:
            lines.append(f"    refused: {self.refused}")
        lines.append(f"  the next run {self.next_run}")
        lines += _described("result", self.result, "none that counts now")
        if self.other_results is not None:
            lines.append(
                f"  further results, of other code or older: {self.other_results.num_rows}; the newest of them:"
            )
            lines += _described("result", self.other_results.slice(0, 1), "")
        if self.outcome is not None:
            lines += _described_outcome(self.outcome.to_pylist()[0])
        lines += _described_logs(self.logs)
        if self.table_row is None:
            lines.append("  table   has no row with these tags")
        return "\n".join(lines)


def _described(title: str, record: pa.Table | None, without: str) -> list[str]:
    if record is None or not record.num_rows:
        return [f"  {title}  {without}"]
    values = record.to_pylist()[0]
    own = [f"    {name} = {readable(value)}" for name, value in values.items() if not names.is_reserved(name)]
    made = [f"    {label:8s}{text}" for label, text in record_facts(values).items()]
    return [f"  {title}", *own, *made]


def _described_outcome(values: Mapping[str, Any]) -> list[str]:
    head = f"  newest failure or skip: {values['state']} at {values[names.TIMESTAMP]:%Y-%m-%d %H:%M:%S} UTC"
    attempts = values.get("attempts") or 1
    head += f", after {attempts} attempts" if attempts > 1 else ""
    error = f"    {values['error_type']}: {values['message']}"
    trace = [f"    | {line}" for line in values["traceback"].rstrip().splitlines()]
    return [head, error, *trace, *(f"    {label:8s}{text}" for label, text in record_facts(values).items())]


def _described_logs(logs: pa.Table) -> list[str]:
    """Return the last lines of the newest run in which the packet said anything."""
    if not logs.num_rows:
        return []
    run_id = logs["run_id"][-1]
    entries = logs.filter(pc.equal(logs["run_id"], run_id)).to_pylist()
    said = [f"{one['level'] or one['stream']}: {line}" for one in entries for line in one["text"].splitlines()]
    cut = [f"    ({len(said) - _LINES} lines before)"] if len(said) > _LINES else []
    return [f"  printed and logged in run {run_id}", *cut, *(f"    {line}" for line in said[-_LINES:])]


def record_facts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return who made a record, where and when, as text under short labels; `values` are its columns."""
    variation, execution = names.VARIATION_PREFIX, names.EXECUTION_PREFIX
    extra = dict(values[execution + "extra_info"] or ())
    facts = {
        "record": str(uuid.UUID(bytes=values[names.RECORD_ID])) if names.RECORD_ID in values else "",
        "code": f"{values[variation + 'function_name']} {values[variation + 'function_content_hash']}",
        "git": values[variation + "git_hash"],
        "ran": f"{values[execution + 'executor_type']}, Python {values[execution + 'python_version']}, "
        f"{extra.get('host', '')}",
        "run": extra.get("run_id", ""),
        "when": f"{values[names.TIMESTAMP]:%Y-%m-%d %H:%M:%S} UTC, {values[names.DURATION]:.3g} s",
    }
    return {label: text for label, text in facts.items() if text}


def packet_row(
    definitions: Any,
    asset: AssetLike | None = None,
    *,
    tags: Mapping[str, Any],
    partition: str | None = None,
    **lake: Any,
) -> PacketRow:
    """Find one packet of a packet asset by its tags, outside of a run. Nothing is stored, and no user code runs.

    Args:
        definitions: a `Definitions` object, a repository, a `Desk`, or the packet asset itself.
        asset: its key or definition; may be left out where `definitions` is the asset.
        tags: every tag column → value, of its Python type or as text.
        partition: of the asset; where it is left out, it is found by the row's values.
        lake: `root_uri`, `storage_options`, `resources`, `instance`, as `Desk` takes them.

    Raises:
        InputError: no input row has these tags, or several have.
        DefinitionError: there is no such packet asset. LakeError: a table cannot be read.

    Example:
        >>> row = packet_row(defs, "to_celsius", tags={"reading_id": "a"})
        >>> row.arguments
        {'fahrenheit': 32.0}
        >>> row.call()
        0.0
    """
    with desk_at(definitions, asset, lake) as (desk, wanted):
        return _row(desk, wanted, tags, partition)


def one_packet(
    desk: Desk, spec: PacketAssetSpec, tags: Mapping[str, Any], partition: str | None
) -> tuple[PacketStream, str | None]:
    """Return the one input row with these tags as a stream, and its partition.

    Raises:
        InputError: no input row has these tags, or several have.
    """
    if partition is None:
        partition = partition_of(desk, spec, tags)
    else:
        check_partition(desk, spec, partition)
    stream = input_rows(desk, spec, tags, partition).stream
    if stream.num_rows != 1:
        raise InputError(
            f"{spec.key.to_user_string()}: {stream.num_rows or 'no'} input rows have the tags {tags_told(tags)}; a run needs "
            "just one. Check the values of the tags, and the inputs for rows that are gone or stand there twice."
        )
    return stream, partition


def _row(desk: Desk, asset: Any, tags: Mapping[str, Any], partition: str | None) -> PacketRow:
    spec = desk.spec(asset)
    tags = packet_tags(spec, tags)
    stream, partition = one_packet(desk, spec, tags, partition)
    pod = desk.planning_pod(spec, partition)
    hashed = pod.hash(stream)
    plan = pod.plan(stream, hashed)
    bound, positional, keyword = pod.arguments(stream)
    results = records_of(pod.cache.source(), hashed.hashes)
    current = current_result(plan)
    others = _without(results, current)
    outcomes = records_of(pod.outcomes.database.source(pod.outcomes.path), hashed.hashes)
    return PacketRow(
        asset=spec.key, partition=partition,
        tags=pa.Table.from_batches(stream.scan(stream.tag_columns)).to_pylist()[0],
        arguments=bound, input_hash=ContentHash(PACKET_METHOD, hashed.hashes[0].as_py()),
        refused=hashed.invalid.get(0), table_row=table_row_of(desk, spec, tags, partition),
        result=current, other_results=others, outcome=None if outcomes is None else outcomes.slice(0, 1),
        logs=PacketLogs(pod.cache.database, log_path(spec.function.uri)).read(hashed.hashes),
        next_run=next_run(plan), _spec=replace(spec, function=pod.function), positional=positional, keyword=keyword,
    )  # fmt: skip


def next_run(plan: Plan) -> str:
    """Say what the next run does with the one packet of a plan, and why."""
    if plan.invalid:
        return "counts it as failed, for its input is refused"
    if len(plan.skipped):
        return "skips it, as before"
    if len(plan.failed):
        return "counts it as failed, for it failed before and is not tried again, as retry_failed says (force tries it)"
    return f"computes it: {', '.join(plan.reasons.counts())}" if len(plan.to_compute) else "uses the stored result"


def current_result(plan: Plan) -> pa.Table | None:
    """Return the stored result that counts of the one packet of a plan."""
    if plan.snapshot is None or plan.found.null_count:
        return None
    return plan.snapshot.source.take(plan.found, plan.snapshot.source.schema.names)


def records_of(source: Any, hashes: pa.Array) -> pa.Table | None:
    """Return all records of one input hash, newest first; `None` where there is none."""
    if source is None:
        return None
    found = source.find(names.INPUT_HASH, hashes, source.schema.names)[1]
    return found.take(pc.sort_indices(found, [(names.TIMESTAMP, "descending")])) if found.num_rows else None


def _without(records: pa.Table | None, one: pa.Table | None) -> pa.Table | None:
    if records is None or one is None:
        return records
    others = records.filter(pc.not_equal(records[names.RECORD_ID], one[names.RECORD_ID][0]))
    return others if others.num_rows else None


def table_row_of(desk: Desk, spec: PacketAssetSpec, tags: Mapping[str, Any], partition: str | None) -> pa.Table | None:
    """Return the row of an asset's table with these tags, or `None`."""
    try:
        found = find_rows(desk.table(spec, partition), tags)
    except TableNotFoundError:
        return None
    return pa.Table.from_batches(found.scan(found.schema.names)) if found.num_rows else None
