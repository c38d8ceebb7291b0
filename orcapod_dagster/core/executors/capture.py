"""What each packet prints and logs, kept apart from what the others do.

While rows run, the descriptors 1 and 2 lead to two files without names, the spools; so what C code and child processes write
is seen, too. Between two packets the ends of the spools are compared, which costs two system calls, and nothing for a packet
that was too quick to have written. What a spool holds is passed on to where it would have gone.

This module is sent to workers by value, so it imports nothing but the standard library, and keeps no state of its own.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from orcapod_dagster.core.executors.log_records import RecordTap

STDOUT: Final = "stdout"
STDERR: Final = "stderr"

_PUMP_SECONDS: Final = 0.25
_CHUNK_BYTES: Final = 64 * 1024
_SPOOL_BYTES: Final = 1024 * 1024
_KEPT_BYTES: Final = 16 * 1024 * 1024
_TRIALS: Final = 16


class LogEntry(NamedTuple):
    """Something that a packet printed or logged.

    Attributes:
        row: of the packet; counts from the first row of the slice, in a `BatchResult` from the first of all rows.
        stream: `"stdout"` or `"stderr"`, with all that the packet wrote there; or `"log"`, one record.
        level, logger: of a record, else None.
        time: seconds since the epoch: of a record when it was made, of a stream when the packet ended.
        text: without lone surrogates; these, and bytes that are no UTF-8, are written with a backslash.
    """

    row: int
    stream: str
    level: str | None
    logger: str | None
    time: float
    text: str


class Stream(io.TextIOWrapper):
    """Stands in for `sys.stdout` or `sys.stderr`: writes through to the descriptor, and cannot be closed.

    Args:
        number, name: of the descriptor.
        instead: takes what the descriptor refuses, because the disk is full.
    """

    def __init__(self, number: int, name: str, instead: Callable[[bytes], None]) -> None:
        raw = _Descriptor(number, "w", closefd=False)
        raw.name = f"<{name}>"
        raw.instead = instead
        super().__init__(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[arg-type]  # raw, as under `python -u`
        setattr(self, "mode", "w")  # noqa: B010  # as a standard stream has it, which its type does not know

    def close(self) -> None:
        """Do nothing: the next packet prints, too."""


class _Descriptor(io.FileIO):
    name: Any
    instead: Callable[[bytes], None]

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            self.instead(bytes(data))
            return len(data)

    def close(self) -> None:
        pass


class Spool:
    """One stream: the file that its descriptor leads to while rows run.

    Args:
        number, name: 1 and `"stdout"`, or 2 and `"stderr"`.
        file: descriptor of the file, opened to append; the spool closes it.
        limit: how many bytes of one packet are kept.
        on_change: told whenever `start` or `shown` has changed.
    """

    def __init__(self, number: int, name: str, file: int, limit: int, on_change: Callable[[], None]) -> None:
        self.number, self.name, self.file = number, name, file
        self.start = self.shown = os.lseek(file, 0, os.SEEK_END)
        self.stream = Stream(number, name, self.aside)
        self._limit = limit
        self._on_change = on_change
        self._freed = 0
        self._previous: Any = None
        self._original: int | None = None
        self._was_closed = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._lock = threading.Lock()

    def redirect(self) -> None:
        """Lead the descriptor, and the stream of `sys`, here."""
        self._previous = getattr(sys, self.name)
        _flush(self._previous)
        with self._lock:
            self._show()  # what came between two slices
            try:
                self._original = os.dup(self.number)
            except OSError:  # a process without standard streams
                self._original, self._was_closed = os.open(os.devnull, os.O_WRONLY), True
            os.dup2(self.file, self.number)
            self.start = self.shown
        self._on_change()
        setattr(sys, self.name, self.stream)

    def restore(self) -> None:
        """Lead both back to where they led before, whatever the function did to them."""
        if self._original is None:
            return
        setattr(sys, self.name, self._previous)
        _flush(self._previous)
        with self._lock:
            self._show()
            if self._was_closed:
                os.close(self.number)
            else:
                os.dup2(self._original, self.number)
            os.close(self._original)
            self._original, self._was_closed = None, False

    def reinstate(self) -> None:
        """Lead both here again, where the function led them elsewhere."""
        setattr(sys, self.name, self.stream)
        with contextlib.suppress(OSError):
            if os.path.sameopenfile(self.file, self.number):
                return
        os.dup2(self.file, self.number)

    def take(self) -> str:
        """Return what the packet wrote that ends here, cut in its middle where it is too much."""
        with self._lock:
            self._show()
            start, end = self.start, self.shown
            text = read_between(self.file, start, end, self._limit)
            self.start = end
            self._free(self._freed, end)
        self._on_change()
        return text

    def pump(self) -> None:
        """Pass on what has come, while the packet goes on."""
        with self._lock:
            self._show()
            # Of a flood only what is kept stays on the disk.
            self._free(max(self._freed, self.start + self._limit), self.shown - self._limit)
        self._on_change()

    def aside(self, data: bytes) -> None:
        """Write where the stream led before, without keeping it."""
        with self._lock:
            self._write_on(data)

    def _show(self) -> None:
        end = os.lseek(self.file, 0, os.SEEK_END)
        while self.shown < end:
            chunk = os.pread(self.file, min(_CHUNK_BYTES, end - self.shown), self.shown)
            if not chunk:  # someone cut the file
                self.start, self.shown = min(self.start, end), end
                return
            self._write_on(chunk)
            self.shown += len(chunk)

    def _write_on(self, data: bytes) -> None:
        """Write to the stream that was there before, where it leads elsewhere than its descriptor (a notebook, a test), else there."""
        if self._previous is not None and _number_of(self._previous) != self.number:
            with contextlib.suppress(Exception):
                self._previous.write(self._decoder.decode(data))
                return
        write_all(self.number if self._original is None else self._original, data)

    def _free(self, first: int, end: int) -> None:
        if end - first >= _SPOOL_BYTES:
            free_between(self.file, first, end)
            self._freed = end

    def close(self) -> None:
        """Pass on the rest, and remove the file."""
        with self._lock:
            if self.file >= 0:
                self._show()
                os.close(self.file)
                self.file = -1


class NoCapture:
    """Keeps nothing; `Capture` does.

    Attributes:
        quick: a packet that took less, in seconds, has written nothing.
        heard: called with 0 and 1, tells whether there is something of the packet that has just ended.
        streams: what `sys.stdout` and `sys.stderr` are while rows run; when they are not, there is something to mend.
    """

    quick: float = math.inf
    heard: Callable[[float, int], Any]
    streams: tuple[Any, Any] = (None, None)

    def __init__(self) -> None:
        self.heard = lambda _timeout, _events: False

    @contextmanager
    def slice(self) -> Generator[list[LogEntry], None, None]:
        """Watch the rows that run within the block; gives the list to which their entries are added."""
        yield []

    def take(self, row: int) -> float:
        """Add what the packet of a row printed and logged to the entries of the slice.

        Returns:
            When the next packet begins, by `time.perf_counter`; infinity where so much was kept that the slice should end.
        """
        del row
        return time.perf_counter()


class Capture(NoCapture):
    """Tells what each packet prints and logs, for one process, which runs one packet after the other.

    Args:
        limit: how many bytes are kept of what one packet writes to a stream, and of what it logs.
        files: descriptors of the spools, where another process made them to read them when this one is dead.
        marks: memory of four int64 where that process finds, per stream, where the packet began and what was passed on.
        show_records: whether records that no handler takes are shown, as Python does it.
    """

    def __init__(
        self,
        limit: int,
        files: Sequence[int] | None = None,
        marks: memoryview | None = None,
        *,
        show_records: bool = True,
    ) -> None:
        out, err = files or (open_spool(), open_spool())
        self._marks = marks
        self._out = Spool(1, STDOUT, out, limit, self._mark)
        self._err = Spool(2, STDERR, err, limit, self._mark)
        self._tap = RecordTap(limit, self._err.aside if show_records else None)
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._pump: threading.Thread | None = None
        self._running = False
        self._entries: list[LogEntry] = []
        self._kept = 0
        self._watch = _Watch((self._out, self._err), self._tap)
        self.heard = self._watch.heard
        self.streams = self._out.stream, self._err.stream
        # Half of the quickest of some writes of one byte.
        self.quick = min(self._time_of_a_write(spool) for spool in (self._out, self._err)) / 2
        self._mark()

    @contextmanager
    def slice(self) -> Generator[list[LogEntry], None, None]:
        """Lead the process's output to the spools within the block."""
        self._entries, self._kept = [], 0
        if self._pump is None:
            _unbuffer()
            self._pump = threading.Thread(target=self._pump_on, name="orcapod-capture", daemon=True)
            self._pump.start()
        try:
            self._out.redirect()
            self._err.redirect()
            self._tap.install()
            self._running = True
            yield self._entries
        finally:
            if self._pid == os.getpid():
                self._running = False
                self._tap.remove()
                self._err.restore()
                self._out.restore()

    def take(self, row: int) -> float:
        """Read it from the spools."""
        if self._pid != os.getpid():
            return time.perf_counter()  # a child that the function forked
        self._watch.forget()
        now = time.time()
        for spool in (self._out, self._err):
            text = spool.take()
            spool.reinstate()
            if text:
                self._keep(LogEntry(row, spool.name, None, None, now, text))
        for level, logger, created, text in self._tap.take():
            self._keep(LogEntry(row, "log", level, logger, created, text))
        return math.inf if self._kept >= _KEPT_BYTES else time.perf_counter()

    def close(self) -> None:
        """Pass on what is left; nothing is captured from now on."""
        self._stop.set()
        if self._pump is not None and self._pid == os.getpid():
            self._pump.join()
        self._watch.close()
        self._out.close()
        self._err.close()

    def _keep(self, entry: LogEntry) -> None:
        self._entries.append(entry)
        self._kept += len(entry.text)

    def _mark(self) -> None:
        if self._marks is not None:
            for place, spool in ((0, self._out), (2, self._err)):
                self._marks[place], self._marks[place + 1] = spool.start, spool.shown

    def _pump_on(self) -> None:
        """Pass on what long packets write, so that it can be read while they run."""
        while not self._stop.wait(_PUMP_SECONDS):
            if self._running:
                self._out.pump()
                self._err.pump()

    def _time_of_a_write(self, spool: Spool) -> float:
        times: list[float] = []
        for _ in range(_TRIALS):
            before = time.perf_counter()
            os.write(spool.file, b"\n")
            times.append(time.perf_counter() - before)
        spool.start = spool.shown = os.lseek(spool.file, 0, os.SEEK_END)
        return min(times)


