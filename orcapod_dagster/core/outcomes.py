"""OutcomeLog: failures and skips are records too, kept beside the results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import first_of_each, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.contexts import CONTEXT_FIELDS, ENVIRONMENT_FIELD, Context
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.hashing import HASH_TYPE, PACKET_METHOD
from orcapod_dagster.core.matching import Constraints, few, fulfilling
from orcapod_dagster.core.tag_texts import TAG_TYPE

FAILED: Final = "FAILED"
SKIPPED: Final = "SKIPPED"
KEPT_FAILURES: Final = 100
"""How many failures of a run are kept in memory to be told of; all are in the log."""
_MAX_TEXT: Final = 20_000
_OWN_FIELDS: Final = (
    pa.field(names.INPUT_HASH, pa.binary(), nullable=False),
    pa.field("state", pa.string(), nullable=False),
    pa.field("error_type", pa.string(), nullable=False),
    pa.field("message", pa.string(), nullable=False),
    pa.field("traceback", pa.string(), nullable=False),
    pa.field(names.TIMESTAMP, UTC_TIMESTAMP, nullable=False),
    pa.field(names.DURATION, pa.float64(), nullable=False),
)
_LATER_FIELDS: Final = (
    pa.field("attempts", pa.int64()),
    pa.field("error_kinds", pa.list_(pa.string())),
    pa.field("tag", TAG_TYPE),
)
"""Null in rows of earlier releases. `error_kinds`: the names of the error's class and of all that it is derived from."""
OUTCOME_SCHEMA: Final = pa.schema(
    [
        *_OWN_FIELDS,
        *CONTEXT_FIELDS,
        pa.field(names.CONTEXT_KEY, pa.string(), nullable=False),
        ENVIRONMENT_FIELD,
        *_LATER_FIELDS,
    ]
)


DETAILS: Final = (names.CONTENT_HASH, "error_type", "error_kinds")
"""What it takes to say whether a failure is tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One packet that gave no result.

    Attributes:
        row: its position in the stream of the run.
        state: `FAILED` or `SKIPPED`. duration: seconds until it ended.
        printed: the end of what it printed and logged, for reports; not stored here, the packet logs have it.
        attempts: how often it was called in its run; 0 where it could not be called. The rest is of the last attempt.
        kinds: the names of the error's class and of all that it is derived from; none for what no further call can mend.
    """

    row: int
    state: str
    error_type: str
    message: str
    traceback: str
    duration: float
    printed: str = ""
    attempts: int = 1
    kinds: tuple[str, ...] = ()


