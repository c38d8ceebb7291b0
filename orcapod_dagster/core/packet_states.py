"""How far each packet of a run is: what the run set out to do, and what its results and failures say since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, first_of_each, pc, rows_among
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.contexts import CONTEXT_HASH
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.matching import few
from orcapod_dagster.core.plan_log import CACHED, PENDING
from orcapod_dagster.core.sources import TableSource

COMPUTED: Final = "COMPUTED"
STATE: Final = "__state"
REASON: Final = "__reason"
ERROR: Final = "__error"
STATE_SCHEMA: Final = pa.schema(
    [
        pa.field(STATE, pa.string(), nullable=False),
        pa.field(REASON, pa.string()),
        pa.field(names.DURATION, pa.float64()),
        pa.field(ERROR, pa.string()),
    ]
)
"""`__state`: COMPUTED, CACHED, FAILED, SKIPPED or PENDING. `__reason`: why the run computes it, or does not; null of what is
cached. `__pod_duration`: seconds, of what this run computed. `__error`: class and first line of the message."""
_EXTRA: Final = names.EXECUTION_PREFIX + "extra_info"
_ENDED: Final = pa.schema(
    [
        (names.INPUT_HASH, HASH_TYPE),
        (names.TIMESTAMP, UTC_TIMESTAMP),
        ("state", pa.string()),
        (names.DURATION, pa.float64()),
        ("error", pa.string()),
    ]
)
_ERROR_WIDTH: Final = 300


def packet_states(
    hashes: pa.Array,
    plans: Sequence[tuple[Mapping[str, Any], pa.Table]],
    results: TableSource | None,
    outcomes: TableSource | None,
) -> pa.Table:
    """Return the state of each row of a run.

    Args:
        hashes: input packet hash per row, `fixed_size_binary[16]`.
        plans: of the run, one per try of its step, oldest first: a row of `PlanLog.runs`, and what it names.
        results, outcomes: of the function, as of now.

    Returns:
        `STATE_SCHEMA`, in the order of the rows. Of rows with equal packets, the first counts as computed, the others as cached.
    """
    state, reason = _planned(hashes, plans)
    ended = _ended(hashes, plans[-1][0], results, outcomes)
    index = pc.index_in(hashes, value_set=one_array(ended[names.INPUT_HASH]))
    state = one_array(pc.coalesce(one_array(ended["state"]).take(index), state))
    repeated = pc.and_(pc.equal(state, COMPUTED), pc.invert(first_of_each(hashes)))
    state = one_array(pc.if_else(repeated, CACHED, state))
    cached = pc.equal(state, CACHED)
    columns = [
        state,
        one_array(pc.if_else(cached, None, reason)),
        one_array(pc.if_else(cached, None, one_array(ended[names.DURATION]).take(index))),
        one_array(ended["error"]).take(index),
    ]
    return pa.Table.from_arrays(columns, schema=STATE_SCHEMA)


def _planned(hashes: pa.Array, plans: Sequence[tuple[Mapping[str, Any], pa.Table]]) -> tuple[pa.Array, pa.Array]:
    """Return what the last try set out to do with each row, and the last reason that any try had to compute it."""
    state, reason = pa.repeat(PENDING, len(hashes)), pa.nulls(len(hashes), pa.string())
    for run, named in plans:
        index = pc.index_in(hashes, value_set=one_array(named[names.PACKET_HASH]))
        others = index.is_null()
        state = one_array(pc.if_else(others, run["state"], one_array(named["state"]).take(index)))
        why = pc.if_else(others, pa.scalar(run["reason"], pa.string()), one_array(named["reason"]).take(index))
        reason = one_array(pc.coalesce(why, reason))
    return state, reason


def _ended(
    hashes: pa.Array, run: Mapping[str, Any], results: TableSource | None, outcomes: TableSource | None
) -> pa.Table:
    """Return, as `_ENDED`, the packets that this run has a result or a failure of; of several the newest, each once."""
    found = [_ENDED.empty_table()]
    if results is not None:
        found.append(_results_of(results, hashes, run))
    if outcomes is not None:
        found.append(_outcomes_of(outcomes, hashes, run))
    table = pa.concat_tables(found).sort_by([(names.TIMESTAMP, "descending")]).combine_chunks()
    return table.filter(first_of_each(one_array(table[names.INPUT_HASH])))


def _results_of(source: TableSource, hashes: pa.Array, run: Mapping[str, Any]) -> pa.Table:
    """Find results by packet, then ask of each context once whose it is: to read that of all records would take long."""
    columns = [names.INPUT_HASH, names.TIMESTAMP, names.DURATION, CONTEXT_HASH]
    positions, rows = _records(source, hashes, columns)
    contexts = one_array(rows[CONTEXT_HASH])
    each = first_of_each(contexts)
    extra = source.take(one_array(positions.filter(each)), [_EXTRA])[_EXTRA]
    own = contexts.filter(each).filter(_is_of(one_array(extra), run))
    rows = rows.filter(pc.is_in(contexts, value_set=own))
    state, error = pa.repeat(COMPUTED, rows.num_rows), pa.nulls(rows.num_rows, pa.string())
    arrays = [rows[names.INPUT_HASH], rows[names.TIMESTAMP], state, rows[names.DURATION], error]
    return pa.Table.from_arrays(arrays, _ENDED.names).cast(_ENDED)


def _outcomes_of(source: TableSource, hashes: pa.Array, run: Mapping[str, Any]) -> pa.Table:
    columns = [names.INPUT_HASH, names.TIMESTAMP, "state", names.DURATION, "error_type", "message", _EXTRA]
    _, rows = _records(source, hashes, columns)
    rows = rows.filter(_is_of(one_array(rows[_EXTRA]), run))
    first_line = pc.replace_substring_regex(rows["message"], r"(?s)\r?\n.*$", "")
    error = pc.binary_join_element_wise(rows["error_type"], first_line, ": ")
    error = pc.utf8_slice_codeunits(error, 0, _ERROR_WIDTH)
    # That a packet was skipped is no error; what was said is the reason, and stands with its outcome.
    error = pc.if_else(pc.equal(rows["state"], "FAILED"), error, None)
    arrays = [rows[names.INPUT_HASH], rows[names.TIMESTAMP], rows["state"], rows[names.DURATION], error]
    return pa.Table.from_arrays(arrays, _ENDED.names).cast(_ENDED)


def _records(source: TableSource, hashes: pa.Array, columns: Sequence[str]) -> tuple[pa.Array, pa.Table]:
    """Return positions and columns of the records of these packets, whoever made them."""
    if few(hashes, source):
        return source.find(names.INPUT_HASH, hashes.unique(), list(columns))
    fields = [source.schema.field(name) for name in columns]
    schema = pa.schema([*fields, pa.field("position", pa.int64())])
    rows = rows_among(_numbered(source, columns, schema), schema, hashes)
    return one_array(rows["position"]), rows.select(list(columns))


def _numbered(source: TableSource, columns: Sequence[str], schema: pa.Schema) -> Any:
    start = 0
    for batch in source.scan(columns):
        numbers = pc.add(count_up(batch.num_rows), start)
        yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)
        start += batch.num_rows


def _is_of(extra: pa.Array, run: Mapping[str, Any]) -> pa.Array:
    """Tell of each `extra_info` whether it is that of a step of a run."""
    own = [pc.equal(pc.map_lookup(extra, pa.scalar(name), "first"), run[name]) for name in ("run_id", "step")]
    return one_array(pc.fill_null(pc.and_(*own), False))
