"""RunStatus: how far each packet of a run is, while it goes on and afterwards, from whatever process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import InputError, RunNotFoundError
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.outcomes import FAILED, SKIPPED
from orcapod_dagster.core.packet_states import COMPUTED, ERROR, REASON, STATE, packet_states
from orcapod_dagster.core.plan_log import CACHED, PENDING, PlanLog, digest, plan_path
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.reasons import counted
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.desk.opening import AssetLike, Desk, desk_at
from orcapod_dagster.desk.packets import tags_told
from orcapod_dagster.inputs import open_stream
from orcapod_dagster.spec import PacketAssetSpec

STATES: Final = (FAILED, PENDING, COMPUTED, SKIPPED, CACHED)
"""In the order in which they are shown: what asks for attention first."""
_RUN_TAG: Final = b"orcapod.run_id"


@dataclass(frozen=True)
class RunStatus:
    """How far one run of a packet asset is.

    Attributes:
        asset, partition: which; the partition also as `first...last`, None without partitions.
        run_id: of the Dagster run. planned_at: when it set out to compute, the last time where its step was tried again.
        run_state: what Dagster says of the run ("STARTED", "FAILURE", …); None where no instance is known.
        table: one row per row of the input, in its order, as the run read it: the tag columns, then `STATE_SCHEMA`.
    """

    asset: dg.AssetKey
    partition: str | None
    run_id: str
    planned_at: dt.datetime
    run_state: str | None
    table: pa.Table

    @property
    def counts(self) -> dict[str, int]:
        """State → packets, of those states that there are."""
        found = counted(self.table[STATE].combine_chunks())
        return {state: found[state] for state in STATES if state in found}

    def describe(self, states: Sequence[str] = STATES, limit: int = 20) -> str:
        """Return it as text: the counts, and the first rows in these states, those that ask for attention first."""
        part = "" if self.partition is None else f", partition {self.partition}"
        said = "" if self.run_state is None else f" ({self.run_state})"
        lines = [
            f"{self.asset.to_user_string()}{part}: run {self.run_id}{said}, computing since {self.planned_at:%Y-%m-%d %H:%M:%S} UTC",
            f"  {self.table.num_rows:,} packets: {', '.join(f'{n:,} {state}' for state, n in self.counts.items())}",
        ]
        shown = [self.table.filter(pc.equal(self.table[STATE], state)) for state in STATES if state in states]
        rows = pa.concat_tables([self.table.schema.empty_table(), *shown])
        lines += [f"  {_told(row)}" for row in rows.slice(0, limit).to_pylist()]
        if rows.num_rows > limit:
            lines.append(f"  … and {rows.num_rows - limit:,} more")
        return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> str:
    tags = {name: value for name, value in row.items() if not names.is_reserved(name)}
    took = "" if row[names.DURATION] is None else f", {row[names.DURATION]:.3g} s"
    return f"{row[STATE]:9s}{tags_told(tags)}{took}" + "".join(
        f"; {row[name]}" for name in (REASON, ERROR) if row[name]
    )


def status(
    definitions: Any,
    asset: AssetLike | None = None,
    *,
    run_id: str | None = None,
    partition: str | None = None,
    **lake: Any,
) -> RunStatus:
    """Say of each packet of a run whether it is computed, cached, failed, skipped or still pending, and why it is computed.

    Nothing is computed or stored, and no user code runs; the run may still go on.

    Args:
        definitions, asset, lake: as `packet_row` takes them.
        run_id: the Dagster run; default the latest that had something to compute.
        partition: only runs of this partition, or range of them (`first...last`).

    Raises:
        RunNotFoundError: no such run had anything to compute.
        InputError: the inputs do not give the packets of that run any more.
        DefinitionError: there is no such packet asset. LakeError: a table cannot be read.

    Example:
        >>> print(status(defs, "to_celsius").describe())
        to_celsius: run 0b54…, computing since 2026-11-28 09:00:00 UTC
          10,000 packets: 3 FAILED, 497 PENDING, 500 COMPUTED, 9,000 CACHED
          FAILED   reading_id=a, 0.01 s; no earlier result; ValueError: too cold
        ...
    """
    with desk_at(definitions, asset, lake) as (desk, wanted):
        return _status(desk, wanted, run_id, partition)


def _status(desk: Desk, asset: Any, run_id: str | None, partition: str | None) -> RunStatus:
    spec = desk.spec(asset)
    pod = desk.pod(spec)
    log = PlanLog(pod.cache.database, plan_path(spec.function.uri))
    runs = _runs_of(log, spec, run_id, partition)
    latest = runs[-1]
    streams = _streams(desk, spec, latest["input"])
    hashes = pa.concat_arrays([pa.array([], HASH_TYPE), *(pod.hash(stream).hashes for stream in streams)])
    if digest(hashes) != latest["input"]["digest"]:
        raise InputError(_other_packets(spec, latest, len(hashes)))
    plans = [(run, log.named(run)) for run in runs]
    states = packet_states(hashes, plans, pod.cache.database.source(pod.cache.record_path), _outcomes(pod))
    tags = pa.concat_tables([_tags_of(stream) for stream in streams])
    for name in states.column_names:
        tags = tags.append_column(states.schema.field(name), states[name])
    told = tags.replace_schema_metadata({_RUN_TAG: latest["run_id"].encode()})
    return RunStatus(
        spec.key,
        latest["partition"],
        latest["run_id"],
        latest[names.TIMESTAMP],
        _run_state(desk, latest["run_id"]),
        told,
    )


def _runs_of(log: PlanLog, spec: PacketAssetSpec, run_id: str | None, partition: str | None) -> list[dict[str, Any]]:
    """Return the plans of one run of an asset, oldest first: one per try of its step that had something to compute."""
    owner = spec.key.to_user_string()
    wanted = {"asset": owner, "run_id": run_id, "partition": partition}
    asked = {name: value for name, value in wanted.items() if value is not None}
    found = [run for run in log.runs() if all(run[name] == value for name, value in asked.items())]
    if not found:
        told = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise RunNotFoundError(
            f"No run is known that had packets to compute ({told}). A run whose packets were all cached leaves no trace; else "
            "check the lake, the run id, and whether the function's name, outputs or major version changed since."
        )
    return [run for run in found if run["run_id"] == found[-1]["run_id"]]


def _streams(desk: Desk, spec: PacketAssetSpec, read: Mapping[str, Any]) -> list[PacketStream]:
    """Open the inputs as the run read them, partition by partition."""
    versions = {
        key: read["versions"][key.to_user_string()]
        for key in spec.inputs.values()
        if key.to_user_string() in read["versions"]
    }
    streams = [
        open_stream(spec, desk.inputs(spec, partition, versions), desk.graph)
        for partition in read["partitions"] or [None]
    ]
    return streams if read["rows"] is None else [stream.where(read["rows"]) for stream in streams]


def _outcomes(pod: FunctionPod) -> Any:
    return pod.outcomes.database.source(pod.outcomes.path)


def _tags_of(stream: PacketStream) -> pa.Table:
    tags = list(stream.tag_columns)
    schema = pa.schema([stream.schema().field(tag) for tag in tags])
    return pa.Table.from_batches(stream.scan(tags), schema=schema)


def _run_state(desk: Desk, run_id: str) -> str | None:
    instance = desk.instance
    run = None if instance is None else instance.get_run_by_id(run_id)
    return None if run is None else run.status.value


def _other_packets(spec: PacketAssetSpec, run: Mapping[str, Any], rows: int) -> str:
    unversioned = [
        key.to_user_string() for key in spec.inputs.values() if key.to_user_string() not in run["input"]["versions"]
    ]
    kept = f" Of {', '.join(unversioned)} no versions are kept, so it is read as it is now." if unversioned else ""
    return (
        f"{spec.key.to_user_string()}: its inputs give {rows:,} packets now, and run {run['run_id']} had "
        f"{run['input']['digest'].partition(':')[0]}, or others: a default, params, or what makes the packets changed since, or a file "
        f"that they name.{kept} What became of its packets stands, by their hashes, in the tables of plans, results and outcomes."
    )
