"""Assets of batch functions and of generators, on a real Dagster instance and real Delta tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pyarrow as pa
import pytest
from desk_project import Project
from test_assets import Lake, make_upstream

from orcapod_dagster import SkipPacket, packet_asset
from orcapod_dagster.core.errors import DefinitionError, PacketFailuresError
from orcapod_dagster.desk import audit, packet_row, trace

CALLS: list[Any] = []


class Word(NamedTuple):
    """One row of a generator."""

    word: str
    size: int | None


def texts(*values: str) -> dg.AssetsDefinition:
    table = pa.table({"page": list(range(len(values))), "text": list(values), "site": ["s"] * len(values)})
    return make_upstream(lambda: table, "texts")


def words(text: str) -> Iterator[Word]:
    CALLS.append(text)
    for word in text.split():
        yield Word(word, len(word) if word != "?" else None)
        if word == "fail":
            raise ValueError("half of it was yielded")


async def words_async(text: str) -> AsyncIterator[Word]:
    await asyncio.sleep(0)
    for row in words(text):
        yield row


def count(word: str) -> int:
    return len(word)


def words_asset(function: Any = words, **options: Any) -> Any:
    return packet_asset(function, name="words", inputs="texts", **{"tag_columns": ["page"], **options})


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    CALLS.clear()
    one = Lake(tmp_path / "lake")
    yield one
    one.instance.dispose()


def rows_of(lake: Lake, name: str = "words", *columns: str) -> list[tuple[Any, ...]]:
    table = lake.table(name).select(list(columns or ("page", "words_index", "word", "size")))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize("function", [words, words_async])
def test_a_generator_gives_rows_with_an_index(lake: Lake, function: Any) -> None:
    """A packet gives any number of rows, none too, with tag and index, in order; a second run finds all, and writes nothing."""
    upstream, asset = texts("a bb", "", "ccc ?"), words_asset(function, carry=["site"])
    shown = lake.run(upstream, asset)
    assert rows_of(lake) == [(0, 0, "a", 1), (0, 1, "bb", 2), (2, 0, "ccc", 3), (2, 1, "?", None)]
    assert lake.table("words").schema.field("words_index") == pa.field("words_index", pa.int64(), nullable=False)
    assert set(lake.table("words")["site"].to_pylist()) == {"s"}
    assert lake.counts(shown, "words") == (3, 0, 3, 0, 0)
    assert len(set(rows_of(lake, "words", "__record_id"))) == 2
    again = lake.run(upstream, asset)
    assert lake.counts(again, "words") == (3, 3, 0, 0, 0)
    assert lake.metadata(again, "words")["orcapod/unchanged"] is True
    assert len(CALLS) == 3


def test_a_changed_packet_replaces_its_rows(lake: Lake) -> None:
    """When a packet changes, just it is computed, its rows are replaced, and the others stay; also where it had none."""
    asset = words_asset()
    lake.run(texts("a bb", "", "c"), asset)
    shown = lake.run(texts("a", "d e", "c"), asset)
    assert lake.counts(shown, "words") == (3, 1, 2, 0, 0)
    assert [row[:3] for row in rows_of(lake)] == [(0, 0, "a"), (1, 0, "d"), (1, 1, "e"), (2, 0, "c")]
    shown = lake.run(texts("a", "", "c"), asset)
    assert lake.counts(shown, "words") == (3, 3, 0, 0, 0)
    assert [row[:3] for row in rows_of(lake)] == [(0, 0, "a"), (2, 0, "c")]


def test_a_packet_without_rows_that_came_or_went_is_known_to_the_next_run(lake: Lake) -> None:
    """Where packets without rows alone change, the table's commit says so, and the next run looks at nothing else."""
    asset = words_asset()

    def is_short(shown: Any) -> bool:
        said = [entry.user_message for entry in lake.instance.all_logs(shown.run_id)]
        return any("the table holds just these rows" in text for text in said)

    lake.run(texts("a bb"), asset)
    for values, computed in ((("a bb", ""), 1), (("a bb", "", " "), 1), (("a bb", " "), 0), (("a bb",), 0)):
        first, second = lake.run(texts(*values), asset), lake.run(texts(*values), asset)
        assert lake.counts(first, "words") == (len(values), len(values) - computed, computed, 0, 0)
        assert [is_short(first), is_short(second)] == [False, True]
        assert lake.metadata(second, "words")["orcapod/unchanged"] is True
    assert [row[:3] for row in rows_of(lake)] == [(0, 0, "a"), (0, 1, "bb")]


def test_all_rows_of_a_packet_or_none(lake: Lake) -> None:
    """A generator that raises after some rows has none; the other packets have theirs."""
    asset = words_asset(on_error="continue")
    shown = lake.run(texts("a", "b fail", "c"), asset)
    assert lake.counts(shown, "words") == (3, 0, 2, 1, 0)
    assert [row[:3] for row in rows_of(lake)] == [(0, 0, "a"), (2, 0, "c")]
    with pytest.raises(PacketFailuresError, match="half of it"):
        lake.run(texts("a", "b fail"), words_asset())


