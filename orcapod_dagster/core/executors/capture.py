"""What each packet prints and logs, kept apart from what the others do.

While rows run, the descriptors 1 and 2 lead to two files without names, the spools; so what C code and child processes write
is seen, too. What comes into them while a packet runs is that packet's, and is passed on to where it would have gone. Whether
anything came is asked between two packets by one system call, and not at all after a packet that was too quick to have written.

Packets of async functions have a context of their own, in which what Python code prints and logs is known to be theirs, also
when a task that one of them left running prints while the next one runs.

This module and those that it imports are sent to workers by value, so they import nothing but the standard library, and keep no
state of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from orcapod_dagster.core.executors.ends import Record, RecordEnds, TextEnds
from orcapod_dagster.core.executors.log_records import RecordTap
from orcapod_dagster.core.executors.spool import STDERR, STDOUT, Spool, open_spool, provide_streams

LOG: Final = "log"
ASIDE: Final = -1
"""The packet of a context whose output is shown and not kept."""

_PUMP_SECONDS: Final = 0.25
_KEPT_BYTES: Final = 16 * 1024 * 1024
_TRIALS: Final = 16
_QUICK: Final = 0.3e-6


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


class Packets:
    """Numbers packets, and knows to which of them a context belongs: over all captures that share one, no two have one number.

    Attributes:
        context: a number, `ASIDE`, or None for the packet that runs.
        next: the first number that no packet has.
        captures: those that are open; they are switched off in children that the process forks.
    """

    def __init__(self) -> None:
        self.context: ContextVar[int | None] = ContextVar("orcapod_packet", default=None)
        self.next = 0
        self.captures: WeakSet[Capture] = WeakSet()
        if hasattr(os, "register_at_fork"):  # not on every platform
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        for capture in self.captures:
            capture.forked()


class NoCapture:
    """Keeps nothing; `Capture` does.

    Attributes:
        quick: a packet that took less, in seconds, has written nothing.
        asked: the same, where the time of a call of `heard` is in it.
        heard: called with 0 and 1, tells whether there is something of the packet that has just ended.
        streams: what `sys.stdout` and `sys.stderr` are while rows run; when they are not, there is something to mend.
    """

    quick: float = math.inf
    asked: float = math.inf
    heard: Callable[[float, int], Any]
    streams: tuple[Any, Any] = (None, None)

    def __init__(self) -> None:
        self.heard = lambda _timeout, _events: False

    @contextmanager
    def slice(self) -> Generator[list[LogEntry], None, None]:
        """Watch the rows that run within the block; at its end the list that it gives has their entries, by row."""
        yield []

    def begin(self, row: int) -> None:
        """Give the context of the caller to the packet of a row; its tasks, and threads with a copy of it, belong to it, too."""

    def take(self, row: int) -> float:
        """Add what the packet of a row printed and logged to the entries of the slice.

        Returns:
            When the next packet begins, by `time.perf_counter`; infinity where so much was kept that the slice should end.
        """
        del row
        return time.perf_counter()

    def settle(self, row: int) -> bool:
        """Add only what the context of the packet of a row printed and logged; of packets that run at once, that alone is known.

        Returns:
            Whether so much is kept that `drain` should be called.
        """
        del row
        return False

    def drain(self) -> list[LogEntry]:
        """Return the entries so far, and forget them; what came through descriptors meanwhile is shown, and nobody's."""
        return []


