"""FileMemory: digests of files that were read before, kept in a database, so that unchanged files are not read again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.files.digests import DIGEST_BYTES, FILE_METHOD, STATE_BYTES

if TYPE_CHECKING:  # databases stand above datagrams, which hash files
    from orcapod_dagster.core.databases.base import ArrowDatabase

RECORD_PATH: Final = ("", FILE_METHOD)
"""No function's records can lie here: the path of those begins with a prefix or a name, and no name is empty."""

SCHEMA: Final = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("digest", pa.binary(), nullable=False)]
)
_KEYS_PER_LOOKUP: Final = 1000
_FLUSH_ROWS: Final = 131_072
_FLUSH_SECONDS: Final = 30.0


class FileMemory:
    """File key (path, size, times, inode) → content digest; append-only, one commit per flush.

    What was remembered waits in this process until `flush`, or until there is much of it or 30 s have passed.

    Args:
        database: where it is kept, under `RECORD_PATH`.
    """

    def __init__(self, database: ArrowDatabase) -> None:
        self._database = database
        self._fresh: dict[bytes, bytes] = {}
        self._flushed = time.monotonic()

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the digests of those keys that are known."""
        found = {key: self._fresh[key] for key in keys if key in self._fresh}
        wanted = [key for key in keys if key not in found]
        for table in self._stored(pa.array(wanted, pa.binary())) if wanted else ():
            found |= zip(table["key"].to_pylist(), table["digest"].to_pylist(), strict=True)
        return found

    def _stored(self, keys: pa.Array) -> list[pa.Table]:
        """Return the stored rows of these keys: few by a look-up, many by one pass over the table."""
        if len(keys) <= _KEYS_PER_LOOKUP:
            table = self._database.lookup(RECORD_PATH, "key", keys, SCHEMA.names)
            return [] if table is None else [table]
        source = self._database.source(RECORD_PATH)
        if source is None:
            return []
        batches = (batch.filter(pc.is_in(batch.column(0), value_set=keys)) for batch in source.scan(SCHEMA.names))
        return [pa.Table.from_batches([batch]) for batch in batches if batch.num_rows]

    def remember(self, key: bytes, digest: bytes) -> None:
        """Keep a digest."""
        assert (len(key), len(digest)) == (STATE_BYTES, DIGEST_BYTES)
        self._fresh[key] = digest
        if len(self._fresh) >= _FLUSH_ROWS or time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make what was remembered durable and seen by other processes; does nothing where nothing is new."""
        self._flushed = time.monotonic()
        if not self._fresh:
            return
        table = pa.table([list(self._fresh), list(self._fresh.values())], schema=SCHEMA)
        self._database.append(RECORD_PATH, table.to_reader)
        self._database.flush()
        self._fresh = {}
        self._database.keep_quick(RECORD_PATH)
