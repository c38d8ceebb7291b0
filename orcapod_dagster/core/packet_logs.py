"""PacketLogs: what packets printed and logged, one append-only table per function beside its results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.hashing import PACKET_METHOD
from orcapod_dagster.core.outcomes import Outcome
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.core.tag_texts import TAG_TYPE, tags_as_text

LOG_BYTES: Final = 64 * 1024
"""How much of what a packet writes to a stream, and logs, is kept unless somebody says otherwise."""
_VARIATION: Final = tuple(f"{names.VARIATION_PREFIX}{name}" for name in VARIATION_SCHEMA)
LOG_SCHEMA: Final = pa.schema(
    [
        pa.field("tag", TAG_TYPE, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field(names.INPUT_HASH, pa.binary(), nullable=False),
        pa.field(names.RECORD_ID, pa.binary()),
        pa.field("stream", pa.string(), nullable=False),
        pa.field("level", pa.string()),
        pa.field("logger", pa.string()),
        pa.field("time", UTC_TIMESTAMP, nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field(names.TIMESTAMP, UTC_TIMESTAMP, nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _VARIATION),
        pa.field(names.CONTEXT_KEY, pa.string(), nullable=False),
    ]
)
"""One row per packet and stream, or per log record.

`tag`: the packet's tag columns as text. `__record_id`: its result; null where it failed or was skipped. `stream`: "stdout",
"stderr" or "log", which alone has `level` and `logger`. `time`: when the record was made, or the packet ended.
"""
_LAST_CHARACTERS: Final = 2_000


def checked_capture(given: Any, owner: str) -> int:
    """Return how many bytes are kept of what a packet writes to a stream, of what users give for `capture`; 0 for none.

    Raises:
        DefinitionError: it is neither a truth value nor a whole number, 0 or more.
    """
    if isinstance(given, int) and given >= 0:
        return LOG_BYTES if given is True else int(given)
    raise DefinitionError(f"{owner}: capture={given!r} is no number of bytes; give True, False or a number.")


class PacketLogs:
    """What the packets of one function printed and logged.

    Args:
        database, path: where it is kept; never inside the results' own table.
        run_id: of the run that adds to it.
        limit: how many bytes are kept of what one packet writes to a stream, and of what it logs.
    """

    def __init__(
        self, database: ArrowDatabase, path: Sequence[str], *, run_id: str = "", limit: int = LOG_BYTES
    ) -> None:
        self.database = database
        self.path = tuple(path)
        self.limit = limit
        self._run_id = run_id

    def store(
        self,
        entries: Sequence[LogEntry],
        stream: PacketStream,
        hashes: pa.Array,
        rows: pa.Array,
        record_ids: pa.Array,
        context: Context,
    ) -> None:
        """Store entries with what is known of their packets; durable on return. Nothing is written where there are none.

        Args:
            entries: their `row` is a row of the stream.
            stream, hashes: the run's rows, and the input packet hash of each.
            rows, record_ids: rows (`int64`) that have a result, and the ids of these (16 bytes).
            context: what made them.
        """
        if not entries:
            return
        spoke = pa.array(sorted({entry.row for entry in entries}), pa.int64())
        which = pc.index_in(pa.array([entry.row for entry in entries], pa.int64()), value_set=spoke)
        columns: dict[str, pa.Array | pa.ChunkedArray | pa.Scalar] = {
            "tag": tags_as_text(stream, spoke).take(which),
            "run_id": pa.scalar(self._run_id),
            names.INPUT_HASH: hashes.take(spoke).take(which).cast(pa.binary()),
            names.RECORD_ID: record_ids.take(pc.index_in(spoke, value_set=rows)).take(which).cast(pa.binary()),
            "stream": pa.array([entry.stream for entry in entries]),
            "level": pa.array([_plain(entry.level) for entry in entries], pa.string()),
            "logger": pa.array([_plain(entry.logger) for entry in entries], pa.string()),
            "time": pa.array([int(entry.time * 1_000_000) for entry in entries], pa.int64()).cast(UTC_TIMESTAMP),
            "text": pa.array([_plain(entry.text) for entry in entries], pa.string()),
            names.TIMESTAMP: pa.scalar(dt.datetime.now(dt.UTC), UTC_TIMESTAMP),
            **{name: context.rows(1).column(name)[0] for name in _VARIATION},
            names.CONTEXT_KEY: pa.scalar(PACKET_METHOD),
        }
        arrays = [pa.repeat(c, len(entries)) if isinstance(c, pa.Scalar) else c for c in columns.values()]
        self.database.append(self.path, pa.Table.from_arrays(arrays, schema=LOG_SCHEMA).to_reader)
        self.database.flush()
        self.database.keep_quick(self.path)

    def read(self, hashes: pa.Array | None = None) -> pa.Table:
        """Return all entries as `LOG_SCHEMA`, or those of packets with one of a few input hashes, in the order of their time."""
        source = self.database.source(self.path)
        if source is None:
            return LOG_SCHEMA.empty_table()
        if hashes is not None:
            table = source.find(names.INPUT_HASH, hashes, LOG_SCHEMA.names)[1]
        else:
            wanted = pa.schema([source.schema.field(name) for name in LOG_SCHEMA.names])
            table = pa.Table.from_batches(source.scan(LOG_SCHEMA.names), schema=wanted)
        return table.cast(LOG_SCHEMA).sort_by("time")


def log_path(uri: Sequence[str]) -> tuple[str, ...]:
    """Return the path of the log table of the function with a `uri`, among the hidden tables."""
    return ("logs", *uri)


def with_last_lines(outcomes: Iterable[Outcome], entries: Sequence[LogEntry]) -> list[Outcome]:
    """Return outcomes with the end of what their packets printed and logged, for reports."""
    if not entries:
        return list(outcomes)
    said: dict[int, str] = {}
    for entry in entries:
        head = f"{entry.level} {entry.logger}: " if entry.stream == "log" else ""
        text = f"{said.get(entry.row, '')}{head}{entry.text}"
        said[entry.row] = f"{text.rstrip()}\n"[-_LAST_CHARACTERS:]
    return [replace(one, printed=said[one.row]) if one.row in said else one for one in outcomes]


def _plain(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
