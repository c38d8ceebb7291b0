"""Acceptances: edits that users declare equivalent, kept in the lake with who, when, why and the difference; append-only.

What is accepted is a change of parts from one version of code to another, or two versions as they are. Which versions count
as one follows in `equivalence.py`.
"""

from __future__ import annotations

import datetime as dt
import difflib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.code_store import StoredCode
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.errors import AcceptanceError
from orcapod_dagster.core.identity import changed_parts

ACCEPTED_PATH: Final = ("accepted",)
FUNCTION: Final = "function"
PART: Final = "part"
COMMITS: Final = "commits"
_WITHDRAWAL: Final = "withdrawal"
_CHANGE: Final = pa.struct(
    [pa.field("part", pa.string(), nullable=False), pa.field("before", pa.string()), pa.field("after", pa.string())]
)
ACCEPTED_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("function_name", pa.string(), nullable=False),
        pa.field("from_content_hash", pa.string(), nullable=False),
        pa.field("to_content_hash", pa.string(), nullable=False),
        pa.field("changes", pa.list_(_CHANGE), nullable=False),
        pa.field("difference", pa.string(), nullable=False),
        pa.field("from_git_hash", pa.string(), nullable=False),
        pa.field("to_git_hash", pa.string(), nullable=False),
        pa.field("who", pa.string(), nullable=False),
        pa.field("at", UTC_TIMESTAMP, nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("withdraws", pa.string()),
    ]
)
"""One row per acceptance or withdrawal, which names in `withdraws` what it takes back. `changes` has the digests of the parts that
differ, null where a version has no such part; the value of no constant stands anywhere."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One edit that counts as none.

    Attributes:
        acceptance_id: names it, for `withdraw`.
        scope: `"function"`, `"part"` or `"commits"`: whether two versions as a whole are meant, or these changes wherever they
            stand; `"commits"` is as `"function"`, one for each version that a range of commits made.
        function_name: whose versions were compared. from_content_hash, to_content_hash: the versions.
        changes: part → digest before and after, None where a version lacks it.
        difference: of the sources, as far as they are kept; `""` without.
        from_git_hash, to_git_hash: the commits that the versions were first seen at.
        who, at, reason: declared it, when (UTC), and why.
        withdrawn: by whom, when and why; None while it holds.
    """

    acceptance_id: str
    scope: str
    function_name: str
    from_content_hash: str
    to_content_hash: str
    changes: Mapping[str, tuple[str | None, str | None]]
    difference: str
    from_git_hash: str
    to_git_hash: str
    who: str
    at: dt.datetime
    reason: str
    withdrawn: str | None = None


class AcceptanceStore:
    """The acceptances of a lake.

    Args:
        database: of the results.
    """

    def __init__(self, database: ArrowDatabase) -> None:
        self._database = database

    def add(
        self, pairs: Sequence[tuple[StoredCode, StoredCode]], scope: str, parts: Sequence[str], *, reason: str, who: str
    ) -> list[Acceptance]:
        """Accept the change from each first version to its second, durable on return.

        Args:
            pairs: versions before and after.
            scope: as in `Acceptance`.
            parts: under `"part"`, those that are meant, together; all that differ otherwise.
            reason: why this changes no result.
            who: declares it.

        Raises:
            AcceptanceError: no reason or name is given; a part does not differ, or nothing does.
        """
        for what, text in (("reason", reason), ("name of who accepts", who)):
            if not text.strip():
                raise AcceptanceError(
                    f"An acceptance needs a {what}, which is kept with it; got an empty one. Say why no result changes."
                )
        made = [acceptance_of(before, after, scope, parts, reason.strip(), who.strip()) for before, after in pairs]
        self._append([_row(one) for one in made])
        return made

    def all(self) -> list[Acceptance]:
        """Return every acceptance, oldest first, withdrawn ones too."""
        return self._read(ACCEPTED_SCHEMA.names)

    def standing(self) -> list[Acceptance]:
        """Return the acceptances that hold, oldest first, without their differences, which may be long."""
        chosen = [name for name in ACCEPTED_SCHEMA.names if name != "difference"]
        return [one for one in self._read(chosen) if one.withdrawn is None]

    def _read(self, columns: Sequence[str]) -> list[Acceptance]:
        source = self._database.source(ACCEPTED_PATH)
        if source is None:
            return []
        rows: list[dict[str, Any]] = []
        for batch in source.scan(columns):
            rows += batch.to_pylist()
        rows.sort(key=lambda row: (row["at"], row["id"]))
        withdrawn = {
            row["withdraws"]: f"{row['who']}, {row['at']:%Y-%m-%d %H:%M:%S} UTC: {row['reason']}"
            for row in reversed(rows)
            if row["scope"] == _WITHDRAWAL
        }
        return [_of_row(row, withdrawn.get(row["id"])) for row in rows if row["scope"] != _WITHDRAWAL]

    def withdraw(self, acceptance_id: str, *, reason: str, who: str) -> Acceptance:
        """Take an acceptance back, durable on return; the row that it was stays.

        Raises:
            AcceptanceError: there is none of this id, it is withdrawn already, or no reason is given.
        """
        if not reason.strip() or not who.strip():
            raise AcceptanceError("A withdrawal needs a reason and a name, which are kept with it; got an empty one.")
        known = {one.acceptance_id: one for one in self.all()}
        found = known.get(acceptance_id)
        if found is None or found.withdrawn is not None:
            state = "is not known" if found is None else f"is withdrawn already ({found.withdrawn})"
            holding = ", ".join(one.acceptance_id for one in known.values() if one.withdrawn is None) or "none"
            raise AcceptanceError(f"The acceptance {acceptance_id!r} {state}. Those that hold are: {holding}.")
        row = {**_row(found), "id": _new_id(), "scope": _WITHDRAWAL, "withdraws": acceptance_id}
        self._append([{**row, "who": who.strip(), "at": dt.datetime.now(dt.UTC), "reason": reason.strip()}])
        return found

    def _append(self, rows: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, schema=ACCEPTED_SCHEMA)
        self._database.append(ACCEPTED_PATH, table.to_reader)
        self._database.flush()
        self._database.keep_quick(ACCEPTED_PATH)


