"""Packets without an earlier result in the function's place: what other places know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core import PythonPacketFunction, ResultCache
from orcapod_dagster.core.arrow import rows_among
from orcapod_dagster.core.databases import DeltaTableDatabase, InMemoryArrowDatabase
from orcapod_dagster.core.earlier_rows import EarlierRows
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.paths import component_name, safe_component
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput


@pytest.fixture(params=["memory", "delta"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A database of each kind."""
    return InMemoryArrowDatabase() if request.param == "memory" else DeltaTableDatabase(str(tmp_path / "lake"))


def run(database: Any, function: PythonPacketFunction, count: int = 3, match: Any = "content") -> Plan:
    """Run a function over the numbers below `count`, and return what was planned."""
    cache = ResultCache(database, ("results", *function.uri))
    pod = FunctionPod(function, cache, OutcomeLog(database, ("outcomes", *function.uri)), match=match)
    source = MemorySource(pa.table({"id": range(count), "x": range(count)}))
    plan = pod.plan(PacketStream.open([StreamInput("numbers", source, {})], ("id",), {}))
    pod.assemble(plan, pod.compute(plan))
    return plan


def work(x: int) -> int:
    """Return the number."""
    return x


def spelled(x: int) -> str:
    """Return the number as text, to which an integer is not widened."""
    return str(x)


def test_children_of_a_path(database: Any) -> None:
    """The names below a path are found again as they were given, whatever characters they have; tables beside have none."""
    table = pa.table({"a": [1]})
    given = ["plain", "with:colon", "sl/ash", "Ümlaut", "_delta_log", ".", "a=3A", "%2F", ""]
    for name in given:
        database.append(("r", name, "v0"), table.to_reader)
    database.append(("r", "deeper", "v0", "t"), table.to_reader)
    assert database.children(("r",)) == sorted([*given, "deeper"])
    assert database.children(("r", "sl/ash")) == ["v0"]
    assert database.children(("r", "sl/ash", "v0")) == []
    assert database.children(("nothing",)) == []


def test_folder_names_that_nobody_gave() -> None:
    """A folder that no name makes is no name: the log of a table, a percent sign, an encoding in lower case, a name that was cut."""
    for folder in ("_delta_log", "%2F", "a b", "=3a", "=4", "=41", "a==", safe_component("x" * 300)):
        assert component_name(folder) is None


def test_another_version_is_named(database: Any) -> None:
    """Packets with a result under another major version have that for a reason, under each policy; new packets have none."""
    run(database, PythonPacketFunction(work, "y", version="v0.0"))
    plan = run(database, PythonPacketFunction(work, "y", version="v1.0"), 5)
    assert plan.reasons.counts() == {"the version changed: v0 → v1": 3, "no earlier result": 2}
    assert len(plan.recomputed.drop_null()) == 3
    later = run(database, PythonPacketFunction(work, "y", version="v2.0"), 5, match="version")
    assert later.reasons.counts() == {"the version changed: v1 → v2": 5}


def test_other_output_columns_are_named(database: Any) -> None:
    """Packets with a result of other output columns have these for a reason, by name and type."""
    run(database, PythonPacketFunction(work, "y", function_name="f"))
    plan = run(database, PythonPacketFunction(work, "z", function_name="f"))
    assert plan.reasons.counts() == {"the output columns changed: z (added), y (removed)": 3}
    plan = run(database, PythonPacketFunction(spelled, "z", function_name="f"))
    assert plan.reasons.counts() == {"the output columns changed: z int64 not null → string not null": 3}


def test_another_function_is_no_sibling(database: Any) -> None:
    """Results of a function with another name say nothing."""
    run(database, PythonPacketFunction(work, "y", function_name="f"))
    plan = run(database, PythonPacketFunction(work, "y", function_name="g"))
    assert plan.reasons.counts() == {"no earlier result": 3}


def test_tags_that_the_table_cannot_hold(tmp_path: Path) -> None:
    """Rows whose tags are no values of the table's types, or that lack its columns, are not known; a narrower type is."""
    function = PythonPacketFunction(work, "y")
    hashes = pa.array([b"0" * 16, b"1" * 16])
    table = pa.table({"id": pa.array([1, 2], pa.int64()), "__input_packet_hash": hashes})

    def texts(ids: pa.Array, held: pa.Table) -> list[str | None]:
        source = MemorySource(pa.table({"id": ids, "x": [5, 6]}))
        stream = PacketStream.open([StreamInput("numbers", source, {})], ("id",), {})
        return (
            EarlierRows(MemorySource(held), lambda: None)
            .explain(stream, hashes.take([1, 1]), function)
            .texts.to_pylist()
        )

    assert texts(pa.array(["one", "two"]), table) == [None, None]
    assert texts(pa.array([1.5, 2.0]), table) == [None, None]
    assert texts(pa.array([1, 2], pa.int8()), table) == ["the input changed", "its stored result is gone"]
    assert texts(pa.array([1, 2], pa.int64()), table.drop_columns(["id"])) == [None, None]


def test_many_rows_are_found_in_batches() -> None:
    """Rows among many values are found in their order, whatever the sizes of batches and values."""
    schema = pa.schema([("key", pa.binary()), ("at", pa.int64())])
    table = pa.table([[b"%d" % (i % 97) for i in range(1_000)], range(1_000)], schema=schema)
    for size, wanted in ((7, 3), (100, 50), (1, 97), (1_000, 1), (10, 0)):
        values = pa.array([b"%d" % i for i in range(wanted)], pa.binary())
        found = rows_among(table.to_batches(max_chunksize=size), schema, values)
        assert found["at"].to_pylist() == [i for i in range(1_000) if i % 97 < wanted]
    assert rows_among([], schema, pa.array([b"1"])).num_rows == 0


def test_a_broken_table_beside_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Results of another version that cannot be read are warned of, and the run goes on without that reason."""
    database = DeltaTableDatabase(str(tmp_path / "lake"))
    old = PythonPacketFunction(work, "y", version="v0.0")
    run(database, old)
    for file in Path(database.uri(("results", *old.uri))).glob("*.parquet"):
        file.write_bytes(b"no parquet")
    plan = run(database, PythonPacketFunction(work, "y", version="v1.0"))
    assert plan.reasons.counts() == {"no earlier result": 3}
    assert "cannot be read" in caplog.text
