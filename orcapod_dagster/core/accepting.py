"""Accepting an edit: which versions are meant, what differs, and how many stored results would count by it."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.acceptance import (
    COMMITS,
    FUNCTION,
    PART,
    Acceptance,
    AcceptanceStore,
    acceptance_of,
    changes_between,
    difference,
)
from orcapod_dagster.core.code_store import CodeStore, StoredCode, stored_code
from orcapod_dagster.core.counting import Counting
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.errors import AcceptanceError
from orcapod_dagster.core.git import commits_between
from orcapod_dagster.core.identity import parameters_in
from orcapod_dagster.core.matching import MatchPolicy
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.result_cache import ResultCache, result_path
from orcapod_dagster.core.signature import source_file
from orcapod_dagster.core.sources import TableSource

_RANGE: Final = re.compile(r"([0-9a-fA-F]{4,64})\.\.([0-9a-fA-F]{4,64})?")
_DIGITS: Final = 6
_DIRTY: Final = "-dirty"


@dataclass(frozen=True)
class Proposal:
    """An edit that could be accepted; nothing is stored yet.

    Attributes:
        function: whose.
        database: of the results.
        match: under which the asset looks for results.
        scope, parts: as `AcceptanceStore.add` takes them.
        pairs: the versions before and after.
    """

    function: PythonPacketFunction
    database: ArrowDatabase
    match: MatchPolicy
    scope: str
    parts: tuple[str, ...]
    pairs: tuple[tuple[StoredCode, StoredCode], ...]

    def describe(self) -> str:
        """Return the versions and what differs between them, for people."""
        texts: list[str] = []
        for before, after in self.pairs:
            texts.append(f"{self.function.canonical_function_name}: {_named(before)}\n  -> {_named(after)}")
            texts.append(difference(before, after, self.parts or None))
        return "\n".join(texts)

    def count(self) -> int:
        """Return how many packets have a stored result that does not count now, and would."""
        assumed = [
            acceptance_of(before, after, self.scope, self.parts, "assumed", "nobody") for before, after in self.pairs
        ]
        return self._packets(assumed) - self._packets([])

    def _packets(self, assumed: Sequence[Acceptance]) -> int:
        cache = ResultCache(self.database, result_path(self.function.uri))
        counting = Counting(self.function, cache, None, self.match, assumed)
        variation = self.function.get_function_variation_data()
        snapshot = cache.snapshot(counting.constraints(variation))
        return 0 if snapshot is None else len(snapshot.keys)

    def accept(self, *, reason: str, who: str | None = None) -> list[Acceptance]:
        """Accept it; durable on return.

        Args:
            reason: why this changes no result; kept with it.
            who: accepts; default the user of this process.

        Raises:
            AcceptanceError: there is no reason, or no name of a user.
        """
        store = AcceptanceStore(self.database)
        made = store.add(self.pairs, self.scope, self.parts, reason=reason, who=who or user())
        # What was accepted can be shown, and chains to other acceptances, before it made its first result.
        function = self.function
        code, git_hash = function.get_function_code(), function.get_function_variation_data()["git_hash"]
        CodeStore(self.database).remember(function.canonical_function_name, git_hash, code, function.get_environment())
        return made


def propose(
    function: PythonPacketFunction,
    database: ArrowDatabase,
    *,
    match: MatchPolicy = "content",
    table: Callable[[], TableSource | None] = lambda: None,
    from_code: str | None = None,
    parts: Sequence[str] = (),
    commits: str | None = None,
) -> Proposal:
    """Find the versions of a function that an acceptance is about.

    Args:
        function: as it is now, which is what an earlier version is accepted as.
        database: of the results.
        match: as the asset declares it.
        table: opens the asset's own table, None where it has none.
        from_code: content hash of the earlier version, or the first 6 or more of its hexadecimal digits; default the one that made
            the newest rows of the asset's own table that do not count yet.
        parts: only these parts, together and in every function: keys as a run's reason names them (`"helper steps.scale"`).
        commits: `"<X>..<Y>"`: the version in force at commit X and all that were first seen after it up to Y; `"<X>.."` up to now.

    Raises:
        AcceptanceError: there is no such version, or none that differs; nothing tells which of several it is; or its parameters
            have other names, so no stored result could count.
    """
    if commits is not None and (from_code is not None or parts):
        raise AcceptanceError("Give a range of commits, or a version or parts; not both.")
    store, name = CodeStore(database), function.canonical_function_name
    current = stored_code(name, function.get_function_variation_data()["git_hash"], function.get_function_code())
    known = [one for one in store.codes_of([name, *function.formerly]) if one.content_hash != current.content_hash]
    if commits is not None:
        pairs = _pairs_of_commits(function, known, current, commits)
        return Proposal(function, database, match, COMMITS, (), tuple(pairs))
    before = (
        _default(function, database, known, current, parts, versions_in(table()))
        if from_code is None
        else _named_by(function, store, known, from_code)
    )
    _refuse_other_parameters(function, before, current, parts)
    return Proposal(function, database, match, PART if parts else FUNCTION, tuple(parts), ((before, current),))


def user() -> str:
    """Return the name of the user of this process.

    Raises:
        AcceptanceError: the system does not tell one.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise AcceptanceError("The system does not tell who you are. Give a name (who=..., --who).") from None


