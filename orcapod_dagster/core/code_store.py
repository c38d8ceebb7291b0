"""CodeStore: what the code was that made results, so that a later run can say what changed.

A content hash tells that code differs; the parts that are kept here, with their digests and source, tell where.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.identity import Environment, FunctionCode
from orcapod_dagster.core.matching import fulfilling

CODE_PATH: Final = ("code",)
ENVIRONMENTS_PATH: Final = ("environments",)
_TEXTS: Final = pa.map_(pa.string(), pa.string())
CODE_SCHEMA: Final = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("function_name", pa.string(), nullable=False),
        pa.field("git_hash", pa.string(), nullable=False),
        pa.field("digests", _TEXTS, nullable=False),
        pa.field("sources", _TEXTS, nullable=False),
        pa.field("stored_at", UTC_TIMESTAMP, nullable=False),
    ]
)
ENVIRONMENT_SCHEMA: Final = pa.schema(
    [
        pa.field("environment_hash", pa.string(), nullable=False),
        pa.field("versions", _TEXTS, nullable=False),
        pa.field("stored_at", UTC_TIMESTAMP, nullable=False),
    ]
)
# A module as a whole has its constants in it, whose values are never stored.
_WITHOUT_SOURCE: Final = frozenset({"module", "constant"})


@dataclass(frozen=True, slots=True)
class StoredCode:
    """One version of a function's code.

    Attributes:
        content_hash: of all parts. function_name, git_hash: whose, and the commit it was first seen at. stored_at: when.
        digests: part → digest. sources: part → its lines, of functions and classes only.
    """

    content_hash: str
    function_name: str
    git_hash: str
    digests: Mapping[str, str]
    sources: Mapping[str, str]
    stored_at: dt.datetime


def kept_sources(code: FunctionCode) -> dict[str, str]:
    """Return part → its lines, of the parts whose lines may be kept and shown."""
    sources = {key: part.source for key, part in code.parts.items() if part.source and part.kind not in _WITHOUT_SOURCE}
    return {key: source.encode("utf-8", "backslashreplace").decode() for key, source in sources.items()}


class CodeStore:
    """The code and environments of all functions of a lake, append-only.

    Args:
        database: where they are kept, in tables of their own.
    """

    def __init__(self, database: ArrowDatabase) -> None:
        self.database = database

    def remember(self, function_name: str, git_hash: str, code: FunctionCode, environment: Environment) -> None:
        """Keep code and environment, durable on return; what is there already is not stored again.

        Raises:
            StorageError: the storage refused.
        """
        now = dt.datetime.now(dt.UTC)
        if not self._holds(CODE_PATH, {"content_hash": code.content_hash, "function_name": function_name}):
            kept = stored_code(function_name, git_hash, code)
            maps = {"digests": list(kept.digests.items()), "sources": list(kept.sources.items())}
            self._append(CODE_PATH, CODE_SCHEMA, {**{name: getattr(kept, name) for name in CODE_SCHEMA.names}, **maps})
        digest = environment.environment_hash
        if not self._holds(ENVIRONMENTS_PATH, {"environment_hash": digest}):
            row = {"environment_hash": digest, "versions": list(environment.versions.items()), "stored_at": now}
            self._append(ENVIRONMENTS_PATH, ENVIRONMENT_SCHEMA, row)

    def codes(self, content_hashes: Collection[str]) -> dict[str, StoredCode]:
        """Return what is known of these versions of code, by content hash; others are left out."""
        return {row["content_hash"]: _stored(row) for row in self._rows(CODE_PATH, "content_hash", content_hashes)}

    def codes_of(self, function_names: Collection[str]) -> list[StoredCode]:
        """Return all versions of the code of functions with these names, in the order in which they were first stored."""
        rows = self._rows(CODE_PATH, "function_name", function_names)
        return sorted(map(_stored, rows), key=lambda one: one.stored_at)

    def environments(self, environment_hashes: Collection[str]) -> dict[str, Mapping[str, str]]:
        """Return the versions of these environments, by hash; unknown ones are left out."""
        rows = self._rows(ENVIRONMENTS_PATH, "environment_hash", environment_hashes)
        return {row["environment_hash"]: dict(row["versions"]) for row in rows}

    def _holds(self, path: tuple[str, ...], wanted: Mapping[str, str]) -> bool:
        source = self.database.source(path)
        if source is None:
            return False
        return any(pc.any(fulfilling(batch, wanted)).as_py() for batch in source.scan(list(wanted)))

    def _append(self, path: tuple[str, ...], schema: pa.Schema, row: Mapping[str, Any]) -> None:
        table = pa.Table.from_pylist([dict(row)], schema=schema)
        self.database.append(path, table.to_reader)
        self.database.flush()
        self.database.keep_quick(path)

    def _rows(self, path: tuple[str, ...], column: str, values: Collection[str]) -> list[dict[str, Any]]:
        source = self.database.source(path) if values else None
        if source is None:
            return []
        wanted, found = pa.array(list(values), pa.string()), list[dict[str, Any]]()
        for batch in source.scan(source.schema.names):
            found += batch.filter(pc.is_in(batch.column(column), value_set=wanted)).to_pylist()
        return found


def stored_code(function_name: str, git_hash: str, code: FunctionCode) -> StoredCode:
    """Return what is kept of a version of code: no source of what holds values."""
    digests = {key: part.digest for key, part in code.parts.items()}
    return StoredCode(code.content_hash, function_name, git_hash, digests, kept_sources(code), dt.datetime.now(dt.UTC))


def _stored(row: Mapping[str, Any]) -> StoredCode:
    named = (row["content_hash"], row["function_name"], row["git_hash"])
    return StoredCode(*named, dict(row["digests"]), dict(row["sources"]), row["stored_at"])
