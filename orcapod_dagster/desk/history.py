"""Versions of input tables that a packet may have been made from, the likeliest first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from orcapod_dagster.core import delta
from orcapod_dagster.core.compaction import COMPACTED

_LOOK_BACK: Final = 200
_KEEPS_ROWS: Final = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})


@dataclass(frozen=True, slots=True)
class TableHistory:
    """Versions of a table whose commits changed rows, with the time of each, newest first; of the latest commits."""

    commits: tuple[tuple[int, dt.datetime], ...]

    def as_of(self, moment: dt.datetime) -> int | None:
        """Return the last version until a moment; `None` where the table had none, or it is not known any more."""
        return next((version for version, at in self.commits if at <= moment), None)


def read_history(uri: str, storage_options: Mapping[str, str] | None) -> TableHistory | None:
    """Read what the log of a table says of its versions; `None` without a table."""
    table = delta.open_table(uri, storage_options)
    if table is None:
        return None
    with delta.reading(uri):
        said = table.history(_LOOK_BACK)
    changing = [one for one in said if COMPACTED not in one and one.get("operation") not in _KEEPS_ROWS]
    return TableHistory(tuple((int(one["version"]), _moment(one)) for one in changing if int(one["version"]) > 0))


def _moment(commit: Mapping[str, Any]) -> dt.datetime:
    return dt.datetime.fromtimestamp(commit.get("timestamp", 0) / 1000, dt.UTC)


def versions_to_try(
    histories: Mapping[dg.AssetKey, TableHistory], said: Mapping[str, int], computed_at: dt.datetime
) -> Iterator[dict[dg.AssetKey, int]]:
    """Yield versions of all inputs together: those that the record names, those before it was made, then later ones.

    A run may take hours, and reads its inputs when it begins; so the last versions before a record are the likeliest, and
    those before them the next. What a table carries along may be younger than the record.
    """
    named = {key: said[key.to_user_string()] for key in histories if key.to_user_string() in said}
    tried: list[dict[dg.AssetKey, int]] = [{key: one.commits[0][0] for key, one in histories.items() if one.commits}]
    moments = sorted({at for one in histories.values() for _, at in one.commits}, reverse=True)
    before = [at for at in moments if at <= computed_at]
    after = [at for at in reversed(moments) if at > computed_at]
    as_of = ({key: one.as_of(moment) for key, one in histories.items()} for moment in [*before, *after])
    for versions in [named, *as_of]:
        known = {key: version for key, version in versions.items() if version is not None}
        if known and len(known) == len(versions) and known not in tried:
            tried.append(known)
            yield known
