"""RecordTap: the log records that are made while packets run, whatever handlers there are.

Sent to workers by value, so it imports nothing but the standard library; see capture.py.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from orcapod_dagster.core.executors.ends import Record

# The years 1 to 9999, which readers of tables know, in seconds.
_FIRST_TIME: Final = -62_135_596_800
_LAST_TIME: Final = 253_402_300_799


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

    def forked(self) -> None:
        """Keep no more in a child that was forked; there Python itself shows records that no handler takes."""
        self._active = False
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
        if self._active and record is not self._newest and getattr(record, "name", None):
            self._newest = record
            self._keep(_kept(record))
        return record


class _LastResort(logging.Handler):
    def __init__(self, show: Callable[[bytes], None] | None) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if self._show is not None:
            self._show(f"{_text_of(record)}\n".encode())


def _kept(record: logging.LogRecord) -> Record:
    """Return what is kept of a record; what is no time is said in its text, and the time is now."""
    text, created = _text_of(record), getattr(record, "created", None)
    if not isinstance(created, (int, float)) or not _FIRST_TIME <= created <= _LAST_TIME:
        text, created = f"{text}\n(created={_shown(created)} is no time)", time.time()
    return Record(_plain(getattr(record, "levelname", "")), _plain(record.name), float(created), text)


def _text_of(record: logging.LogRecord) -> str:
    """Return message and traceback; what formats them is the function's, and may raise anything."""
    try:
        text = _plain(record.getMessage())
    except Exception as error:  # noqa: BLE001
        text = f"{_shown(getattr(record, 'msg', None))} ({type(error).__name__} while it was formatted)"
    try:
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    except Exception as error:  # noqa: BLE001
        text += f"\n(no traceback: {type(error).__name__} while it was formatted)"
    return _plain(text)


def _shown(value: object) -> str:
    """Return the beginning of a value's `repr`, or its class, where that raises."""
    try:
        return _plain(repr(value))[:200]
    except Exception:  # noqa: BLE001
        return f"<{type(value).__qualname__}>"


def _plain(value: object) -> str:
    """Return a `str` without lone surrogates."""
    try:
        text = value if isinstance(value, str) else str(value)
        return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
    except Exception:  # noqa: BLE001
        return f"<{type(value).__qualname__}>"
