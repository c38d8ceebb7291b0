"""Waiting: finished work of a run until it is stored, a few seconds or some MiB of it."""

from __future__ import annotations

import time
from typing import Final

from orcapod_dagster.core.rate_limit import Meter
from orcapod_dagster.core.settling import Chunk

FLUSH_ROWS: Final = 131_072
FLUSH_SECONDS: Final = 3.0
FLUSH_BYTES: Final = 64 * 1024 * 1024


class Waiting:
    """Finished work that waits to be stored.

    Args:
        meter: of a run with a rate limit.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._chunks: list[Chunk] = []
        self._rows = self._bytes = 0
        self._last = time.monotonic()

    def add(self, chunk: Chunk | None) -> bool:
        """Add what is finished, if anything, and tell whether all that waits is due to be stored."""
        if chunk is not None:
            self._chunks.append(chunk)
            self._rows += len(chunk.rows) + len(chunk.outcomes)
            self._bytes += chunk.size
        if not self._chunks:
            return False
        enough = self._rows >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES
        # An executor that gives no turns while no packet may begin comes back when it is too late.
        late = self._meter is not None and self._meter.pause() > FLUSH_SECONDS
        return enough or late or time.monotonic() - self._last >= FLUSH_SECONDS

    def take(self) -> list[Chunk]:
        """Return what waits; it waits no longer, also where it cannot be stored."""
        taken, self._chunks = self._chunks, []
        self._rows = self._bytes = 0
        self._last = time.monotonic()
        return taken
