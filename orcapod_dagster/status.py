"""read_status: how far each packet of a run is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa


def read_status(
    asset: dg.AssetsDefinition,
    root_uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
    partition: str | None = None,
    resources: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Return how far each packet of a run of a packet asset is; the run may still go on, in whatever process.

    Inputs whose definitions are not at hand are taken for tables of the lake; `orcapod_dagster.desk.status` takes a project's
    definitions in their place, and tells more of the run.

    Args:
        asset: the packet asset.
        root_uri, storage_options: as `packet_resources` was given them.
        run_id: the Dagster run; default the latest that had something to compute.
        partition: only runs of this partition, or range of them (`first...last`).
        resources: further ones that the asset or its IO managers need.

    Returns:
        One row per row of the input as the run read it, in its order: the tag columns, and
        `__state`: COMPUTED, CACHED, FAILED, SKIPPED, or PENDING (also where the run has ended before it came to the packet);
        `__reason`: why the run computes it, null of what is cached;
        `__pod_duration: float64`: seconds that it took in this run, else null;
        `__error`: class and first line of the message, of what failed.
        Of rows with equal packets, which share one call, the first counts as computed, the others as cached.

    Raises:
        RunNotFoundError: no such run had anything to compute.
        InputError: the inputs do not give the packets of that run any more.
        DefinitionError: the asset is no packet asset. LakeError: a table cannot be read.
    """
    from orcapod_dagster.desk.status import status  # what loads definitions does not need the desk

    return status(
        asset,
        run_id=run_id,
        partition=partition,
        root_uri=root_uri,
        storage_options=storage_options,
        resources=resources,
    ).table