class _Watch:
    """Tells whether anything was written to the spools, by whomever, or logged: on Linux by one system call, on inotify."""

    def __init__(self, spools: Sequence[Spool], tap: RecordTap) -> None:
        self.heard: Callable[[float, int], Any] = lambda _timeout, _events: bool(
            tap.records or any(os.lseek(spool.file, 0, os.SEEK_END) != spool.start for spool in spools)
        )
        self._handles: list[int] = []
        try:
            self._watch(spools, tap)
        except (AttributeError, OSError):  # not Linux, or too many instances: more system calls tell as well
            self.close()

    def _watch(self, spools: Sequence[Spool], tap: RecordTap) -> None:
        import ctypes
        import select

        library = ctypes.CDLL(None, use_errno=True)
        logged = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handles.append(logged)
        events: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if events < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._handles.append(events)
        for spool in spools:
            if library.inotify_add_watch(events, f"/proc/self/fd/{spool.file}".encode(), 2) < 0:  # IN_MODIFY
                raise OSError(ctypes.get_errno(), "inotify")
        poll = select.epoll()
        for handle in self._handles:
            poll.register(handle, select.EPOLLIN)
        tap.on_record = lambda: os.eventfd_write(logged, 1)
        self.heard = poll.poll

    def forget(self) -> None:
        """Forget what was heard; called before it is read, so that nothing is missed."""
        for handle in self._handles:
            with contextlib.suppress(BlockingIOError):
                while os.read(handle, 4096):
                    pass

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []


