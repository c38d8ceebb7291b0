"""Which versions of a function's code count as one, by what was accepted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from orcapod_dagster.core.acceptance import PART, Acceptance, changes_between

Digests = Mapping[str, str]
Change = tuple[str | None, str | None]
_SHARED: Final = frozenset({"helper", "class", "constant", "module", "import"})
"""Kinds of parts whose names say which they are in any function; `closure n` is another in each."""

Related = Callable[[str, str, Mapping[str, Change]], bool]
"""Tells of two versions, by content hash, and of what still differs, whether that counts as no difference."""


def equivalents(
    current: Mapping[str, Digests],
    known: Mapping[str, Digests],
    accepted: Sequence[Acceptance],
    related: Related | None = None,
) -> frozenset[str]:
    """Return the content hashes that count as the current code.

    Two versions count as one where they were accepted as they are, or where every part that differs is covered: by changes
    that were accepted alone, which hold in any code, whichever way and one after another; or by changes that were accepted
    together, which hold only together. All of this is symmetric, and transitive over the known versions. That a part is missing
    is an end of such a chain, never its middle: what went and what came may have nothing in common.

    Args:
        current: content hash → digests of parts, of the code as it is; several where it may go by several names.
        known: the same of other versions.
        accepted: what holds.
        related: a further reason for which what is left of a difference counts as none.
    """
    pairs = [(one.from_content_hash, one.to_content_hash) for one in accepted if one.scope != PART]
    edges = {*pairs, *((after, before) for before, after in pairs)}
    edits = [one.changes for one in accepted if one.scope == PART]
    groups = _Groups(edit for edit in edits if len(edit) == 1)
    joint = sorted((edit for edit in edits if len(edit) > 1), key=len, reverse=True)
    digests = {**known, **current}
    found, waiting = set(current), list(current)
    while waiting:
        one = waiting.pop()
        for other in digests.keys() - found:
            if (one, other) in edges or _covered(one, other, digests, groups, joint, related):
                found.add(other)
                waiting.append(other)
        # Versions whose code is kept nowhere were accepted all the same.
        named = {after for before, after in edges if before == one} - found
        found |= named
        waiting += named
    return frozenset(found)


def holds_for(function_names: Collection[str], one: Acceptance) -> bool:
    """Tell whether an acceptance speaks of a function.

    Changes of parts that other functions name alike without having them in common (body, default, closure, argument, state,
    wrapper, declared, unknown) hold only for the name that they were accepted for.

    Args:
        function_names: that it has and had.
        one: the acceptance.
    """
    shared = all(part.partition(" ")[0] in _SHARED for part in one.changes)
    return one.scope != PART or shared or one.function_name in function_names


def touches(current: Mapping[str, Digests], accepted: Sequence[Acceptance]) -> bool:
    """Tell whether anything that was accepted begins or ends with code as it is; if not, no other version counts by it."""
    return any(_touches(content_hash, digests, one) for content_hash, digests in current.items() for one in accepted)


def _touches(content_hash: str, digests: Digests, one: Acceptance) -> bool:
    if one.scope != PART:
        return content_hash in (one.from_content_hash, one.to_content_hash)
    return any(digests.get(part) in change for part, change in one.changes.items())


class _Groups:
    """Digests of one part that count as one, and those that count as none, by changes that were accepted alone."""

    def __init__(self, edits: Iterable[Mapping[str, Change]]) -> None:
        self._above: dict[tuple[str, str], tuple[str, str]] = {}
        ends: list[tuple[str, str]] = []
        for edit in edits:
            ((part, (before, after)),) = edit.items()
            if before is not None and after is not None:
                self._above[self.root((part, before))] = self.root((part, after))
            else:
                ends += [(part, digest) for digest in (before, after) if digest is not None]
        self._missing = {self.root(one) for one in ends}

    def root(self, one: tuple[str, str]) -> tuple[str, str]:
        while (above := self._above.get(one, one)) != one:
            one = above
        return one

    def covers(self, part: str, change: Change) -> bool:
        """Tell whether a part may change so."""
        return self.same(part, change) or any(
            one is None and other is not None and self.root((part, other)) in self._missing
            for one, other in (change, change[::-1])
        )

    def same(self, part: str, change: Change) -> bool:
        """Tell whether two digests, or twice none, count as one."""
        before, after = change
        if before is None or after is None:
            return before is after
        return self.root((part, before)) == self.root((part, after))


def _covered(
    one: str,
    other: str,
    digests: Mapping[str, Digests],
    groups: _Groups,
    joint: Sequence[Mapping[str, Change]],
    related: Related | None,
) -> bool:
    """Tell whether every part that differs between two versions is covered."""
    if one not in digests:
        return False
    left = {
        part: change
        for part, change in changes_between(digests[one], digests[other]).items()
        if not groups.covers(part, change)
    }
    for edit in joint:
        for turned in (edit, {part: (after, before) for part, (before, after) in edit.items()}):
            if all(part in left and _alike(groups, part, left[part], change) for part, change in turned.items()):
                left = {part: change for part, change in left.items() if part not in turned}
    return not left or (related is not None and related(one, other, left))


def _alike(groups: _Groups, part: str, one: Change, other: Change) -> bool:
    return all(groups.same(part, (mine, theirs)) for mine, theirs in zip(one, other, strict=True))
