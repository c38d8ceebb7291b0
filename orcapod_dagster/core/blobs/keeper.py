"""Keeper: what a function returned becomes a value of the lake, at once and where the function ran.

So no more than one large value waits in memory, and a file that was written into the lake is moved, not copied. This module
is sent to workers by value, so it imports nothing but the standard library and the handle.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from orcapod_dagster.core.blobs.handle import Blob, digest_of, in_memory, stored
from orcapod_dagster.core.infrastructure import InfrastructureError, storing

INLINE_BYTES: Final = 32_768
"""Values up to this size lie in the tables themselves."""

FOLDER: Final = ".orcapod/blobs"
"""Where the values of a lake lie, relative to its root."""

WORK: Final = ".orcapod/blobs/work"
"""Where files are written before they get their place; whatever lies here longer than its run is left over."""

YOUNG_SECONDS: Final = 43_200
"""A value that is used again is made younger than this; clean-up leaves alone what is younger than twice as much."""

_BLOCK: Final = 1 << 20


def place_of(digest: bytes) -> str:
    """Return where a value lies, relative to the root of the lake."""
    name = digest.hex()
    return f"{FOLDER}/{name[:2]}/{name}"


class Keeper:
    """Keeps values in memory: without a lake, or where the lake cannot be reached from.

    Args:
        inline_bytes: values up to this size are never stored apart.
        root: of the lake; the empty text for none.
    """

    def __init__(self, inline_bytes: int = INLINE_BYTES, root: str = "") -> None:
        self.inline_bytes = inline_bytes
        self.root = root

    def keep(self, value: Any, column: str, work: Workspace | None = None) -> Any:
        """Return the handle of what a function returned for a column, stored; None and what is no such value stay.

        Args:
            value: anything that `Blob.takes`.
            column: for messages.
            work: the directory in which the function could write.

        Raises:
            ValueError: names the column and what is wrong with the file.
            InfrastructureError: the value is right, and the lake refused it.
        """
        if value is None or not Blob.takes(value):
            return value
        try:
            blob = value if isinstance(value, Blob) else Blob(value)
            if blob.place is not None and self.root and blob.place[0] == self.root:
                return self._confirmed(blob)
            return self._kept(blob, work)
        except InfrastructureError as error:
            raise InfrastructureError(f"output {column!r}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"output {column!r}: {error}") from error

    def _kept(self, blob: Blob, work: Workspace | None) -> Blob:
        if blob.file is None:
            data = blob.read()
            if len(data) <= self.inline_bytes:
                return in_memory(data, blob.media_type)
            return self._put_bytes(data, blob.media_type)
        path = os.path.realpath(blob.file)
        if work is not None and path in work.moved:
            return work.moved[path]
        may_move = _checked(blob.file, path, work)
        if os.stat(path).st_size <= self.inline_bytes:
            return in_memory(pathlib.Path(path).read_bytes(), blob.media_type)
        kept = self._put_file(path, blob.media_type, may_move=may_move)
        if work is not None:
            work.moved[path] = kept
        return kept

    def _confirmed(self, blob: Blob) -> Blob:
        """Return a value that lies in this lake already; nothing is written again."""
        return blob

    def _put_bytes(self, data: bytes, media_type: str) -> Blob:
        return in_memory(data, media_type)

    def _put_file(self, path: str, media_type: str, *, may_move: bool) -> Blob:
        return in_memory(pathlib.Path(path).read_bytes(), media_type)

    def work_folder(self) -> str:
        """Return a new empty folder for the files of one packet."""
        with storing(f"no output directory can be made in {tempfile.gettempdir()}"):
            return tempfile.mkdtemp(prefix="orcapod-")


class Digester(Keeper):
    """Keeps nothing of a large value but its digest and size: for calls whose results are compared and not stored.

    Args:
        inline_bytes: as `Keeper`.
    """

    def __init__(self, inline_bytes: int = INLINE_BYTES) -> None:
        super().__init__(inline_bytes, "(digests alone)")

    def _put_bytes(self, data: bytes, media_type: str) -> Blob:
        return self._told(digest_of(data), len(data), media_type)

    def _put_file(self, path: str, media_type: str, *, may_move: bool) -> Blob:
        with open(path, "rb", buffering=0) as file:
            digest = hashlib.file_digest(file, _blake2b_256).digest()
        return self._told(digest, os.stat(path).st_size, media_type)

    def _told(self, digest: bytes, size: int, media_type: str) -> Blob:
        return stored(digest, size, media_type, self.root, place_of(digest), file=None)


class LocalKeeper(Keeper):
    """Keeps values in a lake on a disk that this process sees.

    A value is written beside its place, forced to the disk, and renamed, so that at its place it is whole or not there.
    """

    def work_folder(self) -> str:
        """Return a new empty folder below the lake, so that a file in it can be moved to its place."""
        folder = os.path.join(self.root, WORK, f"run-{uuid.uuid4().hex}")
        with self._storing():
            os.makedirs(folder)
        return folder

    def _storing(self) -> contextlib.AbstractContextManager[None]:
        return storing(f"a large value cannot be stored in the lake {self.root}")

    def _file(self, place: str) -> str:
        return os.path.join(self.root, *place.split("/"))

    def _confirmed(self, blob: Blob) -> Blob:
        assert blob.place is not None
        with self._storing():
            there = self._touch(self._file(blob.place[1]), blob.size)
        if not there:
            raise ValueError(
                f"the large value {blob.place[1]} is not, or not whole, in the lake {self.root}. Workers must write to the same "
                "lake under the same path."
            )
        return blob

    @staticmethod
    def _touch(file: str, size: int) -> bool:
        """Tell whether a value is there, and make it young, so that clean-up leaves it to the commit that will name it."""
        try:
            if os.stat(file).st_size != size:
                return False
            os.utime(file)
        except FileNotFoundError:
            return False
        except PermissionError:
            pass  # another user's; it is there
        return True

    def _put_bytes(self, data: bytes, media_type: str) -> Blob:
        digest = digest_of(data)
        with self._storing():
            if not self._is_there(digest, len(data)):
                with self._temporary() as (name, handle):
                    with os.fdopen(handle, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    self._settle(name, digest)
        return self._handle(digest, len(data), media_type)

    def _put_file(self, path: str, media_type: str, *, may_move: bool) -> Blob:
        if may_move and (moved := self._try_move(path)) is not None:
            return self._handle(*moved, media_type)
        # Opened apart, for a file that cannot be read is the packet's.
        with open(path, "rb", buffering=0) as source, self._storing(), self._temporary() as (name, handle):
            with os.fdopen(handle, "wb") as file:
                digest, size = _copy(source, file)
                os.fsync(file.fileno())
            if not self._is_there(digest, size):
                self._settle(name, digest)
        return self._handle(digest, size, media_type)

    def _try_move(self, path: str) -> tuple[bytes, int] | None:
        """Move a file of the output directory to its place, and return its digest and size; None where it cannot be moved.

        That is from another file system, and where the function has taken it away meanwhile, which whoever copies it finds out.
        """
        with open(path, "rb", buffering=0) as source, self._storing():  # opened apart, as below
            digest, size = _read_and_sync(source)
            try:
                if not self._is_there(digest, size):
                    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o222)
                    self._settle(path, digest)
            except OSError as error:
                taken_away = error.errno == errno.ENOENT and error.filename == path and not os.path.exists(path)
                if error.errno != errno.EXDEV and not taken_away:
                    raise
                return None
        return digest, size

    def _is_there(self, digest: bytes, size: int) -> bool:
        file = self._file(place_of(digest))
        if not self._touch(file, size):
            return False
        try:
            if time.time() - os.stat(file).st_mtime > YOUNG_SECONDS:
                return False  # another user's, and not to be made young: it is written anew
        except FileNotFoundError:
            return False  # a clean-up looks at it at this very moment
        _sync_folder(os.path.dirname(file))  # whoever wrote it may not have come to this
        return True

    def _settle(self, name: str, digest: bytes) -> None:
        """Bring a whole, synced file to its place."""
        file = self._file(place_of(digest))
        folder = os.path.dirname(file)
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            for parent in (os.path.dirname(folder), os.path.dirname(os.path.dirname(folder)), self.root):
                _sync_folder(parent)
        os.utime(name)  # it counts as young from now on, however long ago the function wrote it
        os.replace(name, file)
        _sync_folder(folder)

    @contextlib.contextmanager
    def _temporary(self) -> Generator[tuple[str, int]]:
        folder = os.path.join(self.root, WORK)
        os.makedirs(folder, exist_ok=True)
        name = os.path.join(folder, f"new-{uuid.uuid4().hex}")
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
        try:
            yield name, handle
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _handle(self, digest: bytes, size: int, media_type: str) -> Blob:
        place = place_of(digest)
        return stored(digest, size, media_type, self.root, place, file=self._file(place))


def _checked(given: str, path: str, work: Workspace | None) -> bool:
    """Check the file of an output; tell whether it may be moved: written by the function, and by no other name in use."""
    if not os.path.exists(path):
        raise ValueError(f"the file {given!r} does not exist. Write it before the function returns.")
    if os.path.isdir(path):
        raise ValueError(f"{given!r} is a directory. Return the path of a file, e.g. of an archive of the directory.")
    if not os.path.isfile(path):
        raise ValueError(f"{given!r} is no regular file. Return the path of one.")
    if work is None or not work.holds(given):
        return False
    if not work.holds(path):
        raise ValueError(
            f"{given!r} is a symbolic link out of the output directory, to {path!r}. Return the path of the file itself."
        )
    return not os.path.islink(given) and os.stat(path).st_nlink == 1


def _read_and_sync(file: Any) -> tuple[bytes, int]:
    digest = hashlib.file_digest(file, _blake2b_256).digest()
    os.fsync(file.fileno())
    return digest, os.fstat(file.fileno()).st_size


def _blake2b_256() -> Any:
    return hashlib.blake2b(digest_size=32)


def _copy(source: Any, target: Any) -> tuple[bytes, int]:
    hashed, size = _blake2b_256(), 0
    while block := source.read(_BLOCK):
        hashed.update(block)
        target.write(block)
        size += len(block)
    target.flush()
    return hashed.digest(), size


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------- the directory of one packet


class Workspace:
    """The directory in which a function may write while it computes one packet; made when it is first asked for.

    Args:
        make: gives a new empty folder.
    """

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self._folder: str | None = None
        self.moved: dict[str, Blob] = {}

    def folder(self) -> pathlib.Path:
        """Return the directory."""
        if self._folder is None:
            self._folder = self._make()
        return pathlib.Path(self._folder)

    def holds(self, path: str) -> bool:
        """Tell whether a path lies below the directory, as it is written or as links lead."""
        if self._folder is None:
            return False
        return any(path.startswith(top + os.sep) for top in (self._folder, os.path.realpath(self._folder)))

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _current() -> contextvars.ContextVar[Workspace | None]:
    # In a module of its own that each process makes for itself, for a context variable cannot be sent to a worker.
    name = "_orcapod_output_directory"
    module = vars(sys.modules.setdefault(name, types.ModuleType(name)))
    if "current" not in module:
        module.setdefault("current", contextvars.ContextVar("orcapod_output_directory", default=None))
    return module["current"]


def output_directory() -> pathlib.Path:
    """Return an empty directory for the files that a packet function writes; the same one within one call.

    A file in it that is returned for a column declared `Blob` is moved into the lake. Everything else in it is removed
    when the call ends. Outside of a run (when the function is called as plain Python), it is a temporary directory that
    is removed when the process ends.
    """
    work = _current().get()
    if work is None:
        work = Workspace(lambda: tempfile.mkdtemp(prefix="orcapod-"))
        _at_exit(work)
    return work.folder()


def _at_exit(work: Workspace) -> None:
    import atexit

    atexit.register(work.close)


def keeping(
    function: Callable[..., Any], keeper: Keeper, columns: Mapping[Any, str], *, is_async: bool
) -> Callable[..., Any]:
    """Return a function that stores what it returned for some columns before it returns.

    Args:
        function: sync or async.
        keeper: where values go.
        columns: which parts of a return value are large values: key None for the value itself, an int for a position, a
            text for a field; and the names of their columns.
        is_async: whether calling the function gives a coroutine.
    """

    @contextlib.contextmanager
    def working() -> Generator[Workspace]:
        work = Workspace(keeper.work_folder)
        token = _current().set(work)
        try:
            yield work
        finally:
            _current().reset(token)
            work.close()

    def kept(output: Any, work: Workspace) -> Any:
        return replaced(output, columns, lambda value, column: keeper.keep(value, column, work))

    if is_async:

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with working() as work:
                return kept(await function(*args, **kwargs), work)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with working() as work:
            return kept(function(*args, **kwargs), work)

    return call


def replaced(output: Any, columns: Mapping[Any, str], keep: Callable[[Any, str], Any]) -> Any:
    """Return a return value with some parts replaced; one of another shape stays as it is, for whoever checks it."""
    if None in columns:
        return keep(output, columns[None])
    if all(isinstance(key, int) for key in columns):
        try:
            values = tuple(output)
        except TypeError:
            return output
        return tuple(keep(value, columns[i]) if i in columns else value for i, value in enumerate(values))
    if isinstance(output, dict):
        return {key: keep(value, columns[key]) if key in columns else value for key, value in output.items()}
    if hasattr(output, "__dataclass_fields__"):
        changed = {name: keep(getattr(output, name), column) for name, column in columns.items()}
        copied: Any = object.__new__(type(output))
        for name in output.__dataclass_fields__:
            object.__setattr__(copied, name, changed.get(name, getattr(output, name)))
        return copied
    if hasattr(output, "_replace"):
        return output._replace(**{name: keep(getattr(output, name), column) for name, column in columns.items()})
    return output
