"""Content digests of files and directories, and what tells that one of them changed.

The digests are specified in `docs/hashing.md`, section "Files and directories"; their version is `FILE_METHOD`.
Paths are handled as bytes, so that a directory may hold names that are no valid text.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from orcapod_dagster.core.errors import InputError

FILE_METHOD: Final = "orcapod.file.v1"
DIGEST_BYTES: Final = 32
STATE_BYTES: Final = 16
Kind = Literal["file", "directory"]

_RACY_NS: Final = 2_000_000_000
_READ_AT_ONCE: Final = 4096
_SPECIAL: Final = (
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


class Entry(NamedTuple):
    """A file or directory below a directory, or a file that a column names itself.

    Attributes:
        name: path relative to the directory, with `/`; empty for a file that stands for itself.
        path: absolute.
        key: 16 bytes that change with path, size, mtime, ctime or inode; empty for a directory.
        touched_ns: the later one of mtime and ctime, nanoseconds since 1970.
    """

    name: bytes
    path: bytes
    key: bytes
    touched_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What stood at a path when it was looked at; nothing of it was read yet.

    Attributes:
        kind: what the path was declared as, and is.
        entries: sorted by name; of a file, itself alone.
    """

    kind: Kind
    entries: Sequence[Entry]

    def files(self) -> Iterator[Entry]:
        """Yield the files."""
        return (entry for entry in self.entries if entry.key)

    def state(self) -> bytes:
        """Return 16 bytes that change when any of it looks different."""
        hashed = hashlib.blake2b(digest_size=STATE_BYTES, person=b"orcapod.look.v1")
        for entry in self.entries:
            hashed.update(b"%d %d %b%b" % (len(entry.name), len(entry.key), entry.name, entry.key))
        return hashed.digest()

    def digest(self, digests: Mapping[bytes, bytes]) -> bytes:
        """Return the content digest, 32 bytes, from the digests of the files by their keys."""
        if self.kind == "file":
            return digests[self.entries[0].key]
        hashed = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"orcapod.dir.v1")
        for entry in self.entries:
            hashed.update((b"F" if entry.key else b"D") + len(entry.name).to_bytes(8, "little") + entry.name)
            if entry.key:
                hashed.update(digests[entry.key])
        return hashed.digest()


def is_racy(entry: Entry, looked_at_ns: int) -> bool:
    """Tell whether a file was touched within 2 s before it was looked at (or later, by the clock of its file system).

    File systems count time in steps of up to 2 s. A file that is written again within the step of its last change
    looks as before, so how it looks says nothing of its content yet.
    """
    return entry.touched_ns > looked_at_ns - _RACY_NS


# ---------------------------------------------------------------------------- looking


def look(path: str, kind: Kind) -> Listing:
    """Look at a path without reading content; symbolic links are followed.

    Args:
        path: absolute, or relative to the working directory of this process.
        kind: what it is declared as.

    Raises:
        OSError: the path, or something below it, is missing or cannot be looked at.
        InputError: it is of another kind, has something below that is no file, or a link that leads back up.
        ValueError: no file system takes this text as a path.
    """
    raw = os.fsencode(path)
    if not os.path.isabs(raw):
        raw = os.path.join(os.getcwdb(), raw)
    found = os.stat(raw)
    if kind == "directory" and stat.S_ISDIR(found.st_mode):
        return Listing(kind, _walk(raw, found))
    if kind == "file" and stat.S_ISREG(found.st_mode):
        return Listing(kind, (_file(b"", raw, found),))
    raise InputError(_wrong_kind(path, kind, found.st_mode))