def versions_in(table: TableSource | None) -> list[str]:
    """Return the content hashes of the code that made the rows of an asset's table, that of the newest row first.

    Args:
        table: of the asset; None, and one that no packet asset wrote, give none.
    """
    columns = [names.CONTENT_HASH, names.TIMESTAMP]
    if table is None or not set(columns) <= set(table.schema.names):
        return []
    newest: dict[str, Any] = {}
    for batch in table.scan(columns):
        code, at = batch.columns
        rows = pa.table({"code": code.cast(pa.string()), "at": at}).group_by("code").aggregate([("at", "max")])
        for one in rows.drop_null().to_pylist():
            newest[one["code"]] = max(one["at_max"], newest.get(one["code"], one["at_max"]))
    return sorted(newest, key=newest.__getitem__, reverse=True)


def _default(
    function: PythonPacketFunction,
    database: ArrowDatabase,
    known: Sequence[StoredCode],
    current: StoredCode,
    parts: Sequence[str],
    made: Sequence[str],
) -> StoredCode:
    """Return the version that made the newest rows of the asset's table that do not count; other assets' functions may have the name."""
    counting = Counting(function, ResultCache(database, result_path(function.uri)), None, "content")
    counted = counting.contents(current.content_hash)
    eligible = {
        one.content_hash: one
        for one in known
        if one.content_hash not in counted and set(parts) <= changes_between(one.digests, current.digests).keys()
    }
    found = [eligible[content_hash] for content_hash in made if content_hash in eligible]
    if found:
        return found[0]
    name = function.canonical_function_name
    if not eligible or made:
        what = f" in which {', '.join(parts)} is another" if parts else ""
        rows = " and made rows of the asset's table; name another by from_code (--from)" if eligible else ""
        raise AcceptanceError(
            f"{name}: no earlier version is stored{what} that does not count yet{rows}. {_listed(known)}"
        )
    (first, *others) = eligible.values()
    if not others and first.function_name in function.formerly:
        return first
    raise AcceptanceError(
        f"{name}: the asset has no table with rows yet, so nothing tells which earlier version is its own; another asset's function may "
        f"have the same name. Name it by from_code (--from). {_listed(list(eligible.values()))}"
    )


