"""What comes of the output of workers in the process that sent them their rows."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.spool import STDERR, STDOUT, open_spool, read_between, write_all


class CaptureOrder(NamedTuple):
    """What a worker is told to capture; plain values, for the worker may know nothing of this package.

    Attributes:
        limit: bytes per packet and stream.
        levels: of loggers in this process, so that a worker's make the records that they would make here.
    """

    limit: int
    levels: dict[str, int]

    @classmethod
    def of(cls, limit: int) -> CaptureOrder | None:
        """Return what to capture, with the levels of now; None for nothing."""
        if not limit:
            return None
        loggers = [
            logging.root,
            *(one for one in list(logging.root.manager.loggerDict.values()) if isinstance(one, logging.Logger)),
        ]
        return cls(limit, {one.name: one.level for one in loggers if one.level != logging.NOTSET})


def pass_on(logs: Iterable[LogEntry], *, streams: bool) -> None:
    """Hand records to the handlers of this process; with `streams`, also write here what the rows wrote there."""
    for entry in logs:
        if entry.stream == "log":
            logger = logging.getLogger(entry.logger)
            level = logging.getLevelNamesMapping().get(entry.level or "", logging.INFO)
            if logger.isEnabledFor(level):
                record = _record_of(entry, level)
                try:
                    logger.handle(record)
                except Exception:  # noqa: BLE001  # filters and handlers may raise anything, and it is no packet's failure
                    logging.Handler().handleError(record)
        elif streams:
            _show(getattr(sys, entry.stream, None), entry.text)


def _show(stream: Any, text: str) -> None:
    """Write to a stream of this process, if it takes anything: whoever closed it wants nothing shown."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def _record_of(entry: LogEntry, level: int) -> logging.LogRecord:
    made: dict[str, Any] = {
        "name": entry.logger, "levelno": level, "levelname": entry.level, "msg": entry.text,
        "created": entry.time, "msecs": entry.time % 1 * 1000,
    }  # fmt: skip
    return logging.makeLogRecord(made)


class WorkerSpools:
    """The spools of a worker, made here, so that its last words are there when it is dead.

    Args:
        limit: bytes per packet and stream; 0 for no spools.
    """

    def __init__(self, limit: int) -> None:
        self.files = (open_spool(), open_spool()) if limit else ()
        self._limit = limit

    def last_words(self, marks: Sequence[int], row: int, time: float) -> tuple[LogEntry, ...]:
        """Return what the packet wrote at which the worker died, and show what was not shown yet.

        Args:
            marks: per stream, where the packet began, and what was shown.
            row: of the packet. time: for the entries.
        """
        found: list[LogEntry] = []
        for number, (name, file) in enumerate(zip((STDOUT, STDERR), self.files, strict=False)):
            start, shown = marks[2 * number : 2 * number + 2]
            end = os.lseek(file, 0, os.SEEK_END)
            write_all(1 + number, os.pread(file, min(end - shown, self._limit), shown))
            text = read_between(file, start, end, self._limit)
            if text:
                found.append(LogEntry(row, name, None, None, time, text))
        return tuple(found)

    def close(self) -> None:
        """Give the files back to the disk."""
        for file in self.files:
            os.close(file)
        self.files = ()
