"""Asset checks that report the packets of an asset's present input that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.assets import packet_spec_of
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.failure_records import FailureRecords
from orcapod_dagster.core.reasons import counted
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.execution import machine_info, pod_of
from orcapod_dagster.input_checks import check_with_inputs
from orcapod_dagster.inputs import open_stream
from orcapod_dagster.resource_parameters import with_resources_of_step
from orcapod_dagster.resources import EXECUTOR_KEY, RESULT_STORE_KEY
from orcapod_dagster.spec import PacketAssetSpec

CHECK_NAME: Final = "packet_failures"
_SHOWN: Final = 100
_COLUMNS: Final = ("tag", "error", "attempts", "traceback", "when", "run_id")


def build_failure_checks(
    *,
    assets: Sequence[dg.AssetsDefinition],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    blocking: bool = False,
) -> Sequence[dg.AssetChecksDefinition]:
    """Return asset checks that pass where no packet of the present input of a packet asset has failed.

    A packet counts as failed when the last thing on record of it, by the code as it is now, is a failure, and it has no result; packets
    that nobody computed yet do not count. No function is called, and nothing is stored. The first failures are a table in the
    metadata `orcapod/failures`, all of them by class of error in `orcapod/failed_because`.

    Args:
        assets: packet assets, as definitions; one check named `packet_failures` for each.
        severity: of a check that fails.
        blocking: whether a check that fails with severity ERROR keeps downstream assets from running.

    Raises:
        DefinitionError: one is no packet asset.

    Example:
        >>> import dagster as dg
        >>> from orcapod_dagster import build_failure_checks, packet_asset, packet_resources
        >>> @packet_asset(inputs="readings", tag_columns=["reading_id"], output_keys=["celsius"], on_error="continue")
        ... def to_celsius(fahrenheit: float) -> float:
        ...     return (fahrenheit - 32) * 5 / 9
        >>> checks = build_failure_checks(assets=[to_celsius], severity=dg.AssetCheckSeverity.ERROR)
    """
    return [_build(asset, severity, blocking=blocking) for asset in assets]


def _build(asset: dg.AssetsDefinition, severity: dg.AssetCheckSeverity, *, blocking: bool) -> dg.AssetChecksDefinition:
    spec = packet_spec_of(asset)
    if spec is None:
        raise DefinitionError(f"build_failure_checks: {asset!r} is no packet asset. Give what packet_asset made.")
    return check_with_inputs(
        spec,
        lambda context, loaded: _checked(context, spec, loaded, severity),
        name=CHECK_NAME,
        description="No packet of the present input has failed.",
        blocking=blocking,
    )


def _checked(
    context: Any, spec: PacketAssetSpec, loaded: Mapping[str, Any], severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    stream = open_stream(spec, loaded, context.op_execution_context.job_def.asset_layer.asset_graph)
    store, supplier = getattr(context.resources, RESULT_STORE_KEY), getattr(context.resources, EXECUTOR_KEY)
    spec = with_resources_of_step(spec, context)
    pod = pod_of(spec, store, supplier, machine_info(spec), read_only=True)
    rows, failures = FailureRecords(pod.function, pod.cache, pod.outcomes, pod.match).of(pod.hash(stream).hashes)
    said = f"{len(rows):,} of {stream.num_rows:,} packets have failed." if len(rows) else "No packet has failed."
    return dg.AssetCheckResult(
        passed=not len(rows), severity=severity, description=said, metadata=_metadata(stream, rows, failures)
    )


def _metadata(stream: PacketStream, rows: pa.Array, failures: pa.Table) -> dict[str, Any]:
    told: dict[str, Any] = {"orcapod/packets_total": stream.num_rows, "orcapod/packets_failed": len(rows)}
    if not len(rows):
        return told
    kinds = dict(sorted(counted(failures["error_type"].combine_chunks()).items(), key=lambda one: -one[1]))
    told["orcapod/failed_because"] = dg.MetadataValue.json(kinds)
    first = rows.slice(0, _SHOWN)
    tags = pa.Table.from_batches(stream.narrow(first).scan(stream.tag_columns)).to_pylist()
    records = [
        dg.TableRecord(dict(zip(_COLUMNS, _cells(tag, one), strict=True)))
        for tag, one in zip(tags, failures.slice(0, _SHOWN).to_pylist(), strict=True)
    ]
    schema = dg.TableSchema([dg.TableColumn(name, "int" if name == "attempts" else "string") for name in _COLUMNS])
    told["orcapod/failures"] = dg.MetadataValue.table(records, schema)
    return told


def _cells(tag: Mapping[str, Any], failure: Mapping[str, Any]) -> list[Any]:
    return [
        ", ".join(f"{name}={value}" for name, value in tag.items()),
        f"{failure['error_type']}: {failure['message']}"[:500],
        failure["attempts"] if failure["attempts"] is not None else 1,
        failure["traceback"][-2000:],
        f"{failure['time']:%Y-%m-%d %H:%M:%S} UTC",
        failure["run_id"] or "",
    ]
