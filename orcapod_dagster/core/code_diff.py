"""What changed in a function's code since results were made: part by part, with the difference of the source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orcapod_dagster.core.code_store import CodeStore, StoredCode, kept_sources
from orcapod_dagster.core.identity import FunctionCode, changed_parts

_VERSIONS: Final = 3
_PARTS: Final = 12
_LINES: Final = 60
_WIDTH: Final = 160
_LONGEST: Final = 2_000
"""Lines of source that are compared: the time of a comparison grows with their square."""


@dataclass(frozen=True, slots=True)
class PartChange:
    """One part that differs.

    Attributes:
        part: its name. how: `"changed"`, `"added"` or `"removed"`.
        diff: a unified diff, line by line, cut to a bounded length; empty where no source is kept of either.
    """

    part: str
    how: str
    diff: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeChange:
    """What differs between a version of the code and the present one.

    Attributes:
        content_hash: of the version. packets: results of it that do not count any more.
        git_hash: the commit that it was first seen at; None where the version is not known.
        parts: what differs; empty where the version is not known.
    """

    content_hash: str
    packets: int
    git_hash: str | None
    parts: tuple[PartChange, ...]


def code_changes(earlier: Mapping[str, int], now: FunctionCode, store: CodeStore) -> list[CodeChange]:
    """Compare versions of a function's code with the present one, those of most packets first.

    Args:
        earlier: content hash → packets.
        now: the code as it is.
        store: what is kept of earlier code.
    """
    wanted = sorted(earlier.items(), key=lambda one: (-one[1], one[0]))
    known = store.codes([content for content, _ in wanted]) if wanted else {}
    found: list[CodeChange] = []
    for content, packets in wanted:
        before = known.get(content)
        parts = () if before is None else part_changes(before, now)
        found.append(CodeChange(content, packets, None if before is None else before.git_hash, parts))
    return found


def part_changes(before: StoredCode, now: FunctionCode) -> tuple[PartChange, ...]:
    """Return the parts that differ between a stored version of code and the present one."""
    sources = kept_sources(now)
    changed = changed_parts(before.digests, {key: part.digest for key, part in now.parts.items()})
    return tuple(
        PartChange(part, how, _diff(before.sources.get(part), sources.get(part))) for part, how in changed.items()
    )


def _diff(before: str | None, after: str | None) -> tuple[str, ...]:
    if before is None and after is None:
        return ()
    old, new = (before or "").splitlines(), (after or "").splitlines()
    if max(len(old), len(new)) > _LONGEST:
        return (f"… {len(old):,} lines became {len(new):,}, too many to be compared here",)
    lines = list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]
    more = [f"… {len(lines) - _LINES:,} further lines"] if len(lines) > _LINES else []
    return tuple([line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in lines[:_LINES]] + more)


def to_markdown(changes: Sequence[CodeChange]) -> str:
    """Return the changes as Markdown of bounded length; source stands in code blocks that nothing in it can end."""
    blocks: list[str] = []
    for change in changes[:_VERSIONS]:
        at = "" if change.git_hash is None else f", first seen at commit {_coded(change.git_hash)}"
        blocks.append(f"**{change.packets:,} results of {_coded(_short(change.content_hash))}**{at}")
        if change.git_hash is None:
            blocks.append("What that code was is not kept.")
        for part in change.parts[:_PARTS]:
            blocks.append(f"{_coded(part.part)} {part.how}" + ("" if part.diff else "; its value is not kept"))
            if part.diff:
                blocks.append(_fenced(part.diff))
        if len(change.parts) > _PARTS:
            blocks.append(f"… and {len(change.parts) - _PARTS} further parts")
    if len(changes) > _VERSIONS:
        blocks.append(f"… and {len(changes) - _VERSIONS} further versions of the code")
    return "\n\n".join(blocks)


def to_text(changes: Sequence[PartChange]) -> list[str]:
    """Return changed parts as lines of plain text."""
    lines: list[str] = []
    for part in changes[:_PARTS]:
        lines.append(f"{part.part} {part.how}" + ("" if part.diff else "; its value is not kept"))
        lines += [f"    {_printable(line)}" for line in part.diff]
    if len(changes) > _PARTS:
        lines.append(f"… and {len(changes) - _PARTS} further parts")
    return lines


def _short(content_hash: str) -> str:
    return f"{content_hash.rpartition(':')[2][:16]}…"


def _fenced(lines: Sequence[str]) -> str:
    text = "\n".join(_printable(line) for line in lines)
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}diff\n{text}\n{fence}"


def _coded(text: str) -> str:
    """Return a name as code, between more backquotes than it has in a row."""
    plain = " ".join(_printable(text).split())
    ticks = "`" * (_longest_ticks(plain) + 1)
    space = " " if "`" in plain else ""
    return f"{ticks}{space}{plain}{space}{ticks}"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _printable(text: str) -> str:
    """Return text without what a terminal or a page would obey: control characters, and lone surrogates, by their escapes."""
    kept = "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text
    )
    return kept.encode("utf-8", "backslashreplace").decode()
