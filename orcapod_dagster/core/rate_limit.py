"""RateLimit: how many packets of a step are begun per second, minute or hour, by all workers together."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.executors.base import RowBatch

_UNITS: Final = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
_TEXT: Final = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(?:/|per)\s*([a-z]+)\s*")
_BURST_SECONDS: Final = 0.05
"""Packets that are due within so long are begun together, for a batch of its own costs a millisecond."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate of packets.

    Attributes:
        per_second: how many packets are begun per second at most; above 0.
    """

    per_second: float

    @classmethod
    def of(cls, value: Any, owner: str) -> Self | None:
        """Return what users give for it: "60/min", "10/s", "1000/h", or nothing.

        Raises:
            DefinitionError: it is no rate.
        """
        if value is None or isinstance(value, cls):
            return value
        found = _TEXT.fullmatch(value.lower()) if isinstance(value, str) else None
        if found is None or found[2] not in _UNITS or not 0 < float(found[1]) < math.inf:
            raise DefinitionError(
                f'{owner}: rate_limit={value!r}; give a rate of packets, e.g. "60/min", "10/s" or "1000/h".'
            )
        return cls(float(found[1]) / _UNITS[found[2]])


class Meter:
    """Says when the packets of one run may begin. What was not used is not saved up, so there are no bursts.

    Args:
        rate: of all packets that it is asked about.
    """

    def __init__(self, rate: RateLimit) -> None:
        self._rate = rate.per_second
        self._next = 0.0

    def pause(self) -> float:
        """Return for how many seconds no further packet may begin."""
        return max(0.0, self._next - time.monotonic())

    def metered(self, batches: Iterable[RowBatch], *, wait: bool) -> Iterator[RowBatch]:
        """Yield rows in batches that say when they may begin.

        Args:
            batches: of any length; taken as they are asked for.
            wait: whether each is yielded only when it is time, for whoever takes them does not look.
        """
        rows = max(1, int(self._rate * _BURST_SECONDS))
        for batch in batches:
            for first in range(0, batch.length, rows):
                part = batch.part(first, min(first + rows, batch.length), not_before=self._turn(rows))
                if wait:
                    time.sleep(max(0.0, part.not_before - time.monotonic()))
                yield part

    def _turn(self, rows: int) -> float:
        begin = max(self._next, time.monotonic())
        self._next = begin + rows / self._rate
        return begin
