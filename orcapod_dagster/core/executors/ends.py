"""The first and the last of much: what is kept of a packet that prints or logs more than anybody will read.

Sent to workers by value, so it imports nothing but the standard library; see capture.py.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

CUT: Final = "… ({:,} {} cut) …"


class Record(NamedTuple):
    """A log record: name of the level, of the logger, seconds since the epoch, message and traceback."""

    level: str
    logger: str
    created: float
    text: str


class RecordEnds:
    """Keeps the first and the last records of many.

    Args:
        limit: how many characters are kept; one record has at most half of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit // 2)
        self._first: list[Record] = []
        self._last: deque[Record] = deque()
        self._first_size = self._last_size = self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._first)

    def add(self, record: Record) -> None:
        """Add one, cut where it is too long."""
        if len(record.text) > self._limit:
            rest = len(record.text) - self._limit
            record = record._replace(text=f"{record.text[: self._limit]}{CUT.format(rest, 'characters')}")
        size = len(record.text) + 1
        if not self._first or (not self._last and self._first_size + size <= self._limit):
            self._first.append(record)
            self._first_size += size
            return
        self._last.append(record)
        self._last_size += size
        while self._last_size > self._limit and len(self._last) > 1:
            self._last_size -= len(self._last.popleft().text) + 1
            self._dropped += 1

    def take(self) -> list[Record]:
        """Return what is kept, between the first and the last a record that says how many were cut; and forget it."""
        found = [*self._first]
        if self._dropped:
            found.append(Record("INFO", "orcapod_dagster", found[-1].created, CUT.format(self._dropped, "records")))
        found.extend(self._last)
        self.__init__(2 * self._limit)
        return found


class TextEnds:
    """Keeps the beginning and the end of a long text that comes in pieces.

    Args:
        limit: how many characters are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit // 2)
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._first_size = self._last_size = self._dropped = 0

    def add(self, text: str) -> None:
        """Add a piece."""
        room = self._limit - self._first_size
        if room > 0:
            self._first.append(text[:room])
            self._first_size += len(self._first[-1])
            text = text[room:]
        if text:
            self._dropped += max(0, len(text) - self._limit)
            self._last.append(text[-self._limit :])
            self._last_size += len(self._last[-1])
        while self._last and self._last_size - len(self._last[0]) >= self._limit:
            gone = len(self._last.popleft())
            self._last_size -= gone
            self._dropped += gone

    def text(self) -> str:
        """Return what is kept, and between beginning and end how much was cut."""
        first, last = "".join(self._first), "".join(self._last)
        dropped = self._dropped + max(0, len(last) - self._limit)
        last = last[-self._limit :]
        return f"{first}\n{CUT.format(dropped, 'characters')}\n{last}" if dropped else first + last
