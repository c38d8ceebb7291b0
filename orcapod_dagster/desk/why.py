"""Why one row is as it is: whether its stored result is used, why it would be computed, and why the result was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.asset_write import INPUT_VERSIONS
from orcapod_dagster.core.code_diff import PartChange, to_text
from orcapod_dagster.core.earlier_rows import INPUT_CHANGED
from orcapod_dagster.core.errors import OrcapodError
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.outcomes import FAILED
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.readable import readable, readable_pair
from orcapod_dagster.core.reasons import EARLIER_FAILURE, NO_EARLIER_RESULT, change_between
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.desk.opening import AssetLike, Desk, desk_at
from orcapod_dagster.desk.packets import input_rows, packet_tags, tags_told
from orcapod_dagster.desk.row import current_result, next_run, one_packet, record_facts, records_of, table_row_of
from orcapod_dagster.desk.trace import Past
from orcapod_dagster.spec import PacketAssetSpec

_ABSENT: Final = "(no such column)"
_UNTOLD: Final = (
    "forced, or the result before did not count for what is not on record (another match policy, a lost large value)"
)


@dataclass(frozen=True)
class Why:
    """Why one row of a packet asset is as it is, and what the next run does with it.

    Attributes:
        asset, partition, tags: which row.
        cached: whether the next run uses the stored result.
        next_run: what the next run does with it, and why; the reason has the name that a materialization gives it.
        code: what changed in the code since the packet's newest result was made, with the difference of the source.
        columns: of a row whose input changed, column → its value then and now, cut short; empty where that is not known.
        note: why the earlier input is not known, or what else is to be said; empty without.
        stored: who made the result that is used, or else the packet's newest one or that of the table's row: labels → text;
            empty without any.
        made_because: why that result was computed, as far as records tell; None without a result.
    """

    asset: dg.AssetKey
    partition: str | None
    tags: Mapping[str, Any]
    cached: bool
    next_run: str
    code: tuple[PartChange, ...]
    columns: Mapping[str, tuple[str, str]]
    note: str
    stored: Mapping[str, str]
    made_because: str | None

    def describe(self) -> str:
        """Return all of this as text."""
        part = "" if self.partition is None else f", partition {self.partition}"
        lines = [f"{self.asset.to_user_string()}: {tags_told(self.tags)}{part}", f"  the next run {self.next_run}"]
        for column, (then, now) in self.columns.items():
            lines += [f"    {column}", f"      then {then}", f"      now  {now}"]
        lines += [f"    {line}" for line in to_text(self.code)]
        if self.note:
            lines.append(f"    {self.note}")
        if self.made_because is None:
            lines.append("  there is no stored result")
        else:
            lines += ["  the stored result", *(f"    {label:8s}{text}" for label, text in self.stored.items())]
            lines.append(f"    because {self.made_because}")
        return "\n".join(lines)


def why(
    definitions: Any,
    asset: AssetLike | None = None,
    *,
    tags: Mapping[str, Any],
    partition: str | None = None,
    **lake: Any,
) -> Why:
    """Say of one row of a packet asset whether it is cached, and why it would be, and was, computed.

    Nothing is computed or stored, and no user code runs.

    Args:
        definitions, asset, tags, partition, lake: as `packet_row` takes them.

    Raises:
        InputError: no input row has these tags, or several have.
        DefinitionError: there is no such packet asset. LakeError: a table cannot be read.

    Example:
        >>> print(why(defs, "to_celsius", tags={"reading_id": "a"}).describe())
        to_celsius: reading_id=a
          the next run computes it: the code changed: helper project.tools.scale
        ...
    """
    with desk_at(definitions, asset, lake) as (desk, wanted):
        return _why(desk, wanted, tags, partition)


def _why(desk: Desk, asset: Any, tags: Mapping[str, Any], partition: str | None) -> Why:
    spec = desk.spec(asset)
    tags = packet_tags(spec, tags)
    stream, partition = one_packet(desk, spec, tags, partition)
    pod = desk.planning_pod(spec, partition)
    hashed = pod.hash(stream)
    plan = pod.plan(stream, hashed)
    current = current_result(plan)
    results = records_of(pod.cache.source(), hashed.hashes)
    in_table = table_row_of(desk, spec, tags, partition)
    shown = current if current is not None else results if results is not None else in_table
    columns, note = dict[str, tuple[str, str]](), ""
    if in_table is not None and INPUT_CHANGED in plan.reasons.counts():
        columns, note = _changed_columns(desk, spec, pod, stream, in_table, tags, partition)
    changed = pod.planner.code_changes(plan)
    record = None if shown is None else shown.slice(0, 1)
    return Why(
        asset=spec.key, partition=partition,
        tags=pa.Table.from_batches(stream.scan(stream.tag_columns)).to_pylist()[0],
        cached=current is not None, next_run=next_run(plan), code=changed[0].parts if changed else (),
        columns=columns, note=note, stored={} if record is None else record_facts(record.to_pylist()[0]),
        made_because=None if record is None else _made_because(pod, record),
    )  # fmt: skip


# ---------------------------------------------------------------------------- which column of the input


def _changed_columns(
    desk: Desk, spec: PacketAssetSpec, pod: FunctionPod, stream: PacketStream, in_table: pa.Table,
    tags: Mapping[str, Any], partition: str | None,
) -> tuple[dict[str, tuple[str, str]], str]:  # fmt: skip
    """Return the consumed columns that differ from those of the table's row, both values cut short; and why, where unknown."""
    before, note = _input_then(desk, spec, pod, in_table, tags, partition)
    if before is None:
        return {}, note
    then, now = _consumed(pod, before), _consumed(pod, stream)
    found: dict[str, tuple[str, str]] = {}
    for name in now:
        if name not in then:
            found[name] = _ABSENT, readable(now[name][0].as_py())
        elif hash_rows({name: then[name]}) != hash_rows({name: now[name]}):
            found[name] = readable_pair(then[name][0].as_py(), now[name][0].as_py())
    found |= {name: (readable(value[0].as_py()), _ABSENT) for name, value in then.items() if name not in now}
    return found, "" if found else "no column differs as it stands: a file that the packet names has another content"


