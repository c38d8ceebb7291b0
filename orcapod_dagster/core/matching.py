"""Which stored records count as the same computation, and which of many rows fulfil that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.sources import TableSource

MatchPolicy = Literal["version", "signature", "content", "environment"]
"""Which stored result counts as the same computation: by uri, and signature hash, and content hash, and environment."""

Constraints = Mapping[str, str | Collection[str]]
"""Stored column → the value that a record must have, or several, of which it must have one."""

_MATCH_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "version": (),
    "signature": ("function_signature_hash",),
    "content": ("function_signature_hash", "function_content_hash"),
    "environment": ("function_signature_hash", "function_content_hash"),
}
MATCH_POLICIES: Final = tuple(_MATCH_KEYS)
_ROWS_PER_FIND: Final = 512
"""Finding one record by its key costs at most what reading the keys and constraints of so many does: 100 among 100,000 in 13
files take 11 to 22 ms of a processor by their keys, 75 to 100 ms by reading all (measured)."""


def match_constraints(match: MatchPolicy, variation: Mapping[str, str], environment: str) -> Constraints:
    """Return what a record must have under a match policy.

    Args:
        match: the policy.
        variation: what the function is.
        environment: hash of the environment that its code refers to.
    """
    wanted = {names.VARIATION_PREFIX + key: variation[key] for key in _MATCH_KEYS[match]}
    return wanted | ({names.ENVIRONMENT_HASH: environment} if match == "environment" else {})


def constrained_columns(constraints: Constraints, source: TableSource) -> list[str]:
    """Return the constrained columns that there are: older tables may lack one."""
    return [name for name in constraints if name in source.schema.names]


def fulfilling(
    rows: pa.Table | pa.RecordBatch, constraints: Constraints, known: Mapping[str, str] | None = None
) -> pa.Array:
    """Tell which rows have what the constraints ask for; without one of the columns, none has.

    Args:
        rows: with the constrained columns.
        constraints: what a row must have.
        known: the columns that hold one value in all rows, in place of them.
    """
    mask: Any = pa.repeat(True, rows.num_rows)
    for column, wanted in constraints.items():
        if known is not None and column in known:
            if known[column] not in ([wanted] if isinstance(wanted, str) else wanted):
                return pa.repeat(False, rows.num_rows)
            continue
        if column not in rows.schema.names:
            return pa.repeat(False, rows.num_rows)
        values = rows.column(column)
        values_set = None if isinstance(wanted, str) else pa.array(list(wanted), values.type)
        one = pc.equal(values, wanted) if values_set is None else pc.is_in(values, value_set=values_set)
        mask = pc.and_(mask, one_array(one).fill_null(False))
    return mask


def few(hashes: pa.Array, source: TableSource) -> bool:
    """Tell whether it costs less to find some records by their keys than to read the keys of all."""
    return len(hashes) * _ROWS_PER_FIND <= source.num_rows
