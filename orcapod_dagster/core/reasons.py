"""Why packets are computed: one named reason each, found for all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.identity import Environment, FunctionCode, changed_parts
from orcapod_dagster.core.matching import MatchPolicy
from orcapod_dagster.core.result_cache import EARLIER_COLUMNS

NO_EARLIER_RESULT: Final = "no earlier result"
CODE_CHANGED: Final = "the code changed"
SIGNATURE_CHANGED: Final = "the signature changed"
ENVIRONMENT_CHANGED: Final = "the environment changed"
EARLIER_FAILURE: Final = "an earlier failure"
FORCED: Final = "forced"
VALUE_LOST: Final = "its large value is missing"
_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """What the function is in this run, as far as stored results are held against it.

    Attributes:
        match: which stored results count.
        variation: what the function is. code, environment: the same in parts.
    """

    match: MatchPolicy
    variation: Mapping[str, str]
    code: FunctionCode
    environment: Environment

    @property
    def digests(self) -> dict[str, str]:
        """Part of the code → digest."""
        return {key: part.digest for key, part in self.code.parts.items()}


class Reasons:
    """One reason per packet that is computed.

    Args:
        texts: the reason of each, a `string` array without nulls.
        earlier_codes: content hash of code that made results which do not count any more → packets.
    """

    def __init__(self, texts: pa.Array, earlier_codes: Mapping[str, int] | None = None) -> None:
        self.texts = texts
        self.earlier_codes: Mapping[str, int] = earlier_codes or {}

    @classmethod
    def all_alike(cls, reason: str, count: int) -> Reasons:
        """Return one reason for so many packets."""
        return cls(pa.repeat(reason, count))

    def counts(self) -> dict[str, int]:
        """Return reason → number of packets, the most frequent first."""
        return dict(sorted(counted(self.texts).items(), key=lambda one: -one[1]))

    def where(self, mask: Any, reason: str | pa.Array) -> Reasons:
        """Return the reasons with another one where the mask is true: one for all of these packets, or one each, in order."""
        if isinstance(reason, str):
            texts = one_array(pc.if_else(mask, reason, self.texts))
        else:
            texts = one_array(pc.replace_with_mask(self.texts, mask, reason))
        return Reasons(texts, self.earlier_codes)

    def with_codes(self, codes: Mapping[str, int]) -> Reasons:
        """Return the reasons with further code that made results which do not count any more."""
        return Reasons(self.texts, {**self.earlier_codes, **codes})


def counted(values: pa.Array) -> dict[str, int]:
    """Return text → how often it stands there; nulls are left out."""
    return {one["values"]: one["counts"] for one in pc.value_counts(values.drop_null()).to_pylist()}


def earlier_codes(earlier: pa.Table, now: Identity) -> dict[str, int]:
    """Return content hash → packets, of the code that made these results and is another now; none where it does not count.

    Args:
        earlier: as `changes`.
        now: what the function is.
    """
    if now.match not in ("content", "environment"):
        return {}
    found = counted(one_array(earlier[names.CONTENT_HASH]).cast(pa.string()))
    return {content: count for content, count in found.items() if content != now.variation["function_content_hash"]}


def changes(earlier: pa.Table, now: Identity, store: CodeStore) -> pa.Array:
    """Name what changed since each of these results was made.

    Args:
        earlier: what `ResultCache.newest` says of the packets.
        now: what the function is.
        store: the code of earlier results.

    Returns:
        A `string` array, one reason per row.
    """
    columns = [names.SIGNATURE_HASH, names.CONTENT_HASH, names.ENVIRONMENT_HASH]
    joined: Any = pc.binary_join_element_wise(
        *(pc.fill_null(earlier[name].cast(pa.string()), "") for name in columns), "|"
    )
    coded: Any = one_array(joined).dictionary_encode()
    versions = [tuple(text.split("|")) for text in coded.dictionary.to_pylist()]
    codes = store.codes({content for _, content, _ in versions})
    environments = store.environments({environment for _, _, environment in versions})
    texts = [
        _change(one, now, codes[one[1]].digests if one[1] in codes else None, environments.get(one[2]))
        for one in versions
    ]
    return pa.array(texts, pa.string()).take(coded.indices)


def change_between(earlier: pa.Table, later: pa.Table, store: CodeStore) -> str | None:
    """Name what changed between two results of a packet, of one row each; `None` where they were made by the same.

    Args:
        earlier, later: with the columns of `EARLIER_COLUMNS`; that of the environment may be missing.
        store: the code of both.
    """
    before, after = _version_of(earlier), _version_of(later)
    codes, environments = store.codes([before[1], after[1]]), store.environments([before[2], after[2]])
    if before[1] != after[1]:
        known = before[1] in codes and after[1] in codes
        changed = changed_parts(codes[before[1]].digests, codes[after[1]].digests) if known else {}
        return named(CODE_CHANGED, _parts(changed))
    if before[0] != after[0]:
        return SIGNATURE_CHANGED
    if not before[2] or not after[2] or before[2] == after[2]:
        return None
    known = before[2] in environments and after[2] in environments
    return named(ENVIRONMENT_CHANGED, _versions(environments[before[2]], environments[after[2]]) if known else [])


def _version_of(record: pa.Table) -> tuple[str, str, str]:
    """Return signature, content and environment hash of a record; empty where one is not told."""
    said = [name for name in EARLIER_COLUMNS if name in record.column_names]
    first = record.select(said).slice(0, 1).to_pylist()[0]
    signature, content, environment = (first.get(name) or "" for name in EARLIER_COLUMNS[:3])
    return signature, content, environment


def _change(
    before: tuple[str, ...], now: Identity, digests: Mapping[str, str] | None, versions: Mapping[str, str] | None
) -> str:
    signature, content, _ = before
    if content != now.variation["function_content_hash"] and now.match != "signature":
        changed = None if digests is None else changed_parts(digests, now.digests)
        return named(CODE_CHANGED, _parts(changed)) if changed else CODE_CHANGED
    if signature != now.variation["function_signature_hash"]:
        return SIGNATURE_CHANGED
    return named(ENVIRONMENT_CHANGED, [] if versions is None else _versions(versions, now.environment.versions))


def named(reason: str, what: Iterable[str]) -> str:
    """Return a reason with what it is about, of which the first few are named."""
    every = list(what)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return f"{reason}: {', '.join(every[:_NAMED])}{more}" if every else reason


def _parts(changed: Mapping[str, str]) -> list[str]:
    return [part if how == "changed" else f"{part} ({how})" for part, how in changed.items()]


def _versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    every = sorted(before.keys() | now.keys())
    return [
        f"{name} {before.get(name, '(not used)')} → {now.get(name, '(not used)')}"
        for name in every
        if before.get(name) != now.get(name)
    ]