def acceptance_of(
    before: StoredCode, after: StoredCode, scope: str, parts: Sequence[str], reason: str, who: str
) -> Acceptance:
    """Return the acceptance of one version as another, not yet stored; arguments and errors as `AcceptanceStore.add`."""
    changes = changes_between(before.digests, after.digests)
    if not changes:
        raise AcceptanceError(
            f"The code {before.content_hash} is the same as {after.content_hash}, so there is nothing to accept."
        )
    unknown = sorted(set(parts) - set(changes))
    if unknown or (scope == PART and not parts):
        what = f"The parts {unknown} do not differ" if unknown else "No part is named"
        raise AcceptanceError(
            f"{what} between {before.content_hash} and {after.content_hash} of {after.function_name}; these do: {list(changes)}."
        )
    chosen = {key: changes[key] for key in parts} if scope == PART else changes
    return Acceptance(
        _new_id(),
        scope,
        after.function_name,
        before.content_hash,
        after.content_hash,
        chosen,
        difference(before, after, list(chosen)),
        before.git_hash,
        after.git_hash,
        who,
        dt.datetime.now(dt.UTC),
        reason,
    )


def changes_between(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the parts that differ between two versions, with their digests before and after."""
    return {key: (before.get(key), after.get(key)) for key in changed_parts(before, after)}


def difference(before: StoredCode, after: StoredCode, parts: Sequence[str] | None = None) -> str:
    """Return what differs between two versions, as a unified diff of the sources that are kept.

    Args:
        before, after: the versions.
        parts: of which parts; default all that differ. Of values only their names are told.
    """
    texts: list[str] = []
    for key, how in changed_parts(before.digests, after.digests).items():
        if parts is not None and key not in parts:
            continue
        old, new = before.sources.get(key), after.sources.get(key)
        if old is None and new is None:
            texts.append(f"{key}: {how}")
            continue
        lines = difflib.unified_diff(
            (old or "").splitlines(), (new or "").splitlines(), f"{key} (before)", f"{key} (after)", lineterm=""
        )
        texts.append("\n".join(lines) or f"{key}: {how}, with the same source")
    return "\n".join(texts)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _row(one: Acceptance) -> dict[str, Any]:
    return {
        "id": one.acceptance_id,
        "scope": one.scope,
        "function_name": one.function_name,
        "from_content_hash": one.from_content_hash,
        "to_content_hash": one.to_content_hash,
        "changes": [{"part": key, "before": old, "after": new} for key, (old, new) in one.changes.items()],
        "difference": one.difference,
        "from_git_hash": one.from_git_hash,
        "to_git_hash": one.to_git_hash,
        "who": one.who,
        "at": one.at,
        "reason": one.reason,
        "withdraws": None,
    }


def _of_row(row: Mapping[str, Any], withdrawn: str | None) -> Acceptance:
    changes = {one["part"]: (one["before"], one["after"]) for one in row["changes"]}
    said: dict[str, Any] = {"difference": "", **row}
    for name in ("id", "changes", "withdraws"):
        del said[name]
    return Acceptance(acceptance_id=row["id"], changes=changes, withdrawn=withdrawn, **said)
