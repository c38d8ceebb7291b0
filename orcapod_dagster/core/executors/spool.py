"""Spools: the files to which a process's stdout and stderr lead while rows run.

Sent to workers by value, so it imports nothing but the standard library; see capture.py.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

STDOUT: Final = "stdout"
STDERR: Final = "stderr"

_CHUNK_BYTES: Final = 64 * 1024
_SPOOL_BYTES: Final = 1024 * 1024


class Stream(io.TextIOWrapper):
    """Stands in for `sys.stdout` or `sys.stderr`: writes through to the descriptor, and cannot be closed.

    Args:
        number, name: of the descriptor.
        instead: takes what the descriptor refuses, because the disk is full.
        divert: takes the text first, and tells whether it kept it.
    """

    def __init__(self, number: int, name: str, instead: Callable[[bytes], None], divert: Callable[[str], bool]) -> None:
        raw = _Descriptor(number, "w", closefd=False)
        raw.name = f"<{name}>"
        raw.instead = instead
        super().__init__(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[arg-type]  # raw, as under `python -u`
        setattr(self, "mode", "w")  # noqa: B010  # as a standard stream has it, which its type does not know

        self._divert = divert

    def write(self, text: str) -> int:
        """Write through."""
        return len(text) if isinstance(text, str) and self._divert(text) else super().write(text)  # pyright: ignore[reportUnnecessaryIsInstance]  # users write bytes, too, and are told

    def close(self) -> None:
        """Do nothing: the next packet prints, too."""

    def detach(self) -> Any:
        """Return the binary stream, and stay attached to it for the same reason."""
        return self.buffer


class _Descriptor(io.FileIO):
    name: Any
    instead: Callable[[bytes], None]

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            try:
                written: int | None = super().write(rest)
            except OSError:
                written = None
            if not written:  # nor is None, of a descriptor that the function led to something that does not wait
                self.instead(bytes(rest))
                break
            rest = rest[written:]
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
        divert: takes what is written to the stream of `sys` before it, and tells whether it kept that.
    """

    def __init__(
        self,
        number: int,
        name: str,
        file: int,
        *,
        limit: int,
        on_change: Callable[[], None],
        divert: Callable[[Spool, str], bool],
    ) -> None:
        self.number, self.name, self.file = number, name, file
        self.start = self.shown = os.lseek(file, 0, os.SEEK_END)
        self.stream = Stream(number, name, self.aside, lambda text: divert(self, text))
        self._limit = limit
        self._on_change = on_change
        self._freed = self._flooded = self.start
        self._previous: Any = None
        self._original: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._lock = threading.RLock()  # what is written on may log, and a signal may come
        self._is_child = False

    def forked(self) -> None:
        """Leave it to the parent of this process, a child that was forked, to pass on; another thread had the lock, maybe."""
        self._lock = threading.RLock()
        self._is_child = True

    def redirect(self) -> None:
        """Lead the descriptor, and the stream of `sys`, here."""
        self._previous = getattr(sys, self.name)
        _flush(self._previous)
        with self._lock:
            self._show()  # what came between two slices
            self._original = os.dup(self.number)
            os.dup2(self.file, self.number)
            self.start = self.shown
        self._on_change()
        setattr(sys, self.name, self.stream)

    def restore(self) -> None:
        """Lead both back to where they led before, whatever the function did to them."""
        with self._lock:
            if self._original is None:
                return
            setattr(sys, self.name, self._previous)
            _flush(self._previous)
            original = self._original
            try:
                self._show()
            finally:
                self._original = None
                os.dup2(original, self.number)
                os.close(original)

    def reinstate(self) -> None:
        """Lead both here again, where the function led them elsewhere; nothing once they were restored, by whatever thread."""
        with self._lock:
            if self._original is None:
                return
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
            self._flooded = end
            if end - self._freed >= _SPOOL_BYTES:
                free_between(self.file, self._freed, end)
                self._freed = end
        self._on_change()
        return text

    def pump(self) -> None:
        """Pass on what has come, while the packet goes on."""
        with self._lock:
            self._show()
            # Of a flood only what is kept stays on the disk.
            first, end = max(self._flooded, self.start + self._limit), self.shown - self._limit
            if end - first >= _SPOOL_BYTES:
                free_between(self.file, first, end)
                self._flooded = end
        self._on_change()

    def aside(self, data: bytes) -> None:
        """Write where the stream led before, without keeping it."""
        with self._lock:
            if self.file >= 0:
                self._show()  # what came before
            self._write_on(data)

    def _show(self) -> None:
        if self._is_child:
            return
        end = os.lseek(self.file, 0, os.SEEK_END)
        if end < self.shown:  # the function has cut its stdout, and what stands there now is new
            self.start = self.shown = self._freed = self._flooded = 0
        while self.shown < end:
            chunk = os.pread(self.file, min(_CHUNK_BYTES, end - self.shown), self.shown)
            if not chunk:
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

    def close(self) -> None:
        """Pass on the rest, and remove the file."""
        with self._lock:
            if self.file >= 0:
                self._show()
                os.close(self.file)
                self.file = -1


# ---------------------------------------------------------------------------- spools as files


def provide_streams() -> None:
    """Lead the descriptors 1 and 2 to nowhere, where a process has none: what is opened next would take their numbers."""
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)


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


def _number_of(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except Exception:  # noqa: BLE001  # any object may stand there
        return None


def _flush(stream: Any) -> None:
    with contextlib.suppress(Exception):  # any object may stand there, closed, or none
        stream.flush()
