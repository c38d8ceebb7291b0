"""read_logs: what the packets of an asset printed and logged."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
import pyarrow as pa

from orcapod_dagster.assets import packet_function_of
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.packet_logs import PacketLogs, log_path
from orcapod_dagster.core.paths import results_root


def read_logs(
    asset: dg.AssetsDefinition,
    root_uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    tag: Mapping[str, object] | None = None,
    run_id: str | None = None,
) -> pa.Table:
    """Return what the packets of a packet asset printed and logged, in the order of time.

    Assets of one function share its log table.

    Args:
        asset: the packet asset.
        root_uri, storage_options: as `packet_resources` was given them.
        tag: only packets with these tags, e.g. `{"reading_id": "a"}`; values are compared as text.
        run_id: only this Dagster run.

    Returns:
        One row per packet and stream, or per log record, with the columns `tag: map<string, string>`, `run_id`,
        `__input_packet_hash`, `__record_id` (null where the packet has no result), `stream` (`"stdout"`, `"stderr"`,
        `"log"`), `level` and `logger` (null but for `"log"`), `time`, `text`, and what the function was.

    Raises:
        DefinitionError: the asset is no packet asset. StorageError: the table cannot be read.
    """
    database = DeltaTableDatabase(results_root(root_uri), storage_options)
    table = PacketLogs(database, log_path(packet_function_of(asset).uri)).read()
    if run_id is not None:
        table = table.filter(pc.equal(table["run_id"], run_id))
    for name, value in (tag or {}).items():
        values = pc.map_lookup(table["tag"], name, "first")
        table = table.filter(pc.equal(values, str(value)) if value is not None else pc.is_null(values))
    return table
