"""Asset checks: whether the tables of assets are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from orcapod_dagster.assets import packet_spec_of
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.paths import join_uri, results_root
from orcapod_dagster.core.result_cache import result_path
from orcapod_dagster.core.verify import Finding, TableReport, verify
from orcapod_dagster.io_manager import DeltaLakeIOManager
from orcapod_dagster.resources import IO_MANAGER_KEY, RESULT_STORE_KEY, ResultStoreResource

CHECK_NAME: Final = "lake_integrity"
_SHOWN: Final = 100


def build_lake_checks(
    *,
    assets: Sequence[dg.AssetsDefinition | dg.SourceAsset | dg.AssetKey | Sequence[str] | str],
    read_all: bool = False,
) -> Sequence[dg.AssetChecksDefinition]:
    """Return asset checks that pass where the tables of assets are whole, as `python -m orcapod_dagster verify` finds it.

    Of a packet asset that is given as a definition, its function's results are looked at, too. Damage fails the check with
    severity ERROR; what only takes up space, with WARN. The findings, each with the way out, are a table in the metadata
    `orcapod/findings`.

    Args:
        assets: whose tables lie in the lake of `packet_resources`; definitions or keys.
        read_all: also read every value, which finds whatever changed on the disk; costs as much as reading the tables.

    Example:
        >>> import dagster as dg
        >>> import pyarrow as pa
        >>> from orcapod_dagster import build_lake_checks, packet_resources
        >>> @dg.asset(io_manager_key="packet_io_manager")
        ... def readings() -> pa.Table:
        ...     return pa.table({"reading_id": ["a"]})
        >>> checks = build_lake_checks(assets=[readings], read_all=True)
        >>> defs = dg.Definitions(assets=[readings], asset_checks=checks, resources=packet_resources(root_uri="lake"))
    """
    results: dict[dg.AssetKey, tuple[str, ...] | None] = {}
    for asset in assets:
        spec = packet_spec_of(asset)
        for key in _keys_of(asset):
            results[key] = None if spec is None else spec.function.uri
    description = f"The table is whole: log, files and rows{', every value' if read_all else ''}."
    specs = [dg.AssetCheckSpec(CHECK_NAME, asset=key, description=description) for key in results]
    names = "|".join(sorted(key.to_user_string() for key in results))

    @dg.multi_asset_check(
        # Dagster asks for a name of its own per group of checks; the same assets give the same name in every process.
        name=f"{CHECK_NAME}_{hashlib.blake2b(names.encode(), digest_size=4).hexdigest()}",
        specs=specs,
        can_subset=True,
        required_resource_keys={IO_MANAGER_KEY, RESULT_STORE_KEY},
    )
    def check(context) -> Iterator[dg.AssetCheckResult]:  # type: ignore[no-untyped-def]  # noqa: ANN001  # Dagster takes no string here
        for check_key in context.selected_asset_check_keys:
            yield _check(context.resources, check_key.asset_key, results[check_key.asset_key], read_all=read_all)

    return [check]


def _keys_of(asset: Any) -> list[dg.AssetKey]:
    if isinstance(asset, dg.AssetsDefinition):
        return sorted(asset.keys)
    return [asset.key] if isinstance(asset, dg.SourceAsset) else [dg.AssetKey.from_coercible(asset)]


def _check(resources: Any, key: dg.AssetKey, results: Sequence[str] | None, *, read_all: bool) -> dg.AssetCheckResult:
    io_manager: DeltaLakeIOManager = getattr(resources, IO_MANAGER_KEY)
    store: ResultStoreResource = getattr(resources, RESULT_STORE_KEY)
    try:
        table = _report(io_manager, io_manager.table_uri(key), read_all=read_all)
        places = [] if results is None else [join_uri(results_root(store.root_uri), result_path(results))]
        reports = [table, *(_report(store, uri, read_all=read_all) for uri in places)]
    except LakeError as error:
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECK_NAME,
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=str(error),
        )
    findings = [finding for report in reports for finding in report.findings]
    damage = [finding for finding in findings if not finding.harmless]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK_NAME,
        passed=not findings,
        severity=dg.AssetCheckSeverity.ERROR if damage else dg.AssetCheckSeverity.WARN,
        description=_said(damage or findings),
        metadata=_metadata(table, findings),
    )


def _report(resource: DeltaLakeIOManager | ResultStoreResource, uri: str, *, read_all: bool) -> TableReport:
    root = resource.root_uri.rstrip("/")
    found = verify(root, resource.storage_options, read_all=read_all, table=uri.removeprefix(f"{root}/"))
    return next(iter(found))


def _said(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Whole."
    more = "" if len(findings) == 1 else f" And {len(findings) - 1} more, see orcapod/findings."
    return f"{findings[0].table}: {findings[0].what}. {findings[0].do}{more}"


def _metadata(report: TableReport, findings: Sequence[Finding]) -> Mapping[str, Any]:
    shown: dict[str, Any] = {
        "orcapod/delta_version": report.version,
        "dagster/row_count": report.rows,
        "orcapod/files": report.files,
        "orcapod/bytes": report.bytes,
    }
    if findings:
        columns = ["table", "what", "do", "harmless"]
        schema = dg.TableSchema([dg.TableColumn(name, "bool" if name == "harmless" else "string") for name in columns])
        records = [dg.TableRecord({name: getattr(one, name) for name in columns}) for one in findings[:_SHOWN]]
        shown["orcapod/findings"] = dg.MetadataValue.table(records, schema)
    return {name: value for name, value in shown.items() if value is not None}
