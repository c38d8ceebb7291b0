"""RecordTap: the log records that are made while a packet runs, whatever handlers there are.

Sent to workers by value; see capture.py.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

Record = tuple[str, str, float, str]
"""Level, logger, seconds since the epoch, text."""


class RecordTap:
    """Sees every log record by the factory that makes them.

    A handler would not do: `logging.basicConfig()` in a function does nothing where the root logger has one, loggers that do
    not propagate never reach it, and `force=True` removes it.

    Args:
        limit: how many characters of one packet's records are kept: of the first ones, and of the last ones, a half.
        show: shows a record that no handler takes, in place of Python's own `logging.lastResort`, which would write it to
            stderr, where it would be kept a second time; None where somebody else shows it.
    """

    def __init__(self, limit: int, show: Callable[[bytes], None] | None) -> None:
        self.records: list[Record] = []
        self.on_record: Callable[[], None] = _nothing
        """Called when there is a first record since the last `take`."""
        self._last_ones: deque[Record] = deque()
        self._limit = limit // 2
        self._first_size = self._last_size = self._dropped = 0
        self._factory = self._make  # one object, to know it again
        self._previous: Callable[..., logging.LogRecord] = logging.LogRecord
        self._newest: logging.LogRecord | None = None
        self._active = False
        self._resort = _LastResort(show)
        self._previous_resort: Any = None

    def install(self) -> None:
        """Begin to keep records."""
        previous = logging.getLogRecordFactory()
        if previous is not self._factory:
            self._previous = previous
            logging.setLogRecordFactory(self._factory)
        self._previous_resort, logging.lastResort = logging.lastResort, self._resort
        self._active = True

    def remove(self) -> None:
        """Keep no more; a factory that the function has put before this one stays, and gets records from it unchanged."""
        self._active = False
        self._newest = None
        if logging.getLogRecordFactory() is self._factory:
            logging.setLogRecordFactory(self._previous)
        if logging.lastResort is self._resort:
            logging.lastResort = self._previous_resort

    def take(self) -> list[Record]:
        """Return the records since the last call, at most about the limit."""
        if not self.records:
            return []
        found = list(self.records)
        if self._dropped:
            found.append(("INFO", "orcapod_dagster", found[-1][2], f"… ({self._dropped:,} records cut) …"))
        found.extend(self._last_ones)
        self.records.clear()
        self._last_ones.clear()
        self._first_size = self._last_size = self._dropped = 0
        self._newest = None
        return found

    def _make(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._previous(*args, **kwargs)
        # `makeLogRecord` makes one without a name, for a record that was made elsewhere; and a factory of the function's may
        # call this one twice.
        if self._active and record.name and record is not self._newest:
            self._newest = record
            self._keep((record.levelname, record.name, record.created, _cut(_text_of(record), self._limit)))
        return record

    def _keep(self, record: Record) -> None:
        size = len(record[3]) + 1
        if not self.records:
            self.on_record()
        if not self.records or (not self._last_ones and self._first_size + size <= self._limit):
            self.records.append(record)
            self._first_size += size
            return
        self._last_ones.append(record)
        self._last_size += size
        while self._last_size > self._limit and len(self._last_ones) > 1:
            self._last_size -= len(self._last_ones.popleft()[3]) + 1
            self._dropped += 1


def _nothing() -> None:
    pass


class _LastResort(logging.Handler):
    def __init__(self, show: Callable[[bytes], None] | None) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if self._show is not None:
            self._show(f"{_text_of(record)}\n".encode())


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… (cut, {len(text):,} characters)"


def _text_of(record: logging.LogRecord) -> str:
    """Return message and traceback; what formats them is the function's, and may raise anything."""
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001
        text = f"{record.msg!r:.200} ({type(error).__name__} while it was formatted)"
    if record.exc_info and record.exc_info[1] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
