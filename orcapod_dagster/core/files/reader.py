"""FileReader: from the paths in a batch of packets to what is hashed in their place, and whether it still holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.errors import InputError, StorageError
from orcapod_dagster.core.files.digests import (
    DIGEST_BYTES,
    STATE_BYTES,
    Kind,
    Listing,
    explain,
    is_racy,
    look,
    read_digests,
)
from orcapod_dagster.core.files.hints import file_columns, holds_paths, replace_paths
from orcapod_dagster.core.files.memory import FileMemory
from orcapod_dagster.core.hashing import HASH_TYPE, hash_rows
from orcapod_dagster.core.infrastructure import DEAD_MOUNT

_ENTRIES_AT_ONCE: Final = 65_536
_Place: TypeAlias = tuple[Kind, str]


class Looks(NamedTuple):
    """How the files of each row looked when they were hashed.

    Attributes:
        states: `fixed_size_binary[16]` per row, of the times, sizes and inodes of its files.
        racy: rows whose files had just been touched, so that a change may not show → hash of their content.
    """

    states: pa.Array
    racy: Mapping[int, bytes]

    def take(self, rows: pa.Array) -> Looks:
        """Return the looks of these rows, in this order."""
        positions = enumerate(rows.to_pylist()) if self.racy else ()
        return Looks(self.states.take(rows), {i: self.racy[row] for i, row in positions if row in self.racy})

    @classmethod
    def concat(cls, parts: Sequence[Looks]) -> Looks:
        """Put the looks of consecutive batches together."""
        racy: dict[int, bytes] = {}
        start = 0
        for part in parts:
            racy |= {start + row: digest for row, digest in part.racy.items()}
            start += len(part.states)
        return cls(pa.concat_arrays([pa.array([], HASH_TYPE), *(part.states for part in parts)]), racy)


class Contents(NamedTuple):
    """A batch of packets as it is hashed.

    Attributes:
        columns: all columns; paths replaced by `struct<file: fixed_size_binary[32]>` or `struct<directory: …>`.
        looks: how the files looked.
        problems: row → why one of its files cannot be used. In place of its content stands a hash that no content has.
    """

    columns: Mapping[str, pa.Array]
    looks: Looks
    problems: Mapping[int, str]


class _Found(NamedTuple):
    """What is known of one path."""

    digest: bytes
    state: bytes
    racy: bool = False
    problem: str = ""


class FileReader:
    """Reads what the path columns of packets name.

    Args:
        schema: types by column; those with paths are looked for.
        owner: for messages ("function 'f'").
        memory: digests of earlier reads; without one, every file is read.

    Raises:
        DefinitionError: see `file_columns`.
    """

    def __init__(self, schema: Mapping[str, Any], owner: str = "", memory: FileMemory | None = None) -> None:
        self._hints = {name: schema[name] for name in file_columns(schema, owner)}
        self._prefix = f"{owner}: " if owner else ""
        self._memory = memory

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that hold paths."""
        return tuple(self._hints)

    def contents(self, columns: Mapping[str, pa.Array]) -> Contents:
        """Return the columns with the content of files in place of their paths; nulls stay null.

        Args:
            columns: of the schema's Arrow types, all of one length.
        """
        places = self._places(columns)
        found = self._read(dict.fromkeys(place for *_, place in places))
        digests = self._with(columns, lambda place: found[place].digest, DIGEST_BYTES)
        states = hash_rows(self._with(columns, lambda place: found[place].state, STATE_BYTES))
        problems: dict[int, str] = {}
        racy: dict[int, bytes] = {}
        if any(one.racy or one.problem for one in found.values()):
            hashes = hash_rows(digests)
            for name, row, place in places:
                if found[place].problem:
                    problems.setdefault(row, f"{self._prefix}column {name!r}: {found[place].problem}")
                elif found[place].racy:
                    racy[row] = hashes[row].as_py()
        return Contents({**columns, **digests}, Looks(states, racy), problems)

    def changed(self, columns: Mapping[str, pa.Array], before: Looks) -> dict[int, str]:
        """Return the rows whose files are not what they were: row → message. Reads only files that had just been touched.

        Args:
            columns: the path columns, at least.
            before: what `contents` gave for these rows.
        """
        columns = {name: columns[name] for name in self._hints}
        seen = {place: _state(*place) for *_, place in self._places(columns)}
        states = hash_rows(self._with(columns, lambda place: seen[place], STATE_BYTES))
        rows: set[int] = set(pc.indices_nonzero(pc.not_equal(states, before.states)).to_pylist())
        doubtful = [row for row in before.racy if row not in rows]
        if doubtful:
            again = self.contents({name: array.take(pa.array(doubtful)) for name, array in columns.items()})
            hashes = hash_rows({name: again.columns[name] for name in self._hints}).to_pylist()
            rows |= {row for row, now in zip(doubtful, hashes, strict=True) if now != before.racy[row]}
        return dict.fromkeys(sorted(rows), self._changed_message()) if rows else {}

    def flush(self) -> None:
        """Keep what was read for later runs and other processes."""
        if self._memory is not None:
            self._memory.flush()

    def _changed_message(self) -> str:
        columns = " or ".join(repr(name) for name in self._hints)
        return (
            f"{self._prefix}what a path in column {columns} names changed after it was hashed and before the result had come, "
            "so the result belongs to no known content and is not kept. Run again when nothing writes there any more."
        )

    # ------------------------------------------------------------------ columns

    def _places(self, columns: Mapping[str, pa.Array]) -> list[tuple[str, int, _Place]]:
        """Return all paths, with the column and row of each."""
        places: list[tuple[str, int, _Place]] = []
        for name, hint in self._hints.items():

            def collect(paths: pa.Array, kind: Kind, rows: pa.Array, name: str = name) -> pa.Array:
                pairs = zip(rows.to_pylist(), paths.to_pylist(), strict=True)
                places.extend((name, row, (kind, path)) for row, path in pairs if path is not None)
                return paths

            replace_paths(columns[name], hint, count_up(len(columns[name])), collect)
        return places

    def _with(
        self, columns: Mapping[str, pa.Array], value_of: Callable[[_Place], bytes], width: int
    ) -> dict[str, pa.Array]:
        """Return the path columns with `struct<kind: value>` in place of each path."""

        def build(paths: pa.Array, kind: Kind, _rows: pa.Array) -> pa.Array:
            values = [None if path is None else value_of((kind, path)) for path in paths.to_pylist()]
            inner = pa.array(values, pa.binary(width))
            return pa.StructArray.from_arrays([inner], fields=[pa.field(kind, inner.type)], mask=paths.is_null())

        return {
            name: replace_paths(columns[name], hint, count_up(len(columns[name])), build)
            for name, hint in self._hints.items()
        }

    # ------------------------------------------------------------------ files

    def _read(self, places: Iterable[_Place]) -> dict[_Place, _Found]:
        """Look at every path, and read the files that the memory does not know; a bounded number at a time."""
        found: dict[_Place, _Found] = {}
        listings: dict[_Place, Listing] = {}
        count, began = 0, time.time_ns()
        for kind, path in places:
            try:
                listings[kind, path] = look(path, kind)
            except (OSError, ValueError) as error:
                _refuse_dead_mount(error, path)
                found[kind, path] = _unusable(kind, path, explain(error, path))
                continue
            count += len(listings[kind, path].entries)
            if count >= _ENTRIES_AT_ONCE:
                found |= self._read_listings(listings, began)
                listings, count, began = {}, 0, time.time_ns()
        return found | self._read_listings(listings, began)

    def _read_listings(self, listings: Mapping[_Place, Listing], looked_at_ns: int) -> dict[_Place, _Found]:
        files = {entry.key: entry for listing in listings.values() for entry in listing.files()}
        digests = {} if self._memory is None else self._memory.recall(list(files))
        errors: dict[bytes, OSError | InputError] = {}
        for entry, outcome in read_digests([entry for key, entry in files.items() if key not in digests]):
            if not isinstance(outcome, bytes):
                errors[entry.key] = outcome
                continue
            digests[entry.key] = outcome
            if self._memory is not None and not is_racy(entry, looked_at_ns):
                self._memory.remember(entry.key, outcome)
        found: dict[_Place, _Found] = {}
        for (kind, path), listing in listings.items():
            error = next((errors[e.key] for e in listing.files() if e.key in errors), None) if errors else None
            if error is not None:
                _refuse_dead_mount(error, path)
                found[kind, path] = _unusable(kind, path, explain(error, path))
                continue
            racy = any(is_racy(entry, looked_at_ns) for entry in listing.files())
            found[kind, path] = _Found(listing.digest(digests), listing.state(), racy)
        return found


