"""What changed in the code, shown part by part."""

from __future__ import annotations

import datetime as dt

import pytest

from orcapod_dagster.core.code_diff import CodeChange, PartChange, code_changes, part_changes, to_markdown, to_text
from orcapod_dagster.core.code_store import CodeStore, StoredCode
from orcapod_dagster.core.databases import InMemoryArrowDatabase
from orcapod_dagster.core.identity import Environment, FunctionCode
from orcapod_dagster.core.identity.parts import CodePart, content_hash_of, digest_of


def code(**parts: str) -> FunctionCode:
    """Return code of parts by kind and name, joined by `__`, with their text."""
    named = [(*key.partition("__"), text) for key, text in parts.items()]
    made = [CodePart(kind, name, digest_of(text), text) for kind, _, name, text in named]
    digests = {part.key: part.digest for part in made}
    return FunctionCode(content_hash_of(digests), {part.key: part for part in made}, {}, frozenset())


def compared(before: FunctionCode, after: FunctionCode) -> tuple[PartChange, ...]:
    """Return what differs, as it is after the earlier code has been stored."""
    store = CodeStore(InMemoryArrowDatabase())
    store.remember("f", "abc", before, Environment({}))
    (change,) = code_changes({before.content_hash: 3}, after, store)
    assert (change.packets, change.git_hash) == (3, "abc")
    return change.parts


def test_changed_added_and_removed_parts() -> None:
    """Of code the difference is shown, whole where a part is new or gone; of constants only that they changed."""
    before = code(body__="def f():\n    return 1\n", helper__g="def g():\n    pass\n", constant__K="K = 31415926")
    after = code(body__="def f():\n    return 2\n", helper__h="def h():\n    pass\n", constant__K="K = 27182818")
    parts = {part.part: part for part in compared(before, after)}
    assert parts["body"].diff == ("@@ -1,2 +1,2 @@", " def f():", "-    return 1", "+    return 2")
    assert (parts["helper g"].how, parts["helper g"].diff[1:]) == ("removed", ("-def g():", "-    pass"))
    assert (parts["helper h"].how, parts["helper h"].diff[1:]) == ("added", ("+def h():", "+    pass"))
    assert (parts["constant K"].how, parts["constant K"].diff) == ("changed", ())
    shown = to_markdown([CodeChange("m:0", 3, "abc", tuple(parts.values()))])
    assert "`constant K` changed; its value is not kept" in shown
    assert "31415926" not in shown
    assert "27182818" not in shown


def test_length_is_bounded() -> None:
    """However long code is, what is shown of it is short, and says what it leaves out."""
    lines = [f"x{i} = {i}" for i in range(1_500)]
    before, after = "\n".join(lines), "\n".join(f"{line} + {'1' * 5_000}" for line in lines)
    (part,) = compared(code(body__=before), code(body__=after))
    assert part.diff[-1].startswith("… ")
    assert len("\n".join(part.diff)) < 15_000
    (part,) = compared(code(body__=before * 2), code(body__=after * 2))
    assert part.diff == ("… 2,999 lines became 2,999, too many to be compared here",)
    many = code(**{f"helper__h{i}": "def h(): pass" for i in range(40)})
    assert "… and 28 further parts" in to_markdown([CodeChange("m:0", 1, "abc", compared(code(body__="x"), many)[:40])])
    changes = [CodeChange(f"m:{i}", 1, None, ()) for i in range(9)]
    assert "… and 6 further versions of the code" in to_markdown(changes)
    assert to_markdown(changes).count("What that code was is not kept.") == 3


@pytest.mark.parametrize("hostile", ["```\n# out", "\x1b[31mred", "a\x00b", "\ud800", "````` `` "])
def test_source_cannot_leave_its_block(hostile: str) -> None:
    """Backquotes in source do not end the block it stands in; control characters are shown by their escapes."""
    stored = StoredCode("m:0", "f", "abc", {"body": "0"}, {"body": "x = 1"}, dt.datetime.now(dt.UTC))
    parts = part_changes(stored, code(body__=f"x = '''{hostile}'''"))
    shown = to_markdown([CodeChange("m:0", 1, "abc", parts)])
    block = shown[shown.index("diff\n") :].splitlines()
    fence = block[-1]
    assert set(fence) == {"`"}
    assert all(fence not in line for line in block[:-1])
    text = shown + "\n".join(to_text(parts))
    assert all(char.isprintable() or char == "\n" for char in text)
    text.encode()