def _walk(top: bytes, found: os.stat_result) -> list[Entry]:
    entries: list[Entry] = []
    waiting: list[tuple[bytes, bytes, tuple[tuple[int, int], ...]]] = [(top, b"", ((found.st_dev, found.st_ino),))]
    while waiting:
        folder, prefix, above = waiting.pop()
        for name in os.listdir(folder):
            path, below = os.path.join(folder, name), prefix + name
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                entries.append(_file(below, path, found))
            elif stat.S_ISDIR(found.st_mode):
                identity = (found.st_dev, found.st_ino)
                if identity in above:
                    raise InputError(
                        f"the symbolic link {os.fsdecode(path)!r} leads back to a directory above it, so the tree has no "
                        "end. Remove the link."
                    )
                entries.append(Entry(below, path, b"", 0))
                waiting.append((path, below + b"/", (*above, identity)))
            else:
                raise InputError(_wrong_kind(os.fsdecode(path), None, found.st_mode))
    entries.sort()
    return entries


def _file(name: bytes, path: bytes, found: os.stat_result) -> Entry:
    return Entry(name, path, _key(path, found), max(found.st_mtime_ns, found.st_ctime_ns))


def _key(path: bytes, found: os.stat_result) -> bytes:
    # No device number: it differs between mounts of one network file system, and a path names its device anyway.
    text = b"%d %d %d %d %b" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, path)
    return hashlib.blake2b(text, digest_size=STATE_BYTES, person=b"orcapod.stat.v1").digest()


def _wrong_kind(path: str, kind: Kind | None, mode: int) -> str:
    if stat.S_ISDIR(mode):
        return f"{path!r} is a directory, but declared File. Declare it Directory, or give the path of a file."
    if stat.S_ISREG(mode):
        return f"{path!r} is a file, but declared Directory. Declare it File, or give the path of a directory."
    what = next((text for test, text in _SPECIAL if test(mode)), "no file")
    where = "" if kind is None else f", but declared {kind.capitalize()}"
    return f"{path!r} is {what}{where}; it has no content that could be counted. Give a regular file."


def explain(error: OSError | ValueError, path: str) -> str:
    """Return why a path cannot be used, in words that name it."""
    if isinstance(error, InputError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{path!r} is no path ({error})."
    where = repr(path if error.filename is None else os.fsdecode(error.filename))
    if isinstance(error, FileNotFoundError):
        hint = " (an address of an object store is no file; fetch it first)" if "://" in path else ""
        return f"{where} does not exist{hint}. Put it there, or remove such rows upstream."
    if isinstance(error, PermissionError):
        return f"permission denied to read {where}. Give this process the right to, or remove such rows upstream."
    return f"{where} cannot be read: {error.strerror or error}."


# ---------------------------------------------------------------------------- reading


def read_digest(entry: Entry) -> bytes:
    """Return the BLAKE2b-256 of a file's bytes, read as a stream.

    Raises:
        InputError: the file looks different from the entry before or after reading.
        OSError: it cannot be read.
    """
    with open(entry.path, "rb", buffering=0) as file:
        before = _key(entry.path, os.fstat(file.fileno()))
        digest = hashlib.file_digest(file, _blake2b_256).digest()
        after = _key(entry.path, os.fstat(file.fileno()))
    if not entry.key == before == after:
        raise InputError(
            f"{os.fsdecode(entry.path)!r} changed while it was read. Run again when nothing writes to it any more."
        )
    return digest


def _blake2b_256() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def read_digests(entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | OSError | InputError]]:
    """Read files, several at once, and yield each with its digest, or with the error that kept it from being read.

    Reading and hashing release the interpreter lock; each thread holds a buffer of 256 KiB.
    """
    if len(entries) == 1:
        yield entries[0], _try_read(entries[0])
        return
    with ThreadPoolExecutor(thread_name_prefix="orcapod-files") as pool:
        for start in range(0, len(entries), _READ_AT_ONCE):
            some = entries[start : start + _READ_AT_ONCE]
            yield from zip(some, pool.map(_try_read, some), strict=True)


def _try_read(entry: Entry) -> bytes | OSError | InputError:
    try:
        return read_digest(entry)
    except (OSError, InputError) as error:
        return error
