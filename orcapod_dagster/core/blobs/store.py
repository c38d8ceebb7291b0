"""BlobStore: the large values of one lake, on a local disk or an object store."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import fs

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.handle import Blob, bind, digest_of, stored
from orcapod_dagster.core.blobs.keeper import FOLDER, INLINE_BYTES, WORK, YOUNG_SECONDS, Keeper, LocalKeeper, place_of
from orcapod_dagster.core.delta import reading
from orcapod_dagster.core.delta.files import filesystem_of
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.infrastructure import storing
from orcapod_dagster.core.paths import local_path, refuse_strange_folder

_BLOCK: Final = 4 * 1024 * 1024
LISTING: Final = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("us", "UTC")),
    ]
)


class BlobStore:
    """The large values of a lake: one file each, below `.orcapod/blobs`, named by its content.

    Args:
        root_uri: the lake: a local folder or an object store URI.
        storage_options: as deltalake takes them.
        inline_bytes: values up to this size lie in the tables themselves.

    Raises:
        LakeError: the folder of values is a symbolic link.
    """

    def __init__(
        self, root_uri: str, storage_options: Mapping[str, str] | None = None, *, inline_bytes: int = INLINE_BYTES
    ) -> None:
        folder = local_path(root_uri)
        refuse_strange_folder(root_uri, FOLDER.split("/"))
        self.root = root_uri.rstrip("/") if folder is None else os.path.abspath(folder)
        self._options = dict(storage_options) if storage_options else None
        self.keeper: Keeper = (
            ObjectKeeper(inline_bytes, self.root, self._options)
            if folder is None
            else LocalKeeper(inline_bytes, self.root)
        )
        self._local = folder is not None

    def open(self, row: Mapping[str, Any]) -> Blob:
        """Return the handle of a large value of this lake, from what one of its tables holds of it.

        Args:
            row: the struct, as a dict with `hash`, `size`, `media_type`, `path`, `data`.
        """
        blob = Blob.of(row)
        self.bind([blob])
        return blob

    def bind(self, handles: Iterable[Blob | None]) -> None:
        """Tell handles that came out of a table of this lake where their bytes lie.

        One whose path is not that of its hash stays unbound, so that no table leads to another file.
        """
        for blob in handles:
            if blob is not None and blob.place is not None and blob.place[1] == place_of(blob.digest):
                if self._local:
                    bind(blob, self.root, file=os.path.join(self.root, *blob.place[1].split("/")))
                else:
                    opener = partial(_open, self.root, blob.place[1], self._options)
                    bind(blob, self.root, file=None, opener=opener)

    # ------------------------------------------------------------------ what is there

    def listing(self) -> pa.Table:
        """Return all values of the lake: path relative to the root, size in bytes, when it was last written or reused."""
        filesystem, prefix = filesystem_of(self.root, self._options)
        with reading(self.root):
            found = filesystem.get_file_info(fs.FileSelector(prefix + FOLDER, recursive=True, allow_not_found=True))
        rows = [(entry.path.removeprefix(prefix), entry.size, _utc(entry.mtime)) for entry in found if entry.is_file]
        return _table(row for row in rows if not row[0].startswith(f"{WORK}/"))

    def leftovers(self) -> pa.Table:
        """Return what unfinished writes and calls hold, or left behind when they were killed; columns as `listing`.

        One row per file that is being written, and per output directory: all that is in it, and its youngest change. On an
        object store there are none. Once one is older than the longest call of a function, it may be removed.
        """
        work = Path(self.root, WORK)
        with reading(self.root):
            names = sorted(os.listdir(work)) if self._local and work.is_dir() else []
            looks = [(name, _looks(work / name)) for name in names]
            return _table([(f"{WORK}/{name}", _size(found), _youngest(found)) for name, found in looks if found])

    def absent(self, references: pa.RecordBatch, listing: pa.Table) -> pa.Array:
        """Return which rows name a value that is not there, or has another size; never null.

        Args:
            references: columns `path`, null where there is nothing to look for, and `size`.
            listing: what `listing` gave.
        """
        path = references["path"]
        where = pc.index_in(path, value_set=listing["path"].combine_chunks())
        sizes = listing["size"].combine_chunks().take(where)
        there = pc.fill_null(pc.equal(sizes, references["size"]), False)
        return pc.and_(path.is_valid(), pc.invert(there))

    def remove(self, paths: Iterable[str], before: dt.datetime) -> None:
        """Remove what `listing` or `leftovers` named; what is gone already is no error.

        Args:
            paths: as they were listed.
            before: what was written or used again since then stays.

        Raises:
            StorageError: the storage refused. What was removed until then is gone.
        """
        for path in paths:
            with reading(self.root), contextlib.suppress(FileNotFoundError):
                if self._local:
                    self._remove_local(Path(self.root, path), before)
                else:
                    self._remove_object(path, before)

    def _remove_local(self, path: Path, before: dt.datetime) -> None:
        """Take a file or directory out of everybody's sight, then look at its age: whoever uses it now finds it young, or gone.

        Killed in between, it is a leftover like any other.
        """
        if _youngest(_looks(path)) >= before:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            return
        work = Path(self.root, WORK)
        work.mkdir(exist_ok=True)
        going = work / f"going-{uuid.uuid4().hex}"
        path.rename(going)
        if _youngest(_looks(going)) < before:
            going.unlink()
        else:
            going.rename(path)

    def _remove_object(self, path: str, before: dt.datetime) -> None:
        filesystem, prefix = filesystem_of(self.root, self._options)
        found = filesystem.get_file_info(prefix + path)
        if found.is_file and _is_older(found, before):
            filesystem.delete_file(prefix + path)


def _table(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*sorted(rows), strict=True)) or [[], [], []]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def _looks(path: Path) -> list[os.stat_result]:
    """Look at a file, or at a directory and all that is in it; links are not followed, what vanishes is left out."""
    looks: list[os.stat_result] = []
    inside = ((folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
    for folder, name in ((path.parent, path.name), *inside):
        with contextlib.suppress(FileNotFoundError):
            looks.append(os.lstat(os.path.join(folder, name)))
    return looks


def _size(looks: Sequence[os.stat_result]) -> int:
    return sum(look.st_size for look in looks if stat.S_ISREG(look.st_mode))


def _youngest(looks: Sequence[os.stat_result]) -> dt.datetime:
    return dt.datetime.fromtimestamp(max((look.st_mtime for look in looks), default=0), dt.UTC)


def _is_older(entry: Any, moment: dt.datetime) -> bool:
    return entry.mtime is not None and entry.mtime.astimezone(dt.UTC) < moment


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return None if moment is None else moment.astimezone(dt.UTC)


def _open(root: str, path: str, options: Mapping[str, str] | None) -> Any:
    filesystem, prefix = filesystem_of(root, options)
    if filesystem.get_file_info(prefix + path).type == fs.FileType.NotFound:
        raise FileNotFoundError(path)
    return filesystem.open_input_file(prefix + path)


class ObjectKeeper(Keeper):
    """Keeps values on an object store, one put each; sent to another process it keeps them in memory instead.

    So no credential travels: what comes back from a worker is put by the process that sent it there.
    """

    def __init__(self, inline_bytes: int, root: str, options: Mapping[str, str] | None) -> None:
        super().__init__(inline_bytes, root)
        self._options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return (Keeper, (self.inline_bytes, self.root))

    def _put_bytes(self, data: bytes, media_type: str) -> Blob:
        return self._put(io.BytesIO(data), digest_of(data), len(data), media_type)

    def _put_file(self, path: str, media_type: str, *, may_move: bool) -> Blob:
        blob = Blob(Path(path))
        with open(path, "rb") as file:
            return self._put(file, blob.digest, os.fstat(file.fileno()).st_size, media_type)

    def _put(self, source: Any, digest: bytes, size: int, media_type: str) -> Blob:
        place = place_of(digest)
        # An error of ours that is an OSError would count as one of the packet's value.
        with storing(f"a large value cannot be stored in the lake {self.root}"), reading(self.root):
            filesystem, prefix = filesystem_of(self.root, self._options)
            there = filesystem.get_file_info(prefix + place)
            # One that is old is put again, for only that makes it young, and clean-up leaves it to the commit that will name it.
            if (
                there.type == fs.FileType.NotFound
                or there.size != size
                or _is_older(there, _utc_now() - dt.timedelta(seconds=YOUNG_SECONDS))
            ):
                # Blocks smaller than the buffer, for others reach deltalake's stream as Arrow buffers, which it refuses.
                with filesystem.open_output_stream(prefix + place, buffer_size=2 * _BLOCK) as target:
                    while block := source.read(_BLOCK):
                        target.write(block)
                written = filesystem.get_file_info(prefix + place).size
                if written != size:
                    raise StorageError(f"{self.root}/{place} has {written} bytes after {size} were put. Run again.")
        opener = partial(_open, self.root, place, self._options)
        return stored(digest, size, media_type, self.root, place, file=None, opener=opener)
