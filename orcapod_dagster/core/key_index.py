"""Key indexes: in which rows of a data file a key may stand, found without reading the file.

A data file never changes and its name is never used again, so what was derived from it once stays true. An index holds one
word of 64 bits per row, sorted: 40 bits of the key, 24 of the row's number. It is bisected, not read, lies below its table in
a folder that Delta takes for hidden, and may be removed at any time: it is made anew from the key column. 40 bits do not
tell all keys apart, so what is found are candidates, to be compared with the keys themselves.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.hashing import HASH_TYPE, split_lanes
from orcapod_dagster.core.paths import local_path

FOLDER: Final = "_keys"
"""Below a table; deltalake's readers and its vacuum leave alone what begins with an underscore."""

_MAGIC: Final = int.from_bytes(b"orcakey1", "big")  # read back in another byte order it is another number
_HEADER_WORDS: Final = 2
_ROW_BITS: Final = 24
_ROW_MASK: Final = (1 << _ROW_BITS) - 1
_KEY_MASK: Final = (1 << 64) - 1 - _ROW_MASK
_FEWEST_ROWS: Final = 512
"""With fewer rows a file's keys are read as quickly as an index, so none is written."""
_READ_WHOLE: Final = 1 << 20
_KEPT_BYTES: Final = 64 << 20
_ABANDONED_SECONDS: Final = 3600.0


_in_memory: Final[ContextVar[bool]] = ContextVar("_in_memory", default=False)


@contextlib.contextmanager
def in_memory() -> Generator[None]:
    """Write no index that is missing while this is entered, in this thread: for whoever must leave a lake as it is."""
    token = _in_memory.set(True)
    try:
        yield
    finally:
        _in_memory.reset(token)


def key_words(keys: pa.Array) -> list[int] | None:
    """Return what an index is searched by for some keys, each once; None where they are not of 16 bytes, as indexed keys are."""
    lane = _first_lane(keys)
    return None if lane is None else pc.unique(pc.bit_wise_and(lane, pa.scalar(_KEY_MASK, pa.uint64()))).to_pylist()


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One data file and the column by which rows are sought in it.

    Attributes:
        uri: the table. name: of the file in it. rows: how many it has.
        column: of keys of 16 bytes. read: gives that column, in pieces.
    """

    uri: str
    name: str
    rows: int
    column: str
    read: Callable[[], Iterable[pa.Array]]

    def candidates(self, words: Sequence[int]) -> list[int] | None:
        """Return the rows, ascending, whose key may be one of those that `key_words` was given; None if it cannot be indexed."""
        path = self._path()
        found = None if path is None else _search(path, self.rows, words)
        if found is None:
            entries = self._kept(path)
            found = None if entries is None else list(_matches(entries, words))
        return None if found is None else sorted(found)

    def make(self, *, durable: bool = True) -> None:
        """Write the index where it is worth a file and not there yet; a storage that refuses is no error.

        Args:
            durable: force it to the disk first, so that no power loss leaves a file of the right size with other content.
        """
        path = self._path()
        if path is None or path.exists():
            return
        words = self._build()
        if words is not None:
            _save(path, words, durable=durable)

    def _path(self) -> Path | None:
        folder = local_path(self.uri)
        if folder is None or not self.rows >= _FEWEST_ROWS:
            return None
        return folder / FOLDER / f"{self.name}.{quote(self.column, safe='')}"

    def _kept(self, path: Path | None) -> Sequence[int] | None:
        """Return the entries from this process's memory; made, and written where there is a place, if they are not there."""
        key = (self.uri, self.name, self.column)
        words = _memory.get(key)
        if words is None:
            words = self._build()
            if words is None:
                return None
            if path is None or _in_memory.get() or not _save(path, words, durable=True):
                _memory.put(key, words)
        return memoryview(words).cast("Q")

    def _build(self) -> bytes | None:
        if self.rows > _ROW_MASK:
            return None
        lanes = [pa.array([], pa.uint64())]
        for piece in self.read():
            lane = _first_lane(piece)
            if lane is None:
                return None
            lanes.append(lane)
        lane = pa.concat_arrays(lanes)
        one = pa.scalar(1, pa.uint64())
        numbers = pc.subtract(pc.cumulative_sum(pa.repeat(one, len(lane))), one)
        words = pc.bit_wise_or(pc.bit_wise_and(lane, pa.scalar(_KEY_MASK, pa.uint64())), numbers)
        ordered = words.take(pc.array_sort_indices(words))
        return bytes(memoryview(ordered.buffers()[1])[: 8 * len(ordered)])


