"""Blob: a large value that is opened when it is read.

This module is sent to workers by value, so it imports nothing but the standard library.
"""

# The functions at the end of this module make and mend handles, which their users cannot.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

_NPY: Final = "application/x-npy"
_ANY: Final = "application/octet-stream"
_BLOCK: Final = 1 << 20


def digest_of(data: Any) -> bytes:
    """Return the digest of bytes, as `core.files.digests` gives it for a file of them."""
    return hashlib.blake2b(data, digest_size=32).digest()


class Blob:
    """A large value: bytes, a file or a numpy array, stored once by its content.

    A parameter declared `Blob` receives one; nothing is read before it is asked for. A function whose output is declared
    `Blob` returns one, or plain bytes, a `Path` or a numpy array.

    Args:
        content: bytes-like, the path of a file, or a numpy array (kept as `.npy`, never pickled).
        media_type: what the bytes are, e.g. `"image/png"`; default by the suffix of a path. Never part of an identity.

    Raises:
        TypeError: the content is none of these. ValueError: an array of objects, which only pickle could hold.
    """

    def __init__(self, content: Any, media_type: str | None = None) -> None:
        self._data: bytes | None = None
        self._file: str | None = None
        self._opener: Callable[[], Any] | None = None
        self._hash: bytes | None = None
        self._size: int | None = None
        self._place: tuple[str, str] | None = None  # root of the lake, path below it
        self._borrowed: str | None = None
        if isinstance(content, pathlib.PurePath):
            self._file = os.path.abspath(content)
            media_type = media_type or _guessed(self._file)
        elif isinstance(content, (bytes, bytearray, memoryview)):
            self._data = bytes(content)
        elif _is_array(content):
            self._data, media_type = _npy(content), media_type or _NPY
        else:
            raise TypeError(f"a Blob is made of bytes, a Path or a numpy array, not of a {type(content).__qualname__}")
        self.media_type: str = media_type or _ANY

    @staticmethod
    def takes(value: Any) -> bool:
        """Tell whether a value can stand in a column declared `Blob`."""
        return isinstance(value, (Blob, bytes, bytearray, memoryview, pathlib.PurePath)) or _is_array(value)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Blob:
        """Return the handle of what a table holds of a large value.

        One whose bytes do not lie in the table itself is opened by `BlobStore.open`, which knows the lake.

        Args:
            row: the struct, as a dict with `hash`, `size`, `media_type`, `path`, `data`.
        """
        blob = cls(b"", row["media_type"])
        blob._data, blob._hash, blob._size = row["data"], bytes(row["hash"]), row["size"]
        if row["path"] is not None:
            blob._place = ("", row["path"])
        return blob

    # ------------------------------------------------------------------ what it is

    @property
    def hash(self) -> str:
        """BLAKE2b-256 of the bytes, in hexadecimal: what `b2sum -l 256` prints."""
        return self.digest.hex()

    @property
    def digest(self) -> bytes:
        """The hash, 32 bytes."""
        if self._hash is None:
            self._hash = self.content_digest()
        return self._hash

    def content_digest(self) -> bytes:
        """Return the hash of the bytes as they are now, read as a stream.

        Raises:
            OSError: as `open`.
        """
        if self._data is not None:
            return digest_of(self._data)
        content: Any = self.open()
        hashed = hashlib.blake2b(digest_size=32)
        with content as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
        return hashed.digest()

    @property
    def size(self) -> int:
        """Number of bytes."""
        if self._size is not None:
            return self._size
        return len(self._data) if self._data is not None else os.stat(self._file or "").st_size

    @property
    def data(self) -> bytes | None:
        """The bytes, where they are in memory."""
        return self._data

    @property
    def file(self) -> str | None:
        """The local file that holds the bytes, if one does."""
        return self._file

    @property
    def place(self) -> tuple[str, str] | None:
        """The root of the lake that holds the bytes and the path below it; None for a value that is not stored."""
        return self._place

    # ------------------------------------------------------------------ reading

    def read(self) -> bytes:
        """Return all bytes.

        Raises:
            FileNotFoundError: the bytes are gone. OSError: they are not those that were stored.
        """
        if self._data is not None:
            return self._data
        with self.open() as file:
            data = bytes(file.read())
        if self._hash is not None and digest_of(data) != self._hash:
            raise OSError(f"{self._name()} holds other bytes than were stored. {_RERUN}")
        return data

    def open(self) -> IO[bytes]:
        """Return a binary file object at the first byte; its content is not compared with the hash, its size is.

        Raises:
            FileNotFoundError: the bytes are gone. OSError: they are more or fewer than were stored.
        """
        if self._data is not None:
            return io.BytesIO(self._data)
        if self._file is None and self._opener is None:
            raise OSError(
                f"{self._name()} lies in a lake that is not known here, or not at the place of its hash. Open it with "
                "BlobStore(root_uri).open(row)."
            )
        try:
            file: Any = self._opener() if self._opener is not None else open(self._file or "", "rb")  # noqa: SIM115  # the caller closes it
        except FileNotFoundError:
            raise FileNotFoundError(f"{self._name()} is not there. {_RERUN}") from None
        if self._size is not None:
            found = file.seek(0, io.SEEK_END)
            file.seek(0)
            if found != self._size:
                file.close()
                raise OSError(f"{self._name()} has {found} bytes, {self._size} were stored. {_RERUN}")
        return file

    def path(self) -> pathlib.Path:
        """Return the path of a local file, only to be read.

        A value that lies in the table itself or on an object store is written to a temporary file, which lives as long as
        this object.
        """
        if self._file is not None:
            self.open().close()
            return pathlib.Path(self._file)
        if self._borrowed is None:
            folder = tempfile.mkdtemp(prefix="orcapod-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            name = os.path.join(folder, self.hash[:16] + (mimetypes.guess_extension(self.media_type) or ""))
            with open(name, "wb") as file:
                file.write(self.read())
            self._borrowed = name
        return pathlib.Path(self._borrowed)

    def array(self) -> Any:
        """Return the numpy array that was stored.

        Raises:
            ValueError: the bytes are no `.npy`.
        """
        import numpy as np

        return np.load(io.BytesIO(self.read()), allow_pickle=False)

    # ------------------------------------------------------------------ as an object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        what = "not looked at" if self._hash is None else self._hash.hex()[:8]
        return f"Blob({self.media_type}, {what})"

    def __getstate__(self) -> dict[str, Any]:
        """Travel with the path of a local file; with the bytes of any other, so that no credential travels."""
        state = {**self.__dict__, "_opener": None, "_borrowed": None}
        if self._opener is not None:
            state["_data"] = self.read()
        return state

    def _name(self) -> str:
        where = self._file or (self._place[1] if self._place else "")
        return f"the large value {where}"


_RERUN: Final = "Materialize the asset that made it again: what is missing is computed again."


def stored(
    digest: bytes, size: int, media_type: str, root: str, path: str, *, file: str | None, opener: Any = None
) -> Blob:
    """Return the handle of a value that lies in a lake."""
    blob = Blob(b"", media_type)
    blob._data, blob._file, blob._opener = None, file, opener
    blob._hash, blob._size, blob._place = digest, size, (root, path)
    return blob


def in_memory(data: bytes, media_type: str) -> Blob:
    """Return the handle of a value that stays in memory, and later in its table."""
    blob = Blob(data, media_type)
    blob._hash, blob._size = digest_of(data), len(data)
    return blob


def bind(blob: Blob, root: str, *, file: str | None, opener: Any = None) -> None:
    """Tell a handle in which lake its path lies."""
    if blob._place is not None:
        blob._place = (root, blob._place[1])
        blob._file, blob._opener = file, opener


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _npy(array: Any) -> bytes:
    import numpy as np

    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()


def _guessed(path: str) -> str:
    # Not by the tables of the operating system, which differ from machine to machine.
    found, encoding = mimetypes.MimeTypes(()).guess_type(path)
    if path.endswith(".npy"):
        return _NPY
    return _ANY if encoding is not None else found or _ANY