def _input_then(
    desk: Desk, spec: PacketAssetSpec, pod: FunctionPod, in_table: pa.Table, tags: Mapping[str, Any], partition: str | None
) -> tuple[PacketStream | None, str]:  # fmt: skip
    """Find the input that the table's row was made from: in the versions that its materialization read, or else in others."""
    wanted = in_table[names.INPUT_HASH][0].as_py()
    said = json.loads((desk.standing_commit(spec, partition) or {}).get(INPUT_VERSIONS, "{}"))
    versions = {key: said[key.to_user_string()] for key in spec.inputs.values() if key.to_user_string() in said}
    if versions:
        try:
            stream = input_rows(desk, spec, tags, partition, versions).stream
            if stream.num_rows == 1 and pod.hash(stream).hashes[0].as_py() == wanted:
                return stream, ""
        except OrcapodError:
            pass  # that version cannot be read any more, or not as the asset is declared now
    made = Past(desk).inputs_of(spec, in_table, tags, partition)
    return (None, made.note) if made.rows is None else (made.rows.stream, "")


def _consumed(pod: FunctionPod, stream: PacketStream) -> dict[str, pa.Array]:
    """Return the columns that the function takes from the one row of a stream, in its parameters' types."""
    available = stream.schema().names
    taken = [name for name in pod.function.input_packet_schema if name in available]
    (batch,) = stream.scan(taken)
    bound = pod.function.bind_columns(dict(zip(taken, batch.columns, strict=True)), 1)
    return {name: bound[name] for name in taken}


# ---------------------------------------------------------------------------- why a result was made


def _made_because(pod: FunctionPod, record: pa.Table) -> str:
    """Say why a stored result was computed: by the result before it of the same packet, and what came in between."""
    hashes = record[names.INPUT_HASH].combine_chunks().cast(pa.binary(16))
    at = record[names.TIMESTAMP][0]
    before = _newest_before(pod.cache.source(), hashes, at)
    outcome = _newest_before(pod.outcomes.database.source(pod.outcomes.path), hashes, at)
    if outcome is not None and outcome["state"][0].as_py() == FAILED and (before is None or _is_newer(outcome, before)):
        return EARLIER_FAILURE
    if before is None:
        return f"{NO_EARLIER_RESULT} of this packet"
    return change_between(before, record, pod.codes) or _UNTOLD


def _is_newer(one: pa.Table, other: pa.Table) -> bool:
    return one[names.TIMESTAMP][0].as_py() > other[names.TIMESTAMP][0].as_py()


def _newest_before(source: Any, hashes: pa.Array, at: pa.Scalar) -> pa.Table | None:
    found = records_of(source, hashes)
    earlier = None if found is None else found.filter(pc.less(found[names.TIMESTAMP], at))
    return earlier.slice(0, 1) if earlier is not None and earlier.num_rows else None