class Capture(NoCapture):
    """Tells what each packet prints and logs, for one process.

    Args:
        limit: how many bytes are kept of what one packet writes to a stream, and of what it logs.
        files: descriptors of the spools, where another process made them to read them when this one is dead.
        marks: memory of four int64 where that process finds, per stream, where the packet began and what was passed on.
        packets: numbers them, where other captures of this process do so, too: what an earlier one's packet left running may
            print while this one's run, and is then nobody's.
        levels: of loggers, where they are not this process's own to say.
        show_records: whether records that no handler takes are shown, as Python does it.
    """

    def __init__(
        self,
        limit: int,
        *,
        files: Sequence[int] | None = None,
        marks: memoryview | None = None,
        packets: Packets | None = None,
        levels: Mapping[str, int] | None = None,
        show_records: bool = True,
    ) -> None:
        provide_streams()
        out, err = files or (open_spool(), open_spool())
        self._limit = limit
        self._marks = marks
        self._packets = packets or Packets()
        self._context = self._packets.context
        self._out = Spool(1, STDOUT, out, limit=limit, on_change=self._mark, divert=self._divert)
        self._err = Spool(2, STDERR, err, limit=limit, on_change=self._mark, divert=self._divert)
        self._tap = RecordTap(self._keep_record, self._err.aside if show_records else None, levels or {})
        self._records = RecordEnds(limit)
        self._apart: dict[int, _Apart] = {}
        self._first = self._packets.next
        self._entries: list[LogEntry] = []
        self._kept = 0
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._pump: threading.Thread | None = None
        self._running = False
        self._watch = _Watch((self._out, self._err), lambda: bool(self._records or self._apart))
        self.heard = self._watch.heard
        self.streams = self._out.stream, self._err.stream
        # A quarter of the quickest of some writes of one byte, for the processor may have been slow just then.
        self.quick = min(_QUICK, *(self._time_of_a_write(spool) / 4 for spool in (self._out, self._err)))
        self._watch.forget()
        self.asked = self.quick + 0.75 * _quickest(lambda: self.heard(0, 1))
        self._mark()
        self._packets.captures.add(self)

    def forked(self) -> None:
        """Keep nothing in this process, a child that was forked: what it prints goes to the spool, where its parent sees it."""
        self._running = False
        self._tap.forked()
        self._out.forked()
        self._err.forked()

    @contextmanager
    def slice(self) -> Generator[list[LogEntry], None, None]:
        """Lead the process's output to the spools within the block."""
        if self._pid != os.getpid():
            yield []
            return
        self._entries, self._kept, self._first = [], 0, self._packets.next
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
                with (
                    contextlib.ExitStack() as stack
                ):  # each in its turn, also where a row closed what another one needs
                    for step in (self._take_late, self._out.restore, self._err.restore, self._tap.remove):
                        stack.callback(step)

    def begin(self, row: int) -> None:
        """Number packets on over all slices, for what one of an earlier slice left running must not count as another's."""
        if not self._running:  # the slice was given up, and what goes on is nobody's
            self._context.set(ASIDE)
            return
        number = self._first + row
        self._packets.next = max(self._packets.next, number + 1)
        self._context.set(number)

    def take(self, row: int) -> float:
        """Read it from the spools, and from what was kept apart."""
        if not self._running or self._pid != os.getpid():
            return time.perf_counter()  # the slice was given up while this row ran; or a child that the function forked
        self._watch.forget()
        now = time.time()
        apart = self._apart.pop(self._first + row, None) or _Apart(self._limit)
        for spool in (self._out, self._err):
            text = spool.take()
            spool.reinstate()
            self._keep_text(row, spool.name, now, apart.texts[spool.name].text() + text)
        for record in (*self._records.take(), *apart.records.take()):
            self._keep(LogEntry(row, LOG, *record))
        return math.inf if self._kept >= _KEPT_BYTES else time.perf_counter()

    def settle(self, row: int) -> bool:
        """Keep what was kept apart."""
        apart = self._apart.pop(self._first + row, None) if self._running else None
        if apart is not None:
            self._keep_apart(row, apart, time.time())
        return self._kept >= _KEPT_BYTES

    def drain(self) -> list[LogEntry]:
        """Give up what came otherwise than in the context of a packet."""
        if not self._running or self._pid != os.getpid():
            return []
        self._watch.forget()
        for spool in (self._out, self._err):
            spool.take()
            spool.reinstate()
        self._records.take()
        entries = [*self._entries]
        self._entries.clear()
        self._kept = 0
        return entries

    def close(self) -> None:
        """Pass on what is left; nothing is captured from now on."""
        self._packets.captures.discard(self)
        self._stop.set()
        if self._pump is not None and self._pump.is_alive():  # in a child that was forked it is not
            self._pump.join()
        self._watch.close()
        self._out.close()
        self._err.close()

    # ------------------------------------------------------------------ what comes in

    def _divert(self, spool: Spool, text: str) -> bool:
        """Keep what is printed in the context of a packet with that packet; everything else goes through the spool."""
        number = self._context.get()
        if number is None or not self._running:
            return False
        spool.aside(text.encode("utf-8", "backslashreplace"))
        if number >= self._first:
            self._apart_of(number).texts[spool.name].add(text)
        return True

    def _keep_record(self, record: Record) -> None:
        number = self._context.get()
        if number is None:
            if not self._records:
                self._watch.ring()
            self._records.add(record)
        elif number >= self._first:
            self._apart_of(number).records.add(record)

    def _apart_of(self, number: int) -> _Apart:
        found = self._apart.get(number)
        if found is None:
            found = self._apart.setdefault(number, _Apart(self._limit))
            self._watch.ring()
        return found

    def _take_late(self) -> None:
        """Add what came of packets after they had ended; those of earlier slices are delivered already."""
        now = time.time()
        late, self._apart = self._apart, {}
        for number, apart in sorted(late.items()):
            self._keep_apart(number - self._first, apart, now)
        self._records.take()
        if late:
            self._entries.sort(key=_row)

    def _keep_apart(self, row: int, apart: _Apart, now: float) -> None:
        for name, ends in apart.texts.items():
            self._keep_text(row, name, now, ends.text())
        for record in apart.records.take():
            self._keep(LogEntry(row, LOG, *record))

    def _keep_text(self, row: int, name: str, now: float, text: str) -> None:
        if text:
            self._keep(LogEntry(row, name, None, None, now, text.encode("utf-8", "backslashreplace").decode("utf-8")))

    def _keep(self, entry: LogEntry) -> None:
        self._entries.append(entry)
        self._kept += len(entry.text)

    # ------------------------------------------------------------------ beside it

    def _mark(self) -> None:
        if self._marks is not None:
            for place, spool in ((0, self._out), (2, self._err)):
                self._marks[place], self._marks[place + 1] = spool.start, spool.shown

    def _pump_on(self) -> None:
        """Pass on what long packets write, so that it can be read while they run."""
        while not self._stop.wait(_PUMP_SECONDS):
            if self._running:
                try:
                    self._out.pump()
                    self._err.pump()
                except OSError:  # the function has closed what is not its own
                    return

    def _time_of_a_write(self, spool: Spool) -> float:
        fastest = _quickest(lambda: os.write(spool.file, b"\n"))
        spool.start = spool.shown = os.lseek(spool.file, 0, os.SEEK_END)
        return fastest