class OutcomeLog:
    """The failures and skips of one packet function, append-only.

    Args:
        database, path: where they are kept; never inside the results' own table.
    """

    def __init__(self, database: ArrowDatabase, path: Sequence[str]) -> None:
        self.database = database
        self.path = tuple(path)
        # Where further outcomes lie that are read as if they stood here; see `counting.py`.
        self.beside: tuple[tuple[str, ...], ...] = ()

    def store(
        self, input_hashes: pa.Array, outcomes: Sequence[Outcome], context: Context, tags: pa.Array | None = None
    ) -> None:
        """Store outcomes with the hashes of their inputs and the tags of their rows, as text; durable on return."""
        if not outcomes:
            return
        now = dt.datetime.now(dt.UTC)
        rows = len(outcomes)
        own: list[list[object]] = [
            input_hashes.to_pylist(),
            [o.state for o in outcomes],
            [o.error_type for o in outcomes],
            [printable(o.message) for o in outcomes],
            [printable(o.traceback) for o in outcomes],
            [now] * rows,
            [o.duration for o in outcomes],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(own, _OWN_FIELDS, strict=True)]
        tile = pa.Table.from_batches([context.rows(1)]).take(pa.repeat(0, rows)).combine_chunks()
        shared = [column.combine_chunks() for column in tile.columns]
        last = (pa.repeat(PACKET_METHOD, rows), context.environments(rows))
        later = (
            pa.array([o.attempts for o in outcomes], pa.int64()),
            pa.array([o.kinds for o in outcomes], pa.list_(pa.string())),
            pa.nulls(rows, TAG_TYPE) if tags is None else tags,
        )
        batch = pa.RecordBatch.from_arrays([*arrays, *shared, *last, *later], schema=OUTCOME_SCHEMA)
        self.database.append(self.path, pa.Table.from_batches([batch]).to_reader)
        self.database.flush()
        self.database.keep_quick(self.path)

    def stored_failures(self, constraints: Constraints, hashes: pa.Array) -> list[Outcome | None]:
        """Return the latest outcome of each of a few packets, in their order, with row -1; None where it is no failure."""
        if not len(hashes):
            return []
        columns = ("error_type", "message", "traceback", names.DURATION, "attempts", "error_kinds")
        found = self.latest(constraints, hashes, columns).to_pylist()
        by_hash = {row[names.INPUT_HASH]: _failure(row) for row in found if row["state"] == FAILED}
        return [by_hash.get(key) for key in hashes.to_pylist()]

    def history(self, columns: Sequence[str]) -> pa.Table:
        """Return all outcomes with these columns of `OUTCOME_SCHEMA`, the newest first; null where an earlier release stored none."""
        return self._all({}, None, columns)

    def latest(self, constraints: Constraints, hashes: pa.Array, columns: Sequence[str] = ()) -> pa.Table:
        """Return the newest outcome of each packet among those that fulfil the constraints, the newest first.

        Args:
            constraints: stored column → values, of which an outcome must have one.
            hashes: the input hashes that matter; where they are few, outcomes of others are left out.
            columns: of `OUTCOME_SCHEMA`, beside the input hash (as `fixed_size_binary[16]`), `state` and the time; null where an
                earlier release did not store one.
        """
        chosen = list(dict.fromkeys([names.INPUT_HASH, "state", names.TIMESTAMP, *columns]))
        table = self._all(constraints, hashes, chosen)
        keys = one_array(table[names.INPUT_HASH]).cast(HASH_TYPE)
        return table.set_column(0, names.INPUT_HASH, keys).filter(first_of_each(keys)) if len(keys) else table

    def _all(self, constraints: Constraints, hashes: pa.Array | None, columns: Sequence[str]) -> pa.Table:
        schema = pa.schema([OUTCOME_SCHEMA.field(name).with_nullable(True) for name in columns])
        found = [self._outcomes(path, constraints, hashes, schema) for path in (self.path, *self.beside)]
        table = pa.concat_tables([schema.empty_table(), *(one for one in found if one is not None)])
        # By positions, for maps and lists cannot be sorted along.
        return table.take(pc.sort_indices(table[names.TIMESTAMP], sort_keys=[("", "descending")])).combine_chunks()

    def _outcomes(
        self, path: tuple[str, ...], constraints: Constraints, hashes: pa.Array | None, schema: pa.Schema
    ) -> pa.Table | None:
        source = self.database.source(path)
        if source is None:
            return None
        chosen = [name for name in dict.fromkeys([*schema.names, *constraints]) if name in source.schema.names]
        if hashes is not None and few(hashes, source):
            table = source.find(names.INPUT_HASH, hashes, chosen)[1]
        else:
            wanted = pa.schema([source.schema.field(n) for n in chosen])
            table = pa.Table.from_batches(source.scan(chosen), schema=wanted)
        table = table.filter(fulfilling(table, constraints))
        arrays = [
            table[field.name].cast(field.type) if field.name in chosen else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


def _failure(stored: Mapping[str, Any]) -> Outcome:
    texts = (stored["state"], stored["error_type"], stored["message"], stored["traceback"])
    kinds = tuple(stored["error_kinds"] or ())
    attempts = 1 if stored["attempts"] is None else stored["attempts"]
    return Outcome(-1, *texts, stored[names.DURATION], attempts=attempts, kinds=kinds)


def outcome_path(uri: Sequence[str]) -> tuple[str, ...]:
    """Return the path of the failures and skips of the function with a `uri`, among the hidden tables."""
    return ("outcomes", *uri)


def printable(text: str) -> str:
    """Return text that Arrow can hold: lone surrogates escaped, cut to a bound with a note."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… (cut, {len(text)} characters)"
