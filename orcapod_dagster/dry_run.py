"""What a dry run shows: the report as metadata of an observation, and as lines of a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import dagster as dg

from orcapod_dagster.core.plan_report import PlanReport
from orcapod_dagster.core.readable import readable_seconds

_SHOWN: Final = 100
_SCHEMA: Final = dg.TableSchema(
    [dg.TableColumn("reason", "string"), dg.TableColumn("packets", "int"), dg.TableColumn("expected_seconds", "float")]
)


def plan_metadata(report: PlanReport, *, guarded: bool) -> dict[str, Any]:
    """Return the report of a dry run.

    Args:
        report: what the run would do.
        guarded: whether the recompute guard would stop it.
    """
    cost = report.cost
    records = [
        dg.TableRecord({"reason": reason, "packets": packets, "expected_seconds": seconds})
        for reason, packets, seconds in cost.by_reason[:_SHOWN]
    ]
    return {
        "orcapod/dry_run": True,
        "orcapod/packets_total": report.total,
        "orcapod/packets_cached": report.cached,
        "orcapod/would_compute": report.would_compute,
        "orcapod/would_compute_because": dg.MetadataValue.table(records, _SCHEMA),
        "orcapod/packets_failed_before": report.failed_before,
        "orcapod/packets_skipped": report.skipped,
        "orcapod/packets_not_tried_again": report.stays_failed,
        "orcapod/packets_invalid": len(report.invalid),
        "orcapod/expected_seconds": _known(cost.seconds),
        "orcapod/expected_wall_seconds": _known(cost.wall_seconds),
        "orcapod/expected_by": cost.basis(),
        "orcapod/needs_confirm_recompute": guarded,
    }


def _known(seconds: float | None) -> float | str:
    return "unknown" if seconds is None else round(seconds, 6)


def plan_lines(report: PlanReport, *, guarded: bool) -> Iterator[str]:
    """Yield the report as text: counts, a line per reason, and what it would take."""
    yield (
        f"{report.total:,} packets: {report.cached:,} cached, {report.would_compute:,} would be computed "
        f"({report.failed_before:,} of them failed before), {report.skipped:,} were skipped before, "
        f"{len(report.invalid):,} cannot be used."
    )
    if report.stays_failed:
        yield f"{report.stays_failed:,} failed before and would not be tried again, as retry_failed says; they count as failed."
    for reason, packets, seconds in report.cost.by_reason[:_SHOWN]:
        yield f"  {packets:>12,}  {'unknown' if seconds is None else readable_seconds(seconds):>12}  {reason}"
    if report.would_compute:
        yield f"Expected: {_expected(report)}."
    if report.invalid:
        row, why = next(iter(report.invalid.items()))
        yield f"The first row that cannot be used is row {row:,}: {why}"
    if guarded:
        yield (
            f"The run would stop: {report.recomputation.packets:,} packets would be computed again whose results took "
            f"{readable_seconds(report.recomputation.seconds)}, which is above the limit. Confirm with confirm_recompute, or accept the edit."
        )


def _expected(report: PlanReport) -> str:
    cost = report.cost
    if cost.seconds is None:
        return cost.basis()
    function = f"{readable_seconds(cost.seconds)} of the function ({cost.basis()})"
    if cost.wall_seconds is None:
        return f"{function}; how many packets run at a time, and so until when, the executor does not tell"
    return f"{function}, done after {readable_seconds(cost.wall_seconds)}"
