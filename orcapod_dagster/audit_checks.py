"""Asset checks that run a sample of cached packets again, and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg

from orcapod_dagster.assets import packet_spec_of
from orcapod_dagster.core.audit import NOT_DETERMINISTIC, AuditReport, audit_packets
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.execution import machine_info, pod_of
from orcapod_dagster.input_checks import check_with_inputs
from orcapod_dagster.inputs import open_stream
from orcapod_dagster.resource_parameters import with_resources_of_step
from orcapod_dagster.resources import EXECUTOR_KEY, RESULT_STORE_KEY
from orcapod_dagster.spec import PacketAssetSpec

CHECK_NAME: Final = "packet_audit"
_SHOWN: Final = 100


def build_audit_checks(
    *,
    assets: Sequence[dg.AssetsDefinition],
    size: int | None = None,
    fraction: float | None = None,
    seed: int | None = None,
) -> Sequence[dg.AssetChecksDefinition]:
    """Return asset checks that run some cached packets of packet assets again, and pass where they give what is stored.

    The packets run on the project's `packet_executor`, in batches as in a run, and nothing is stored. What differs is a table
    in the metadata `orcapod/findings`: which packets, both values, and whether the function is not deterministic (severity
    WARN), the stored result differs from what two runs give now, or the function fails now (ERROR).

    Args:
        assets: packet assets, as definitions; one check named `packet_audit` for each.
        size: packets to run; default 20. fraction: or this part of those with a result, above 0, at most 1.
        seed: draws the sample; default a new one each time, which the metadata name.

    Raises:
        DefinitionError: one is no packet asset, or both a size and a fraction are given.

    Example:
        >>> import dagster as dg
        >>> from orcapod_dagster import build_audit_checks, packet_asset, packet_resources
        >>> @packet_asset(inputs="readings", tag_columns=["reading_id"], output_keys=["celsius"])
        ... def to_celsius(fahrenheit: float) -> float:
        ...     return (fahrenheit - 32) * 5 / 9
        >>> checks = build_audit_checks(assets=[to_celsius], size=10)
    """
    if size is not None and fraction is not None:
        raise DefinitionError("build_audit_checks: both size and fraction are given. Give one.")
    drawn = {"size": 20 if size is None and fraction is None else size, "fraction": fraction, "seed": seed}
    return [_build(asset, drawn) for asset in assets]


def _build(asset: dg.AssetsDefinition, drawn: Mapping[str, Any]) -> dg.AssetChecksDefinition:
    spec = packet_spec_of(asset)
    if spec is None:
        raise DefinitionError(f"build_audit_checks: {asset!r} is no packet asset. Give what packet_asset made.")

    return check_with_inputs(
        spec,
        lambda context, loaded: _audited(context, spec, loaded, drawn),
        name=CHECK_NAME,
        description="Some cached packets give the same values when they are run again.",
    )


def _audited(
    context: dg.AssetCheckExecutionContext, spec: PacketAssetSpec, loaded: Mapping[str, Any], drawn: Mapping[str, Any]
) -> dg.AssetCheckResult:
    stream = open_stream(spec, loaded, context.op_execution_context.job_def.asset_layer.asset_graph)
    resources = context.resources
    store, supplier = getattr(resources, RESULT_STORE_KEY), getattr(resources, EXECUTOR_KEY)
    spec = with_resources_of_step(spec, context)
    pod = pod_of(spec, store, supplier, machine_info(spec), read_only=True)
    report = audit_packets(pod, stream, **drawn)
    harmless = set(report.counts) <= {NOT_DETERMINISTIC}
    return dg.AssetCheckResult(
        passed=not report.counts,
        severity=dg.AssetCheckSeverity.WARN if harmless else dg.AssetCheckSeverity.ERROR,
        description=report.summary(),
        metadata=_metadata(report),
    )


def _metadata(report: AuditReport) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "orcapod/packets_with_result": report.with_result,
        "orcapod/packets_checked": report.checked,
        "orcapod/packets_equal": report.equal,
        "orcapod/audit": dg.MetadataValue.json(dict(report.counts)),
        "orcapod/seed": report.seed,
        "orcapod/seconds": round(report.seconds, 3),
    }
    if report.findings:
        columns = ["tags", "what", "stored", "now", "again", "error", "versions", "record_id", "computed_at"]
        records = [dg.TableRecord(dict(zip(columns, _cells(row), strict=True))) for row in _rows(report)]
        shown["orcapod/findings"] = dg.MetadataValue.table(
            records, dg.TableSchema([dg.TableColumn(name, "string") for name in columns])
        )
    return shown


def _rows(report: AuditReport) -> list[dict[str, Any]]:
    return report.to_table().slice(0, _SHOWN).to_pylist()


def _cells(row: Mapping[str, Any]) -> list[str]:
    pairs = {name: ", ".join(f"{key}={value}" for key, value in row[name]) for name in ("tags", "versions")}
    texts = [row[name] for name in ("what", "stored", "now", "again", "error")]
    return [pairs["tags"], *texts, pairs["versions"], row["record_id"], f"{row['computed_at']:%Y-%m-%d %H:%M:%S} UTC"]
