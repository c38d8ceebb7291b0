"""The audit of a packet asset outside of a run."""

from __future__ import annotations

from typing import Any

from orcapod_dagster.core.audit import AuditReport, audit_packets
from orcapod_dagster.desk.opening import AssetLike, desk_at
from orcapod_dagster.desk.packets import check_partition
from orcapod_dagster.inputs import open_stream


def audit(
    definitions: Any,
    asset: AssetLike | None = None,
    *,
    size: int | None = None,
    fraction: float | None = None,
    seed: int | None = None,
    partition: str | None = None,
    **lake: Any,
) -> AuditReport:
    """Run a sample of a packet asset's cached packets again, and compare values. Nothing is stored.

    The packets run on the executor of the definitions (`packet_executor`), in batches as in a run. Those whose stored result
    counts for the code as it is now are drawn from; packets that do not give what is stored run twice.

    Args:
        definitions, asset, lake: as `packet_row` takes them.
        size, fraction, seed: of the sample, as `core.audit.audit_packets` takes them; 100 packets by default.
        partition: only packets of this partition; of an asset with partitions, those of all by default.

    Raises:
        As `core.audit.audit_packets`, and `Desk`.
    """
    with desk_at(definitions, asset, lake) as (desk, wanted):
        spec = desk.spec(wanted)
        if partition is not None:
            check_partition(desk, spec, partition)
        stream = open_stream(spec, desk.inputs(spec, partition), desk.graph)
        return audit_packets(desk.pod(spec), stream, size=size, fraction=fraction, seed=seed)
