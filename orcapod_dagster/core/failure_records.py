"""FailureRecords: the failures of one packet function on record, and which of them stand."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import first_of_each, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.contexts import CONTEXT_FIELDS
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.counting import Counting
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.matching import Constraints, MatchPolicy, fulfilling
from orcapod_dagster.core.outcomes import FAILED, OUTCOME_SCHEMA, OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.tag_texts import TAG_TYPE

_EXTRA_INFO: Final = f"{names.EXECUTION_PREFIX}extra_info"
FAILURE_SCHEMA: Final = pa.schema(
    [
        pa.field("tag", TAG_TYPE),
        pa.field("current", pa.bool_(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("message", pa.string()),
        pa.field("traceback", pa.string()),
        pa.field("error_kinds", pa.list_(pa.string())),
        pa.field("attempts", pa.int64()),
        pa.field("duration", pa.float64()),
        pa.field("time", UTC_TIMESTAMP),
        pa.field("run_id", pa.string()),
        pa.field(names.INPUT_HASH, pa.binary()),
        *(field.with_nullable(True) for field in CONTEXT_FIELDS),
    ]
)
"""One row per failure; `tag`, `error_kinds` and `attempts` are null in what an earlier release stored."""
_STORED_AS: Final = {"duration": names.DURATION, "time": names.TIMESTAMP}


class FailureRecords:
    """What is on record of the packets of one function that failed.

    Args:
        function, cache, outcomes, match: as `FunctionPod` takes them; these say which results and failures count now.
    """

    def __init__(
        self, function: PythonPacketFunction, cache: ResultCache, outcomes: OutcomeLog, match: MatchPolicy
    ) -> None:
        self._function = function
        self._cache = cache
        self._outcomes = outcomes
        self._counting = Counting(function, cache, outcomes, match)

    def _constraints(self) -> Constraints:
        return self._counting.constraints(self._function.get_function_variation_data())

    def history(self) -> pa.Table:
        """Return all failures on record, of whatever code, the newest first; columns as `FAILURE_SCHEMA`."""
        constraints = self._constraints()
        outcomes = self._outcomes.history(OUTCOME_SCHEMA.names)
        keys = one_array(outcomes[names.INPUT_HASH]).cast(HASH_TYPE)
        return _as_failures(outcomes, self._stands(outcomes, keys, constraints))

    def of(self, hashes: pa.Array) -> tuple[pa.Array, pa.Table]:
        """Return which of these packets failed and have no result, and the record of each.

        Args:
            hashes: input packet hash per row.

        Returns:
            Positions in `hashes` (`int64`, ascending), and a table with as many rows, columns as `FAILURE_SCHEMA`.
        """
        outcomes = self._outcomes.latest(self._constraints(), hashes, OUTCOME_SCHEMA.names)
        keys = one_array(outcomes[names.INPUT_HASH]).cast(HASH_TYPE)
        found = _as_failures(outcomes, self._stands(outcomes, keys, self._constraints()))
        found = found.filter(found["current"])
        where = pc.index_in(hashes, value_set=one_array(found[names.INPUT_HASH]).cast(HASH_TYPE))
        rows = one_array(pc.indices_nonzero(where.is_valid())).cast(pa.int64())
        return rows, found.take(where.drop_null())

    def _stands(self, outcomes: pa.Table, keys: pa.Array, constraints: Constraints) -> pa.Array:
        """Tell which outcomes, the newest first, are the latest of their packets that count, failed, and have no result."""
        if not len(keys):
            return pa.array([], pa.bool_())
        counts = one_array(fulfilling(outcomes, constraints))
        newest = first_of_each(keys.filter(counts))
        latest = one_array(pc.replace_with_mask(counts, counts, newest))
        failed = pc.and_(latest, pc.equal(outcomes["state"], FAILED))
        snapshot = self._cache.snapshot(constraints, keys)
        without = True if snapshot is None else snapshot.find(keys).is_null()
        return one_array(pc.and_(failed, without))


def _as_failures(outcomes: pa.Table, current: pa.Array) -> pa.Table:
    run_ids = (
        pc.map_lookup(outcomes[_EXTRA_INFO], "run_id", "first") if outcomes.num_rows else pa.array([], pa.string())
    )
    made = {"current": current, "run_id": run_ids}
    columns = [
        made[field.name] if field.name in made else outcomes[_STORED_AS.get(field.name, field.name)]
        for field in FAILURE_SCHEMA
    ]
    columns = [column.cast(field.type) for column, field in zip(columns, FAILURE_SCHEMA, strict=True)]
    table = pa.Table.from_arrays(columns, schema=FAILURE_SCHEMA)
    return table.filter(pc.equal(outcomes["state"], FAILED))