def _named_by(function: PythonPacketFunction, store: CodeStore, known: Sequence[StoredCode], text: str) -> StoredCode:
    digits = text.rpartition(":")[2].lower()
    found = {
        one.content_hash: one
        for one in known
        if one.content_hash == text
        or (len(digits) >= _DIGITS and one.content_hash.rpartition(":")[2].startswith(digits))
    }
    if len(found) == 1:
        return next(iter(found.values()))
    for other in store.codes([text]).values():
        # Two versions of one function that were both taken for some version of another would count as one.
        raise AcceptanceError(
            f"{text} is code of {other.function_name!r}, whose results are no results of {function.canonical_function_name!r}. "
            "Where that is what the function was called before, say so at its definition: formerly=[...]."
        )
    raise AcceptanceError(
        f"{text!r} names {'more than one' if found else 'no'} stored version of the code but the current one. "
        + _listed(known)
    )


def _pairs_of_commits(
    function: PythonPacketFunction, known: Sequence[StoredCode], current: StoredCode, commits: str
) -> list[tuple[StoredCode, StoredCode]]:
    match = _RANGE.fullmatch(commits.strip())
    if match is None:
        raise AcceptanceError(f"{commits!r} is no range of commits. Give '<X>..<Y>', or '<X>..' up to now, as hashes.")
    first, last = match[1].lower(), None if match[2] is None else match[2].lower()
    inside = _seen_inside(function, known, first, last)
    after = current
    if last is not None and (not current.git_hash.startswith(last) or _DIRTY in current.git_hash):
        # The code went on since; so the versions of the range are one with the last of them.
        if not inside:
            raise AcceptanceError(f"No stored version was seen between {first} and {last}. " + _listed(known))
        after = inside[-1]
    pairs = [(one, after) for one in inside if one.content_hash != after.content_hash]
    if not pairs:
        raise AcceptanceError(
            f"{function.canonical_function_name}: no stored version of {commits} differs from its last. "
            + _listed(known)
        )
    for one, other in pairs:
        _refuse_other_parameters(function, one, other, ())
    return pairs


def _seen_inside(
    function: PythonPacketFunction, known: Sequence[StoredCode], first: str, last: str | None
) -> list[StoredCode]:
    """Return the version in force at the first commit, and those that were first seen after it, up to the last one."""
    at = [one.git_hash.partition("-")[0] for one in known]
    listed = commits_between(source_file(function.function), first, last)
    if listed is not None:
        until, since = listed
        in_force: list[StoredCode] = []
        inside: list[StoredCode] = []
        for one, commit in zip(known, at, strict=True):
            # A version that was first seen with changes on top of a commit came after it.
            if _DIRTY in one.git_hash and commit.startswith((first, last or "-")):
                inside += [one] if commit.startswith(first) else []
            elif commit in since:
                inside.append(one)
            elif commit in until:
                in_force = [one]
        return [*in_force, *inside]
    begin = next((i for i, commit in enumerate(at) if commit.startswith(first)), None)
    if begin is None:
        raise AcceptanceError(
            f"No repository here knows the commit {first}, and no stored version was first seen at it. "
            + _listed(known)
        )
    ends = [i for i, commit in enumerate(at) if last is None or commit.startswith(last)]
    return list(known[begin : ends[-1] + 1]) if ends and ends[-1] >= begin else list(known[begin:])


def _refuse_other_parameters(
    function: PythonPacketFunction, before: StoredCode, after: StoredCode, parts: Sequence[str]
) -> None:
    if parts and "body" not in parts:
        return
    mine, theirs = parameters_in(after.sources.get("body")), parameters_in(before.sources.get("body"))
    if mine is not None and theirs is not None and mine != theirs:
        raise AcceptanceError(
            f"{function.canonical_function_name}: the version {before.content_hash} has the parameters {sorted(theirs)}, "
            f"{after.content_hash} has {sorted(mine)}. What a packet is called by is part of its hash, so no stored result could "
            "count. Keep the parameters, or compute anew."
        )


def _named(one: StoredCode) -> str:
    return f"{one.content_hash} (first seen at commit {one.git_hash}, {one.stored_at:%Y-%m-%d %H:%M} UTC)"


def _listed(known: Sequence[StoredCode]) -> str:
    if not known:
        return "None is stored but the current one."
    return "Stored are: " + "; ".join(_named(one) for one in reversed(known[-10:])) + "."
