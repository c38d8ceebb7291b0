"""RecordTap: the log records that are made while packets run, whatever handlers there are.

Sent to workers by value, so it imports nothing but the standard library; see capture.py.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from orcapod_dagster.core.executors.ends import Record


class RecordTap:
    """Sees every log record by the factory that makes them.

    A handler would not do: `logging.basicConfig()` in a function does nothing where the root logger has one, loggers that do
    not propagate never reach it, and `force=True` removes it.

    Args:
        keep: gets each record.
        show: shows a record that no handler takes, in place of Python's own `logging.lastResort`, which would write it to
            stderr, where it would be kept a second time; None where somebody else shows it.
        levels: of loggers in the process that sent the rows; hold while rows run, for loggers that have none here.
    """

    def __init__(
        self, keep: Callable[[Record], None], show: Callable[[bytes], None] | None, levels: Mapping[str, int]
    ) -> None:
        self._keep = keep
        self._factory = self._make  # one object, to know it again
        self._previous: Callable[..., logging.LogRecord] = logging.LogRecord
        self._base: Callable[..., logging.LogRecord] | None = None
        self._making: set[int] = set()
        self._newest: logging.LogRecord | None = None
        self._active = False
        self._levels = levels
        self._set: list[tuple[logging.Logger, int]] = []
        self._resort = _LastResort(show)
        self._previous_resort: Any = None

    def install(self) -> None:
        """Begin to keep records."""
        previous = logging.getLogRecordFactory()
        if previous is not self._factory:
            self._previous = previous
            self._base = self._base or previous
            logging.setLogRecordFactory(self._factory)
        self._previous_resort, logging.lastResort = logging.lastResort, self._resort
        for name, level in self._levels.items():
            logger = logging.getLogger(name)
            untouched = logging.WARNING if logger is logging.root else logging.NOTSET
            if logger.level == untouched != level:
                self._set.append((logger, untouched))
                logger.setLevel(level)
        self._active = True

    def remove(self) -> None:
        """Keep no more; a factory that the function has put before this one stays, and gets records from it unchanged."""
        self._active = False
        self._newest = None
        for logger, untouched in self._set:  # a worker of Ray serves other runs, too
            if logger.level == self._levels[logger.name]:
                logger.setLevel(untouched)
        self._set = []
        if logging.getLogRecordFactory() is self._factory:
            logging.setLogRecordFactory(self._previous)
        if logging.lastResort is self._resort:
            logging.lastResort = self._previous_resort

    def _make(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        thread = threading.get_ident()
        if thread in self._making and self._base is not None:
            return self._base(*args, **kwargs)  # a factory that a row has put before this one lies below it now
        self._making.add(thread)
        try:
            record = self._previous(*args, **kwargs)
        finally:
            self._making.discard(thread)
        # `makeLogRecord` makes one without a name, for a record that was made elsewhere; and a factory of the function's may
        # call this one twice.
        if self._active and record.name and record is not self._newest:
            self._newest = record
            self._keep(Record(record.levelname, record.name, record.created, _text_of(record)))
        return record


class _LastResort(logging.Handler):
    def __init__(self, show: Callable[[bytes], None] | None) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if self._show is not None:
            self._show(f"{_text_of(record)}\n".encode())


def _text_of(record: logging.LogRecord) -> str:
    """Return message and traceback; what formats them is the function's, and may raise anything."""
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001
        text = f"{record.msg!r:.200} ({type(error).__name__} while it was formatted)"
    if record.exc_info and record.exc_info[1] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