def _state(kind: Kind, path: str) -> bytes:
    try:
        return look(path, kind).state()
    except (OSError, ValueError) as error:
        _refuse_dead_mount(error, path)
        return bytes(STATE_BYTES)


def _refuse_dead_mount(error: Exception, path: str) -> None:
    """End the run where a file system is gone: that is no packet's failure, and would be that of all."""
    if isinstance(error, OSError) and error.errno in DEAD_MOUNT:
        raise StorageError(
            f"{path!r} cannot be read, for its file system does not answer: {error.strerror}. No packet failed for it. Mount it again, "
            "and run again."
        ) from error


def _unusable(kind: Kind, path: str, problem: str) -> _Found:
    """Let a hash that no content has stand for content that is not there; equal for equal paths."""
    text = f"{kind} {path}".encode()
    digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES, person=b"orcapod.nofile.1").digest()
    return _Found(digest, bytes(STATE_BYTES), problem=problem)


def content_columns(columns: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the columns of one packet as they are hashed: the content of files in place of their paths.

    Raises:
        InputError: a file cannot be used; says which and why.
    """
    if not any(map(holds_paths, schema.values())):
        return columns
    contents = FileReader(schema).contents({name: one_array(column) for name, column in columns.items()})
    if contents.problems:
        raise InputError(contents.problems[0])
    return contents.columns


class PathsInFlight:
    """The path columns of the packets that an executor holds, until every packet of a batch has come back."""

    def __init__(self) -> None:
        self._batches: dict[int, pa.Table] = {}
        self._missing: dict[int, int] = {}

    def send(self, start: int, columns: Mapping[str, pa.Array]) -> None:
        """Keep the columns of a batch whose first packet is number `start`."""
        self._batches[start] = pa.table(dict(columns))
        self._missing[start] = self._batches[start].num_rows

    def receive(self, start: int, length: int) -> dict[str, pa.Array]:
        """Return the columns of consecutive packets, in order; each packet comes back once."""
        pieces: list[pa.Table] = []
        for first in sorted(self._batches):
            low, high = max(start, first), min(start + length, first + self._batches[first].num_rows)
            if low >= high:
                continue
            pieces.append(self._batches[first].slice(low - first, high - low))
            self._missing[first] -= high - low
            if not self._missing[first]:
                del self._batches[first], self._missing[first]
        table = pa.concat_tables(pieces)
        return {name: one_array(table[name]) for name in table.column_names}