def test_downstream_assets_have_the_index_as_a_tag(lake: Lake) -> None:
    """An asset of a generator's rows inherits tag and index; a generator of a generator has both."""
    upstream, first = texts("a bb", "ccc"), words_asset()
    sizes = packet_asset(count, name="sizes", inputs=first, output_keys=["n"])

    def letters(word: str) -> Iterator[str]:
        yield from word

    spelled = packet_asset(letters, inputs=first, output_keys=["letter"], index_column="place")
    lake.run(upstream, first, sizes, spelled)
    assert rows_of(lake, "sizes", "page", "words_index", "n") == [(0, 0, 1), (0, 1, 2), (1, 0, 3)]
    assert rows_of(lake, "letters", "page", "words_index", "place", "letter")[:3] == [
        (0, 0, 0, "a"),
        (0, 1, 0, "b"),
        (0, 1, 1, "b"),
    ]


def test_a_generator_and_a_function_that_gives_lists_share_nothing(lake: Lake) -> None:
    """Under the loosest match policy, a plain function of the same name with the same lists computes anew."""

    def numbers(text: str) -> Iterator[int]:
        CALLS.append("generator")
        yield len(text)

    lake.run(texts("a"), packet_asset(numbers, inputs="texts", tag_columns=["page"], output_keys="n", match="version"))

    def as_lists(text: str) -> list[int]:
        CALLS.append("lists")
        return [len(text)]

    as_lists.__name__ = "numbers"
    plain = packet_asset(as_lists, name="plain", inputs="texts", tag_columns=["page"], output_keys="n", match="version")
    lake.run(texts("a"), plain)
    assert CALLS == ["generator", "lists"]


def test_what_is_refused_of_generators() -> None:
    """A generator says what it yields, has columns for it, and an index column of its own."""

    def silent(text: str):  # that is the point
        yield text

    with pytest.raises(DefinitionError, match="does not say of which type"):
        words_asset(silent, output_keys=["word"])
    with pytest.raises(DefinitionError, match="its rows need columns"):
        words_asset(letters_of)
    with pytest.raises(DefinitionError, match=r"twice \(tags, index_column"):
        words_asset(index_column="word")
    with pytest.raises(DefinitionError, match="is for generators"):
        packet_asset(count, inputs="texts", tag_columns=["page"], output_keys="n", index_column="i")


def letters_of(text: str) -> Iterator[str]:
    yield from text


def test_an_asset_of_a_batch_function(lake: Lake) -> None:
    """Batches are of packets without a result alone; each is cached, fails or is skipped by itself."""

    def upper(text: list[str]) -> list[str]:
        CALLS.append(len(text))
        if "bad" in text:
            raise ValueError("bad")
        marked: dict[str, Exception] = {"skip": SkipPacket("no"), "marked": ValueError("marked")}
        return [marked.get(one, one.upper()) for one in text]  # type: ignore[misc]  # as documented

    asset = packet_asset(
        upper, inputs="texts", tag_columns=["page"], output_keys="upper", batch=True, batch_size=4, on_error="continue"
    )
    shown = lake.run(texts("a", "b", "bad", "skip", "c", "marked"), asset)
    assert lake.counts(shown, "upper") == (6, 0, 3, 2, 1)
    assert rows_of(lake, "upper", "page", "upper") == [(0, "A"), (1, "B"), (4, "C")]
    assert CALLS == [4, 2, 2, 1, 1, 2]
    CALLS.clear()
    shown = lake.run(texts("a", "b", "new", "skip", "c", "d"), asset)
    assert lake.counts(shown, "upper") == (6, 3, 2, 0, 1)
    assert CALLS == [2]


def test_the_desk_knows_generators(tmp_path: Path) -> None:
    """`row` shows and calls the packet, also by the tags of one of its rows; a trace goes from a row through it to the source."""
    upstream, first = texts("a bb", "", "ccc"), words_asset()
    sizes = packet_asset(count, name="sizes", inputs=first, output_keys=["n"])
    project = Project(tmp_path / "lake")
    project.run(upstream, first, sizes)
    definitions = project.definitions(upstream, first, sizes)
    for tags in ({"page": 0}, {"page": 0, "words_index": 1}):
        row = packet_row(definitions, "words", tags=tags)
        assert row.result is not None
        assert row.result["word"].to_pylist() == [["a", "bb"]]
        assert row.call() == [Word("a", 1), Word("bb", 2)]
    found = trace(definitions, "sizes", tags={"page": 0, "words_index": 1})
    steps = {step.asset.to_user_string(): step for step in found.steps}
    assert list(steps) == ["sizes", "words", "texts"]
    assert (steps["words"].row["word"], steps["texts"].row["text"]) == ("bb", "a bb")
    assert trace(definitions, "words", tags={"page": 0, "words_index": 0}).steps[-1].row["text"] == "a bb"
    assert audit(definitions, "words").equal == 3
    project.instance.dispose()
