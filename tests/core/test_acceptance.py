"""Which results count: accepted edits, former names, output types that grew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core import PythonPacketFunction, ResultCache, columns as names
from orcapod_dagster.core.acceptance import FUNCTION, PART, Acceptance, AcceptanceStore
from orcapod_dagster.core.code_store import CodeStore, StoredCode
from orcapod_dagster.core.counting import covers
from orcapod_dagster.core.databases import DeltaTableDatabase, InMemoryArrowDatabase
from orcapod_dagster.core.equivalence import equivalents
from orcapod_dagster.core.errors import AcceptanceError, DefinitionError
from orcapod_dagster.core.identity import function_code
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.result_cache import MatchPolicy
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput
from orcapod_dagster.core.widening import WidenedSource, widening

WORK = "LIMIT = 3\n\n\ndef scale(x):\n    return x * LIMIT\n\n\ndef work(x: int) -> int:\n    return scale(x) + 1\n"
HELPER = WORK.replace("x * LIMIT", "LIMIT * x")
BODY = HELPER.replace("scale(x) + 1", "1 + scale(x)")


class Bench:
    """A database, and functions of edited files that run over a few numbers."""

    def __init__(self, database: Any, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self._files = 0

    def function(self, text: str, name: str = "work", **options: Any) -> PythonPacketFunction:
        self._files += 1
        folder = self.folder / str(self._files)
        folder.mkdir(parents=True)
        file = folder / "steps.py"
        file.write_text(text)
        space: dict[str, Any] = {"__name__": "steps", "__file__": str(file)}
        exec(compile(text, str(file), "exec"), space)
        return PythonPacketFunction(space[name], "y", **options)

    def pod(self, function: PythonPacketFunction, match: MatchPolicy = "content") -> FunctionPod:
        cache = ResultCache(self.database, ("results", *function.uri))
        outcomes = OutcomeLog(self.database, ("outcomes", *function.uri))
        return FunctionPod(function, cache, outcomes, match=match)

    def run(
        self, function: PythonPacketFunction, match: MatchPolicy = "content", count: int = 3
    ) -> tuple[PodReport, list[Any]]:
        pod = self.pod(function, match)
        source = MemorySource(pa.table({"id": range(count), "x": range(count)}))
        plan = pod.plan(PacketStream.open([StreamInput("numbers", source, {})], ("id",), {}))
        report = pod.compute(plan)
        _, snapshot, positions = pod.assemble(plan, report)
        return report, [] if snapshot is None else snapshot.source.take(positions, ["y"])["y"].to_pylist()

    def accept(self, before: PythonPacketFunction, after: PythonPacketFunction, *parts: str) -> Acceptance:
        codes = CodeStore(self.database)
        versions: list[StoredCode] = []
        for function in (before, after):
            code = function.get_function_code()
            codes.remember(function.canonical_function_name, "abc", code, function.get_environment())
            versions.append(codes.codes([code.content_hash])[code.content_hash])
        store = AcceptanceStore(self.database)
        (made,) = store.add([(versions[0], versions[1])], PART if parts else FUNCTION, parts, reason="same", who="ann")
        return made


@pytest.fixture(params=["memory", "delta"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    database = InMemoryArrowDatabase() if request.param == "memory" else DeltaTableDatabase(str(tmp_path / "lake"))
    return Bench(database, tmp_path)


def test_results_of_an_accepted_version_count_both_ways_and_until_it_is_withdrawn(bench: Bench) -> None:
    """An accepted edit recomputes nothing, nor does its undoing; after the withdrawal each version is its own again."""
    before, after = bench.function(WORK), bench.function(HELPER)
    assert bench.run(before)[0].computed == 3
    accepted = bench.accept(before, after)
    report, values = bench.run(after)
    assert (report.computed, report.cached, values) == (0, 3, [1, 4, 7])
    assert report.accepted == {before.get_function_content_hash(): 3}
    assert bench.run(after, count=5)[0].computed == 2
    assert bench.run(before, count=5)[0].computed == 0
    AcceptanceStore(bench.database).withdraw(accepted.acceptance_id, reason="wrong", who="bob")
    assert bench.run(after, count=5)[0].computed == 3
    assert bench.run(before, count=5)[0].computed == 2


def test_acceptances_chain(bench: Bench) -> None:
    """A to B and B to C make A and C one, also where B never made a result."""
    first, second, third = bench.function(WORK), bench.function(HELPER), bench.function(BODY)
    bench.run(first)
    bench.accept(first, second)
    assert bench.run(third)[0].computed == 3
    bench.accept(second, third)
    bench2 = bench.function(BODY)
    report, _ = bench.run(bench2)
    assert report.computed == 0


def test_an_accepted_helper_counts_in_every_function_that_uses_it(bench: Bench) -> None:
    """One acceptance of a shared helper serves another function of the same module, whose body was never compared."""
    other = "\n\ndef more(x: int) -> int:\n    return scale(x) - 1\n"
    bench.run(bench.function(WORK + other, "more"))
    bench.accept(bench.function(WORK), bench.function(HELPER), "helper steps.scale")
    assert bench.run(bench.function(HELPER + other, "more"))[0].computed == 0


def test_an_accepted_helper_does_not_cover_another_part(bench: Bench) -> None:
    """Where the body differs too, the acceptance of the helper alone is not enough."""
    bench.run(bench.function(WORK))
    bench.accept(bench.function(WORK), bench.function(HELPER), "helper steps.scale")
    assert bench.run(bench.function(BODY))[0].computed == 3


def test_parts_accepted_together_hold_only_together(bench: Bench) -> None:
    """A factor that moves from a helper to the body is one edit; half of it is another function."""
    moved = WORK.replace("x * LIMIT", "x").replace("scale(x) + 1", "scale(x) * LIMIT + 1")
    half = WORK.replace("x * LIMIT", "x")
    bench.run(bench.function(WORK))
    bench.accept(bench.function(WORK), bench.function(moved), "body", "helper steps.scale")
    assert bench.run(bench.function(half))[0].computed == 3
    assert bench.run(bench.function(moved))[0].computed == 0


def test_the_value_of_a_constant_stands_in_no_acceptance(bench: Bench) -> None:
    """Of a constant, its name and digests are kept, and nothing of its value."""
    made = bench.accept(bench.function(WORK), bench.function(WORK.replace("LIMIT = 3", "LIMIT = 987654")))
    assert "constant steps.LIMIT" in made.changes
    assert "987654" not in str(AcceptanceStore(bench.database).all())


def test_acceptances_of_another_function_change_nothing(bench: Bench) -> None:
    """Two versions of one function that count as one say nothing of another function."""
    before, after = bench.function(WORK), bench.function(HELPER)
    bench.accept(before, after)
    other = WORK.replace("def work", "def other").replace("scale(x) + 1", "scale(x) + 2")
    bench.run(bench.function(other, "other"))
    assert bench.run(bench.function(other.replace("x * LIMIT", "LIMIT * x"), "other"))[0].computed == 3


@pytest.mark.parametrize("match", ["version", "signature"])
def test_policies_that_do_not_ask_for_code_are_not_changed(bench: Bench, match: MatchPolicy) -> None:
    """Under "version" and "signature" an acceptance neither adds nor takes away."""
    before, after = bench.function(WORK), bench.function(HELPER)
    bench.accept(before, after)
    bench.run(before, match)
    assert bench.run(after, match)[0].computed == 0


def test_policy_environment_still_asks_for_the_environment(bench: Bench) -> None:
    """An accepted version counts where its environment is the same, and not where it is another."""
    before, after = bench.function(WORK), bench.function(HELPER)
    bench.run(before, "environment")
    bench.accept(before, after)
    assert bench.run(after, "environment")[0].computed == 0
    pod = bench.pod(after, "environment")
    variation = after.get_function_variation_data()
    assert bench.pod(after).cache.snapshot(pod.counting.constraints(variation, "another"), None).keys.to_pylist() == []  # type: ignore[union-attr]


def test_failures_and_skips_of_accepted_versions_count(bench: Bench) -> None:
    """A packet that an accepted version skipped is not computed again."""
    text = "from orcapod_dagster import SkipPacket\n\n\ndef work(x: int) -> int:\n    if x == 1:\n        raise SkipPacket\n    return x\n"
    before, after = bench.function(text), bench.function(text.replace("return x", "return +x"))
    assert (bench.run(before)[0].computed, bench.run(before)[0].skipped) == (2, 1)
    bench.accept(before, after)
    report, _ = bench.run(after)
    assert (report.computed, report.skipped, report.to_compute) == (0, 1, 0)


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_run_keeps_to_what_held_when_it_was_planned(bench: Bench, withdrawn: bool) -> None:
    """Accepted or withdrawn while a run is going on, it stores and assembles by what it was planned with."""
    before, after = bench.function(WORK), bench.function(HELPER)
    bench.run(before)
    made = bench.accept(before, after) if withdrawn else None
    pod = bench.pod(after)
    source = MemorySource(pa.table({"id": range(4), "x": range(4)}))
    plan = pod.plan(PacketStream.open([StreamInput("numbers", source, {})], ("id",), {}))
    assert len(plan.to_compute) == (1 if withdrawn else 4)
    if made is None:
        bench.accept(before, after)
    else:
        AcceptanceStore(bench.database).withdraw(made.acceptance_id, reason="no", who="ann")
    report = pod.compute(plan)
    assert pod.assemble(plan, report)[0].num_rows == 4
    assert report.cached == (3 if withdrawn else 0)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_an_acceptance_needs_a_reason(bench: Bench, reason: str) -> None:
    """Without a reason nothing is stored."""
    codes = CodeStore(bench.database)
    pair: list[StoredCode] = []
    for text in (WORK, HELPER):
        function = bench.function(text)
        code = function.get_function_code()
        codes.remember("work", "abc", code, function.get_environment())
        pair.append(codes.codes([code.content_hash])[code.content_hash])
    store = AcceptanceStore(bench.database)
    with pytest.raises(AcceptanceError, match="needs a reason"):
        store.add([(pair[0], pair[1])], FUNCTION, (), reason=reason, who="ann")
    with pytest.raises(AcceptanceError, match="do not differ"):
        store.add([(pair[0], pair[1])], PART, ["constant steps.LIMIT"], reason="x", who="ann")
    with pytest.raises(AcceptanceError, match="nothing to accept"):
        store.add([(pair[0], pair[0])], FUNCTION, (), reason="x", who="ann")
    assert store.all() == []


def test_a_withdrawal_names_one_that_holds(bench: Bench) -> None:
    """What is not known or withdrawn already is refused; both stay on record, with the reason."""
    store = AcceptanceStore(bench.database)
    with pytest.raises(AcceptanceError, match="not known"):
        store.withdraw("abc", reason="x", who="ann")
    made = bench.accept(bench.function(WORK), bench.function(HELPER))
    store.withdraw(made.acceptance_id, reason="wrong after all", who="bob")
    with pytest.raises(AcceptanceError, match=r"withdrawn already \(bob"):
        store.withdraw(made.acceptance_id, reason="x", who="ann")
    (one,) = store.all()
    assert "wrong after all" in str(one.withdrawn)


CLOSURES = """
def chunks(n):
    def chunked(x: int) -> int:
        return sum([x]) if n else x
    return chunked


