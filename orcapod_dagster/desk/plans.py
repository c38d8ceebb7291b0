"""The plan of packet assets outside of a run: what would be computed, why, and for how long; nothing runs or is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster.assembly import Assembly
from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import DefinitionError, OrcapodError, TableNotFoundError
from orcapod_dagster.core.hashing import RowSetDigest
from orcapod_dagster.core.key_index import in_memory
from orcapod_dagster.core.plan_report import PlanReport
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.readable import readable_seconds
from orcapod_dagster.desk.opening import AssetLike, Desk
from orcapod_dagster.desk.packets import check_partition
from orcapod_dagster.dry_run import plan_lines
from orcapod_dagster.inputs import open_stream
from orcapod_dagster.recompute_guard import over_limit
from orcapod_dagster.resources import RESULT_STORE_KEY
from orcapod_dagster.run_options import RunOptions
from orcapod_dagster.spec import PacketAssetSpec


@dataclass(frozen=True, slots=True)
class AssetPlan:
    """What a run of one packet asset would do, with its inputs as they are now.

    Attributes:
        asset, partition: which; None for an asset without partitions, and for all partitions of one that has some.
        report: what would be computed; None where `problem` says why that cannot be known.
        would_change: whether its table would have other rows afterwards, so that what is downstream may have more to do.
        changed_inputs: its inputs that would change when everything upstream runs, too; then the report is the least.
        guarded: whether the recompute guard would stop the run.
    """

    asset: dg.AssetKey
    partition: str | None
    report: PlanReport | None
    problem: str | None
    would_change: bool
    changed_inputs: tuple[dg.AssetKey, ...]
    guarded: bool

    def describe(self) -> str:
        """Return all of this as text."""
        part = "" if self.partition is None else f", partition {self.partition}"
        lines = [f"{self.asset.to_user_string()}{part}"]
        if self.report is None:
            lines.append(f"cannot be planned: {self.problem}")
        else:
            lines += plan_lines(self.report, guarded=self.guarded)
        if self.changed_inputs:
            changed = ", ".join(key.to_user_string() for key in self.changed_inputs)
            lines.append(f"At least this: its input {changed} would change, and nobody knows to what before it runs.")
        elif self.report is not None and not self.report.would_compute and self.would_change:
            lines.append("Its table would be written anew, from results that are there.")
        return "\n  ".join(lines)


def plan(
    definitions: Any,
    assets: AssetLike | Sequence[AssetLike] | None = None,
    *,
    partition: str | None = None,
    force: bool = False,
    rows: str | None = None,
    **lake: Any,
) -> list[AssetPlan]:
    """Say what a run of packet assets would compute, why, and how long that would take. No function is called, nothing written.

    Inputs are read as they are now. Where a packet asset upstream would change, what its downstream assets compute cannot be
    known before it has run: their plans are the least, and say so.

    Args:
        definitions, lake: as `packet_row` takes them.
        assets: one packet asset, or a list of several; default all of the definitions.
        partition: of those assets that have partitions; all their partitions by default.
        force: what would run if everything were computed, also what has a result.
        rows: an SQL condition on tag columns that narrows the packets.

    Returns:
        A plan per asset, upstream assets first.

    Raises:
        DefinitionError: an asset is not there or no packet asset. PartitionError: it has no such partition. What keeps a
            single asset from being planned, as a missing input, is its plan's `problem`.

    Example:
        >>> from orcapod_dagster.desk import plan
        >>> for one in plan(defs):
        ...     print(one.describe())
    """
    if not isinstance(definitions, Desk):
        with Desk(definitions, **lake) as desk:
            return plan(desk, assets, partition=partition, force=force, rows=rows)
    specs = _chosen(definitions, assets)
    if partition is not None:
        with_partitions = [s for s in specs if definitions.asset(s.key).partitions_def is not None]
        for spec in with_partitions or specs:
            check_partition(definitions, spec, partition)
    return list(_Planner(definitions, partition, RunOptions(force=force, rows=rows)).plans(specs))


def in_all(plans: Sequence[AssetPlan]) -> str:
    """Return what all of these would take together, as text."""
    reports = [one.report for one in plans if one.report is not None]
    seconds = [one.cost.seconds for one in reports]
    known = readable_seconds(sum(one for one in seconds if one is not None))
    vague = len(reports) < len(plans) or None in seconds or any(one.changed_inputs for one in plans)
    return (
        f"In all {sum(one.would_compute for one in reports):,} packets would be computed, {'at least ' if vague else ''}"
        f"{known} of the functions."
    )


def _chosen(desk: Desk, assets: AssetLike | Sequence[AssetLike] | None) -> list[PacketAssetSpec]:
    if assets is None:
        keys = [key for key in desk.graph.toposorted_asset_keys if desk.is_packet_asset(key)]
        if not keys:
            raise DefinitionError("The definitions have no packet asset, so there is nothing to plan.")
        return [desk.spec(key) for key in keys]
    listed: Sequence[Any] = assets if isinstance(assets, list | tuple) else [assets]
    return [desk.spec(one) for one in listed]


class _Planner:
    """Plans assets, upstream ones first, for whether those change tells how far a plan can be trusted."""

    def __init__(self, desk: Desk, partition: str | None, options: RunOptions) -> None:
        self._desk = desk
        self._partition = partition
        self._options = options

    def plans(self, specs: Sequence[PacketAssetSpec]) -> Iterator[AssetPlan]:
        """Yield the plan of each asset. Only these are taken to run, and ordinary assets between them."""
        wanted = {spec.key: spec for spec in specs}
        changes: set[dg.AssetKey] = set()
        for key in self._desk.graph.toposorted_asset_keys:
            changed = tuple(sorted(self._desk.graph.get(key).parent_keys & changes))
            if key in wanted:
                made = self._plan(wanted[key], changed)
                yield made
                if made.would_change:
                    changes.add(key)
            elif changed and not self._desk.is_packet_asset(key):
                changes.add(key)

    def _plan(self, spec: PacketAssetSpec, changed: tuple[dg.AssetKey, ...]) -> AssetPlan:
        partition = None if self._desk.asset(spec.key).partitions_def is None else self._partition
        limit_hours = self._desk.resource(RESULT_STORE_KEY, self._desk.asset(spec.key)).recompute_limit_hours
        try:
            with in_memory():
                report, would_change = self._look(spec, partition)
        except (OrcapodError, FileNotFoundError) as error:
            return AssetPlan(spec.key, partition, None, str(error), True, changed, False)
        guarded = over_limit(report.recomputation, limit_hours, self._options)
        return AssetPlan(spec.key, partition, report, None, would_change or bool(changed), changed, guarded)

    def _look(self, spec: PacketAssetSpec, partition: str | None) -> tuple[PlanReport, bool]:
        stream = open_stream(spec, self._desk.inputs(spec, partition), self._desk.graph)
        if self._options.rows is not None:
            stream = stream.where(self._options.rows)
        stream.refuse_unclear_tags()
        pod = self._desk.planning_pod(spec, partition)
        plan = pod.plan(stream, force=self._options.force)
        report = PlanReport.of(plan, pod)
        return report, bool(report.would_compute) or (
            self._options.rows is None and self._table_differs(spec, plan, partition)
        )

    def _table_differs(self, spec: PacketAssetSpec, plan: Plan, partition: str | None) -> bool:
        """Tell whether the asset's table holds other rows than those that a run without anything to compute would write."""
        try:
            table = self._desk.table(spec, partition)
        except TableNotFoundError:
            return True
        there = plan.found.is_valid()
        stream = (
            plan.stream.narrow(pc.indices_nonzero(there).cast(pa.int64())) if plan.found.null_count else plan.stream
        )
        assembly = Assembly.of(spec, stream, plan.snapshot, plan.found.filter(there))
        columns = [*assembly.kept, names.RECORD_ID]
        if table.num_rows != stream.num_rows or not set(columns) <= set(table.schema.names):
            return True
        return _digest(table.scan(columns)) != _digest(assembly.scan(columns))


def _digest(batches: Iterator[pa.RecordBatch]) -> Any:
    digest = RowSetDigest()
    for batch in batches:
        columns: Mapping[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
        digest.update(columns)
    return digest.content_hash()
