"""read_failures: the failures of an asset's packets."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
import pyarrow as pa

from orcapod_dagster.assets import packet_function_of, packet_spec_of
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.failure_records import FailureRecords
from orcapod_dagster.core.key_index import in_memory
from orcapod_dagster.core.outcomes import OutcomeLog, outcome_path
from orcapod_dagster.core.paths import results_root
from orcapod_dagster.core.result_cache import ResultCache, result_path


def read_failures(
    asset: dg.AssetsDefinition,
    root_uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    tag: Mapping[str, object] | None = None,
    run_id: str | None = None,
    current: bool = True,
) -> pa.Table:
    """Return the failures of a packet asset's packets on record, the newest first.

    Assets of one function share its failures. Which of them stand is told by results and failures alone: a packet that is in no input
    any more is among them; the check of `build_failure_checks` looks at the present input.

    Args:
        asset: the packet asset.
        root_uri, storage_options: as `packet_resources` was given them.
        tag: only packets with these tags, e.g. `{"reading_id": "a"}`; values are compared as text.
        run_id: only failures of this Dagster run.
        current: only the latest failure of each packet that has no result, by the code as it is now and the asset's match policy;
            False for all that are on record.

    Returns:
        One row per failure, with the columns `tag: map<string, string>`, `current`, `error_type`, `message`, `traceback`,
        `error_kinds` (the names of the error's class and of all that it is derived from), `attempts`, `duration` (of the last
        attempt, in seconds), `time`, `run_id`, `__input_packet_hash`, and what the function was and how it ran.

    Raises:
        DefinitionError: the asset is no packet asset. StorageError: a table cannot be read.
    """
    function, spec = packet_function_of(asset), packet_spec_of(asset)
    assert spec is not None
    database = DeltaTableDatabase(results_root(root_uri), storage_options)
    cache = ResultCache(database, result_path(function.uri))
    outcomes = OutcomeLog(database, outcome_path(function.uri))
    with in_memory():  # whoever reads leaves the lake as it is, also where an index of keys is missing
        table = FailureRecords(function, cache, outcomes, spec.match).history()
    if current:
        table = table.filter(table["current"])
    if run_id is not None:
        table = table.filter(pc.equal(table["run_id"], run_id))
    for name, value in (tag or {}).items():
        values = pc.map_lookup(table["tag"], name, "first")
        table = table.filter(pc.equal(values, str(value)) if value is not None else pc.is_null(values))
    return table