def factor(n):
    def times(x: int, by: int = N) -> int:
        return x * n * by
    return times


chunked, times = chunks(N), factor(N)
"""


@pytest.mark.parametrize("part", ["closure n", "default by"])
def test_a_part_that_names_no_function_is_accepted_for_its_own_alone(bench: Bench, part: str) -> None:
    """`closure n` and `default by` of one function say nothing about what other functions call so; a former name is its own."""
    text = CLOSURES.replace("sum([x]) if", "sum([x]) * by if").replace(
        "def chunked(x: int)", "def chunked(x: int, by: int = 1)"
    )
    if part == "default by":
        text = text.replace("by: int = 1", "by: int = N").replace("chunks(N), factor(N)", "chunks(7), factor(7)")
    else:
        text = text.replace("by: int = N", "by: int = 1")
    before, after = text.replace("N", "2"), text.replace("N", "3")
    for name in ("chunked", "times"):
        bench.run(bench.function(before, name))
    bench.accept(bench.function(before, "chunked"), bench.function(after, "chunked"), part)
    contents = {
        name: bench.pod(function).counting.contents(function.get_function_content_hash())
        for name in ("chunked", "times")
        for function in [bench.function(after, name)]
    }
    assert {name: len(found) for name, found in contents.items()} == {"chunked": 2, "times": 1}
    assert bench.run(bench.function(after, "times"))[0].computed == 3
    renamed = after.replace("chunked", "sliced")
    function = bench.function(renamed, "sliced", formerly="chunked")
    assert len(bench.pod(function).counting.contents(function.get_function_content_hash())) > 2


# ---------------------------------------------------------------------------- former names


RECURSIVE = "def fact(x: int) -> int:\n    return 1 if x < 2 else x * fact(x - 1)\n"


@pytest.mark.parametrize("match", ["content", "environment"])
@pytest.mark.parametrize("text", [RECURSIVE, WORK.replace("work", "fact")])
def test_a_renamed_function_finds_its_results(bench: Bench, match: MatchPolicy, text: str) -> None:
    """A pure rename with `formerly` recomputes nothing, also where the function calls itself; new results are its own."""
    bench.run(bench.function(text, "fact"), match)
    renamed = text.replace("fact", "factorial")
    assert bench.run(bench.function(renamed, "factorial"), match)[0].computed == 3
    again = bench.function(text.replace("fact", "product"), "product", formerly="fact")
    report, values = bench.run(again, match)
    assert report.computed == 0
    assert values == bench.run(bench.function(text, "fact"), match)[1]
    assert bench.run(again, match, count=5)[0].computed == 2
    assert bench.run(again, match, count=5)[0].computed == 0


@pytest.mark.parametrize("match", ["version", "signature"])
def test_former_names_are_refused_where_the_code_is_not_asked_for(bench: Bench, match: MatchPolicy) -> None:
    """By a name alone, results of other code that bears it now would be taken."""
    function = bench.function(WORK.replace("def work", "def works"), "works", formerly="work")
    with pytest.raises(DefinitionError, match=r"works: formerly=\['work'\] does not go with match="):
        bench.pod(function, match)


def test_the_old_record_is_found_with_its_id_time_and_context(bench: Bench) -> None:
    """What is found under a former name is the record itself, not a copy of its value."""
    old = bench.function(WORK)
    bench.run(old)
    stored = bench.pod(old).cache.get_all_records(include_system_columns=True)
    new = bench.function(WORK.replace("def work", "def works"), "works", formerly=["work"])
    pod = bench.pod(new)
    variation = new.get_function_variation_data()
    pod.counting.constraints(variation, "")
    found = pod.cache.get_all_records(include_system_columns=True)
    assert stored is not None
    assert found is not None
    for column in (names.RECORD_ID, names.TIMESTAMP, names.CONTENT_HASH, "__pf_var_function_name"):
        assert found[column].to_pylist() == stored[column].to_pylist()


def test_a_renamed_and_edited_function_does_not_count(bench: Bench) -> None:
    """Under "content", a former name alone does not make other code count."""
    bench.run(bench.function(WORK))
    edited = WORK.replace("def work", "def works").replace("+ 1", "+ 2")
    assert bench.run(bench.function(edited, "works", formerly="work"))[0].computed == 3


def test_a_call_of_another_function_under_the_old_name_is_no_rename(bench: Bench) -> None:
    """A new function that calls a helper of the old name is not taken for the old one, which called itself."""
    bench.run(bench.function(RECURSIVE, "fact"))
    text = "def fact(x):\n    return 0\n\n\ndef new(x: int) -> int:\n    return 1 if x < 2 else x * fact(x - 1)\n"
    assert bench.run(bench.function(text, "new", formerly="fact"))[0].computed == 3


@pytest.mark.parametrize("formerly", ["work", "", ["other", ""]])
def test_wrong_former_names_are_refused(bench: Bench, formerly: Any) -> None:
    """Its own name and an empty one are no former names."""
    with pytest.raises(DefinitionError, match="formerly"):
        bench.function(WORK, formerly=formerly)


def test_the_hash_of_a_function_does_not_change_by_asking_for_another_name(bench: Bench) -> None:
    """Asking what the code would be under another name leaves the code as it is."""
    function: Callable[..., Any] = bench.function(WORK).function
    before = function_code(function)
    other = function_code(function, called="elsewhere")
    assert function_code(function).content_hash == before.content_hash != other.content_hash
    assert [key for key in before.parts if before.parts[key].digest != other.parts[key].digest] == ["body"]


# ---------------------------------------------------------------------------- types that grow


@pytest.mark.parametrize(("old", "new"), [("int", "float"), ("int", "int | None"), ("float", "float | None")])
@pytest.mark.parametrize("match", ["content", "environment"])
def test_results_of_a_narrower_type_are_cast(bench: Bench, old: str, new: str, match: MatchPolicy) -> None:
    """A wider return type casts what is stored; new results are stored in the new type beside it."""
    bench.run(
        bench.function(WORK.replace("-> int", f"-> {old}").replace("+ 1", "+ 1" if old == "int" else "+ 1.5")), match
    )
    text = WORK.replace("-> int", f"-> {new}").replace("+ 1", "+ 1" if old == "int" else "+ 1.5")
    report, values = bench.run(bench.function(text), match)
    assert report.computed == 0
    assert values == ([1, 4, 7] if old == "int" else [1.5, 4.5, 7.5])
    assert all(isinstance(value, float if "float" in new else int) for value in values)
    report, values = bench.run(bench.function(text), match, count=5)
    assert (report.computed, len(values)) == (2, 5)
    assert bench.run(bench.function(text), match, count=5)[0].computed == 0


@pytest.mark.parametrize("match", ["version", "signature"])
def test_a_wider_type_counts_only_where_the_code_is_asked_for(bench: Bench, match: MatchPolicy) -> None:
    """Under policies that do not ask for the code, other code with a wider type is not served what the old one made."""
    before = bench.function("def half(x: int) -> int:\n    return x // 2\n", "half")
    assert bench.run(before, match)[1] == [0, 0, 1]
    after = bench.function("def half(x: int) -> float:\n    return x / 2\n", "half")
    report, values = bench.run(after, match)
    assert (report.computed, values) == (3, [0.0, 0.5, 1.0])
    assert bench.run(after, match)[0].computed == 0


@pytest.mark.parametrize(("old", "new"), [("float", "int"), ("int | None", "int"), ("int", "str"), ("bool", "int")])
def test_types_that_lose_something_are_not_used(bench: Bench, old: str, new: str) -> None:
    """A narrower or another return type computes anew."""
    text = "def work(x: int) -> TYPE:\n    return CALL\n"
    calls = {"float": "float(x)", "int": "x * 1", "int | None": "x * 1", "str": "str(x)", "bool": "x > 1"}
    bench.run(bench.function(text.replace("TYPE", old).replace("CALL", calls[old])))
    assert bench.run(bench.function(text.replace("TYPE", new).replace("CALL", calls[new])), "version")[0].computed == 3


def test_a_value_that_is_no_float_is_computed_again(bench: Bench) -> None:
    """Of integers, those that a float holds exactly are cast, one by one; the others are not used."""
    text = "BIG = 2**53\n\n\ndef work(x: int) -> int:\n    return BIG + x\n"
    bench.run(bench.function(text), count=4)
    report, values = bench.run(bench.function(text.replace("-> int", "-> float")), count=4)
    assert report.computed + report.failed == 2
    assert report.cached == 2
    assert values == [2.0**53, 2.0**53 + 2]


def test_a_wider_type_with_other_code_does_not_count(bench: Bench) -> None:
    """Under "content" only the return annotation may differ; accepted, the rest may, too."""
    before = bench.function(WORK)
    bench.run(before)
    after = HELPER.replace("-> int", "-> float")
    assert bench.run(bench.function(after))[0].computed == 3
    bench.accept(before, bench.function(HELPER))
    assert bench.run(bench.function(after, function_name="work"), count=3)[0].cached == 3


def test_names_and_types_change_at_once(bench: Bench) -> None:
    """A renamed function whose type grew finds its results, too."""
    bench.run(bench.function(WORK))
    text = WORK.replace("def work", "def works").replace("-> int", "-> float")
    report, values = bench.run(bench.function(text, "works", formerly="work"))
    assert (report.computed, values) == (0, [1.0, 4.0, 7.0])


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (pa.int32(), pa.int64(), "all"),
        (pa.int64(), pa.int32(), None),
        (pa.uint32(), pa.int64(), "all"),
        (pa.uint64(), pa.int64(), None),
        (pa.int8(), pa.uint16(), None),
        (pa.int32(), pa.float64(), "all"),
        (pa.int64(), pa.float64(), "some"),
        (pa.uint64(), pa.float64(), "some"),
        (pa.int32(), pa.float32(), "some"),
        (pa.float32(), pa.float64(), "all"),
        (pa.float64(), pa.float32(), None),
        (pa.bool_(), pa.int64(), None),
        (pa.decimal128(10, 2), pa.decimal128(12, 4), "all"),
        (pa.decimal128(10, 2), pa.decimal128(11, 4), None),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), "some"),
        (pa.list_(pa.int32(), 3), pa.list_(pa.int64(), 3), "all"),
        (pa.list_(pa.int32(), 3), pa.list_(pa.int64()), None),
        (pa.list_(pa.field("i", pa.int32(), True)), pa.list_(pa.field("i", pa.int32(), False)), None),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.int64())]), "all"),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.int32()), ("b", pa.int32())]), None),
        (pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64()), "all"),
        (pa.map_(pa.int32(), pa.int32()), pa.map_(pa.int64(), pa.int32()), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.string(), pa.large_string(), "all"),
        (pa.string(), pa.binary(), None),
    ],
)
def test_what_is_a_wider_type(before: pa.DataType, after: pa.DataType, found: str | None) -> None:
    """Each pair of types is wider, wider for some values, or not."""
    assert widening(pa.field("y", before), pa.field("y", after)) == found


def test_rows_left_out_keep_positions_right() -> None:
    """Scan, take and find of a table of which rows are left out speak of the same rows."""
    key = pa.array([bytes([i]) for i in range(5)], pa.binary())
    inner = MemorySource(pa.table({"k": key, "y": pa.array([1, 2**53 + 1, 3, 2**63 - 1, None], pa.int64())}))
    schema = pa.schema([("k", pa.binary()), ("y", pa.float64()), ("e", pa.string())])
    source = WidenedSource(inner, schema, ["y"])
    whole = pa.Table.from_batches(source.scan(["y", "e", "k"]))
    assert whole["y"].to_pylist() == [1.0, 3.0, None]
    assert source.num_rows == 3
    assert source.take(pa.array([2, 1], pa.int64()), ["k", "y"])["k"].to_pylist() == [b"\x04", b"\x02"]
    positions, rows = source.find("k", pa.array([b"\x03", b"\x02", b"\x04"], pa.binary()), ["y"])
    assert positions.to_pylist() == [1, 2]
    assert rows["y"].to_pylist() == [3.0, None]


# ---------------------------------------------------------------------------- equivalence by itself


def _part(*changes: tuple[str, str | None, str | None]) -> Acceptance:
    import datetime as dt

    said = {part: (before, after) for part, before, after in changes}
    return Acceptance("i", PART, "f", "?", "??", said, "", "", "", "ann", dt.datetime.now(dt.UTC), "r")


@pytest.mark.parametrize(
    ("accepted", "other", "same"),
    [
        ([_part(("h", "1", "2"))], {"h": "2", "b": "1"}, True),
        ([_part(("h", "2", "1"))], {"h": "2", "b": "1"}, True),
        ([_part(("h", "1", "3")), _part(("h", "2", "3"))], {"h": "2", "b": "1"}, True),
        ([_part(("h", "1", "2"))], {"h": "3", "b": "1"}, False),
        ([_part(("h", "1", None))], {"b": "1"}, True),
        ([_part(("h", "1", "2")), _part(("b", "1", "2"))], {"h": "2", "b": "2"}, True),
        ([_part(("h", "1", "2"), ("b", "1", "2"))], {"h": "2", "b": "2"}, True),
        ([_part(("h", "1", "2"), ("b", "1", "2"))], {"h": "2", "b": "1"}, False),
        ([_part(("h", "1", "3")), _part(("h", "3", "2"), ("b", "1", "2"))], {"h": "2", "b": "2"}, True),
        ([_part(("g", "1", "2"))], {"h": "1", "b": "1", "g": "1"}, False),
        ([_part(("h", "1", None)), _part(("h", None, "2"))], {"h": "2", "b": "1"}, False),
        ([_part(("h", "1", None)), _part(("h", None, "2"))], {"b": "1"}, True),
        ([_part(("h", "1", "2")), _part(("h", "2", None))], {"b": "1"}, True),
        ([_part(("h", None, "2")), _part(("h", "2", "1"))], {"b": "1"}, True),
        ([_part(("h", None, "2")), _part(("h", "1", None), ("b", "1", "2"))], {"h": "2", "b": "2"}, False),
        ([_part(("h", "3", None)), _part(("h", "1", "3"), ("b", "1", "2"))], {"b": "2"}, False),
    ],
)
def test_parts_that_are_covered(accepted: list[Acceptance], other: dict[str, str], same: bool) -> None:
    """Two versions are one exactly when each part that differs is covered."""
    found = equivalents({"now": {"h": "1", "b": "1"}}, {"other": other}, accepted)
    assert ("other" in found) is same


def test_an_identity_covers_what_counted_for_it() -> None:
    """A larger set of versions covers a smaller one, and one without a signature all signatures; nothing else does."""

    def identity(contents: list[str], signature: str | None = None, place: str = "p") -> str:
        asked = {"content": contents, **({} if signature is None else {"signature": [signature]})}
        return json.dumps([[place, "content", "m"], asked])

    assert covers(identity(["A", "B"]), identity(["A"], "s"))
    assert covers(identity(["A"], "s"), identity(["A"], "s"))
    assert not covers(identity(["A"], "s"), identity(["A"], "t"))
    assert not covers(identity(["A"], "s"), identity(["A", "B"]))
    assert not covers(identity(["A"], "s"), identity(["A"]))
    assert not covers(identity(["A"], place="a,p"), identity(["A"], place="a"))
    assert not covers(identity(["A"], "s"), "")
    assert not covers(identity(["A"], "s"), "p|content|s|A|m")