def data_file_of(name: str) -> str:
    """Return the data file whose index, in `FOLDER`, has this name."""
    return f"{name.partition('.parquet.')[0]}.parquet"


def prune(uri: str, live: Collection[str]) -> None:
    """Remove the indexes of files that a table no longer has; a reader of an earlier version makes its own again."""
    table = local_path(uri)
    folder = None if table is None else table / FOLDER
    if folder is None or not folder.is_dir():
        return
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            abandoned = path.name.startswith(".") and path.stat().st_mtime < time.time() - _ABANDONED_SECONDS
            if abandoned or not (path.name.startswith(".") or data_file_of(path.name) in live):
                path.unlink()


def _first_lane(keys: pa.Array) -> pa.Array | None:
    if keys.null_count:
        return None
    try:
        return split_lanes(keys.cast(HASH_TYPE)).a if len(keys) else pa.array([], pa.uint64())
    except pa.ArrowInvalid:
        return None


def _matches(entries: Sequence[int], words: Sequence[int]) -> Iterator[int]:
    count = len(entries)
    for word, first in zip(words, map(bisect_left, repeat(entries), words), strict=True):
        for at in range(first, count):
            entry = entries[at]
            if entry & _KEY_MASK != word:
                break
            yield entry & _ROW_MASK


class _OnDisk(Sequence[int]):
    """The entries of a long index file, each read when it is asked for.

    Not through a memory map: a disk that fails would then end the process instead of raising an error.
    """

    def __init__(self, file: Any, rows: int) -> None:
        self._handle = file.fileno()
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, at: Any) -> Any:
        return memoryview(os.pread(self._handle, 8, 8 * (_HEADER_WORDS + at))).cast("Q")[0]


def _search(path: Path, rows: int, words: Sequence[int]) -> list[int] | None:
    """Search an index file; None where there is none that can be read and is right."""
    try:
        with path.open("rb") as file:
            entries = _stored(file, rows)
            return None if entries is None else list(_matches(entries, words))
    except OSError:
        return None


def _stored(file: Any, rows: int) -> Sequence[int] | None:
    """Return the entries of an index file; None where it is not what its data file needs."""
    size = os.fstat(file.fileno()).st_size
    if size != 8 * (_HEADER_WORDS + rows):
        return None
    head = memoryview(os.pread(file.fileno(), 8 * _HEADER_WORDS, 0)).cast("Q")
    if list(head) != [_MAGIC, rows]:
        return None
    if size > _READ_WHOLE:
        return _OnDisk(file, rows)
    return memoryview(os.pread(file.fileno(), size, 0)).cast("Q")[_HEADER_WORDS:]


def _save(path: Path, words: bytes, *, durable: bool) -> bool:
    """Write an index under a name of its own, then give it its name, so that nobody sees half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    head = memoryview(pa.array([_MAGIC, len(words) // 8], pa.uint64()).buffers()[1])[: 8 * _HEADER_WORDS]
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("xb") as file:
            file.write(head)
            file.write(words)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True


class _Memory:
    """Indexes that have no file: of small files and of object stores; the longest unused are forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, str]) -> bytes | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: tuple[str, str, str], words: bytes) -> None:
        with self._lock:
            self._size += len(words) - len(self._held.pop(key, b""))
            self._held[key] = words
            while self._size > self._limit:
                self._size -= len(self._held.popitem(last=False)[1])


_memory: Final = _Memory(_KEPT_BYTES)