class _Apart:
    """What Python code printed and logged in the context of one packet."""

    def __init__(self, limit: int) -> None:
        self.texts = {STDOUT: TextEnds(limit), STDERR: TextEnds(limit)}
        self.records = RecordEnds(limit)


class _Watch:
    """Tells whether anything was written to the spools, by whomever, or rung for: on Linux by one system call, on inotify.

    Args:
        spools: to watch.
        rung: tells whether there is something else; asked where `ring` cannot say it.
    """

    def __init__(self, spools: Sequence[Spool], rung: Callable[[], bool]) -> None:
        self.heard: Callable[[float, int], Any] = lambda _timeout, _events: (
            rung() or any(os.lseek(spool.file, 0, os.SEEK_END) != spool.start for spool in spools)
        )
        self._handles: list[int] = []
        self._poll: Any = None
        try:
            self._watch(spools)
        except (AttributeError, OSError):  # not Linux, or too many instances: more system calls tell as well
            self.close()

    def _watch(self, spools: Sequence[Spool]) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._handles.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        events: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if events < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._handles.append(events)
        for spool in spools:
            if library.inotify_add_watch(events, f"/proc/self/fd/{spool.file}".encode(), 2) < 0:  # IN_MODIFY
                raise OSError(ctypes.get_errno(), "inotify")
        self._poll = select.epoll()
        for handle in self._handles:
            self._poll.register(handle, select.EPOLLIN)
        self.heard = self._poll.poll

    def ring(self) -> None:
        """Have `heard` tell that there is something, in whatever thread this is."""
        if self._handles:
            os.eventfd_write(self._handles[0], 1)

    def forget(self) -> None:
        """Forget what was heard; called before it is read, so that nothing is missed."""
        for handle in self._handles:
            with contextlib.suppress(BlockingIOError):
                while os.read(handle, 4096):
                    pass

    def close(self) -> None:
        """Give the handles back."""
        if self._poll is not None:
            self._poll.close()
            self._poll = None
        for handle in self._handles:
            os.close(handle)
        self._handles = []


def _quickest(call: Callable[[], object]) -> float:
    """Return the seconds that the quickest of some calls took."""
    times: list[float] = []
    for _ in range(_TRIALS):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return min(times)


def _row(entry: LogEntry) -> int:
    return entry.row


def _unbuffer() -> None:
    """Have C code write at once, as `python -u` does: what it printed would come with a later packet else."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, STDOUT), None, 2, 0)  # _IONBF