# ---------------------------------------------------------------------------- spools as files


def open_spool() -> int:
    """Return the descriptor of a new file without a name, opened to append; it goes with its last descriptor."""
    handle, path = tempfile.mkstemp(prefix="orcapod-")
    Path(path).unlink()
    import fcntl  # not on every platform

    fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_APPEND)
    return handle


def read_between(file: int, start: int, end: int, limit: int) -> str:
    """Return the text between two places of a file; of more than `limit` bytes the first and the last half of them."""
    if end - start <= limit:
        return os.pread(file, end - start, start).decode("utf-8", "backslashreplace")
    half = limit // 2
    head, tail = os.pread(file, half, start), os.pread(file, half, end - half)
    # What the cut made of a character is left out.
    first, last = head.decode("utf-8", "ignore"), tail.decode("utf-8", "ignore")
    return f"{first}\n… ({end - start - 2 * half:,} bytes cut) …\n{last}"


def write_all(number: int, data: bytes) -> None:
    """Write to a descriptor; when nobody reads there any more, nothing."""
    rest = memoryview(data)
    with contextlib.suppress(OSError):
        while rest:
            try:
                rest = rest[os.write(number, rest) :]
            except BlockingIOError:
                time.sleep(0.01)


def free_between(file: int, first: int, end: int) -> None:
    """Give the disk back what lies between two places of a file; it stays as long as it was."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        punch = ctypes.CDLL(None, use_errno=True).fallocate
        punch.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        punch(
            file, 3, first, end - first
        )  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; elsewhere than on Linux it stays


def _unbuffer() -> None:
    """Have C code write at once, as `python -u` does: what it printed would come with a later packet else."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, ValueError):
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, STDOUT), None, 2, 0)  # _IONBF


def _number_of(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except Exception:  # noqa: BLE001  # any object may stand there
        return None


def _flush(stream: Any) -> None:
    with contextlib.suppress(Exception):  # any object may stand there, closed, or none
        stream.flush()


def set_levels(levels: dict[str, int]) -> None:
    """Give loggers the levels that they have in the process that sent the rows, where they have none here."""
    for name, level in levels.items():
        logger = logging.getLogger(name)
        untouched = logging.WARNING if logger is logging.root else logging.NOTSET
        if logger.level == untouched:
            logger.setLevel(level)
