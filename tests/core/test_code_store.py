"""The code of results: kept part by part, so that a reason can say what changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core import PythonPacketFunction, ResultCache, columns as names, delta
from orcapod_dagster.core.code_store import CODE_PATH, CodeStore
from orcapod_dagster.core.contexts import ENVIRONMENT_FIELD
from orcapod_dagster.core.databases import DeltaTableDatabase, InMemoryArrowDatabase
from orcapod_dagster.core.identity import Environment, environment_of
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput


def loaded(text: str, folder: Path) -> Callable[..., Any]:
    """Return the function `work` of a file with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "steps.py"
    file.write_text(text)
    space: dict[str, Any] = {"__name__": "steps", "__file__": str(file)}
    exec(compile(text, str(file), "exec"), space)
    return space["work"]


def run(database: Any, function: Callable[..., Any], count: int = 3, match: Any = "content") -> PodReport:
    """Run a function over the numbers below `count`."""
    packet_function = PythonPacketFunction(function, "y", function_name="work")
    pod = FunctionPod(packet_function, ResultCache(database, ("r",)), OutcomeLog(database, ("o",)), match=match)
    source = MemorySource(pa.table({"id": range(count), "x": range(count)}))
    plan = pod.plan(PacketStream.open([StreamInput("numbers", source, {})], ("id",), {}))
    report = pod.compute(plan)
    pod.assemble(plan, report)
    return report


WORK = "LIMIT = 3\n\n\ndef scale(x):\n    return x * LIMIT\n\n\ndef work(x: int, by: int = 2) -> int:\n    return scale(x) + by\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("x * LIMIT", "x + LIMIT", "the code changed: helper steps.scale"),
        ("LIMIT = 3", "LIMIT = 4", "the code changed: constant steps.LIMIT"),
        ("scale(x) + by", "scale(x) - by", "the code changed: body"),
        (
            "scale(x) + by",
            "x + by",
            "the code changed: body, constant steps.LIMIT (removed), helper steps.scale (removed)",
        ),
    ],
)
def test_a_changed_part_is_named(old: str, new: str, reason: str, tmp_path: Path) -> None:
    """Each packet that is computed anew for an edit has the name of what was edited; new ones have none."""
    database = InMemoryArrowDatabase()
    run(database, loaded(WORK, tmp_path / "a"))
    report = run(database, loaded(WORK.replace(old, new), tmp_path / "b"), count=5)
    assert report.reasons == {reason: 3, "no earlier result": 2}
    assert run(database, loaded(WORK, tmp_path / "c"), count=3).cached == 3


def test_sources_are_kept_and_constants_are_not(tmp_path: Path) -> None:
    """Old source can be shown; the value of a constant is nowhere in the store; equal code is stored once."""
    database = DeltaTableDatabase(str(tmp_path / "lake"))
    secret = WORK.replace("LIMIT = 3", "LIMIT = 31415926")
    function = loaded(secret, tmp_path / "a")
    for _ in range(2):
        run(database, function)
    (row,) = pa.Table.from_batches(database.source(CODE_PATH).scan(["digests", "sources", "content_hash"])).to_pylist()
    assert dict(row["sources"])["helper steps.scale"].strip() == "def scale(x):\n    return x * LIMIT"
    assert set(dict(row["digests"])) == {"body", "default by", "helper steps.scale", "constant steps.LIMIT"}
    assert "31415926" not in str(row)
    stored = CodeStore(database).codes([row["content_hash"], "unknown"])
    assert stored[row["content_hash"]].function_name == "work"


def test_environment_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another version of a distribution counts under "environment" alone, is named, and going back finds the results again."""
    database = InMemoryArrowDatabase()
    function = loaded("import yaml\n\n\ndef work(x: int) -> int:\n    return x + len(yaml.dump(x))\n", tmp_path)
    assert run(database, function).computed == 3
    before = PythonPacketFunction(function, "y").get_environment()
    assert set(before.versions) == {"Python", "PyYAML"}
    newer = Environment({**before.versions, "PyYAML": "99.0"})
    monkeypatch.setattr(PythonPacketFunction, "get_environment", lambda _: newer)
    assert run(database, function, match="content").cached == 3
    report = run(database, function, match="environment")
    assert report.reasons == {f"the environment changed: PyYAML {before.versions['PyYAML']} → 99.0": 3}
    monkeypatch.undo()
    assert run(database, function, match="environment").cached == 3


def test_unknown_libraries_and_the_standard_library() -> None:
    """A module that no distribution installed counts as unknown; the standard library counts by Python's version."""
    versions = environment_of({"json", "no_such_library"}).versions
    assert set(versions) == {"Python", "no_such_library"}
    assert versions["no_such_library"] == "unknown"


def test_results_of_before_there_was_the_column(tmp_path: Path) -> None:
    """A result table without the column of the environment gains it with the next results, and its rows still count."""
    database = DeltaTableDatabase(str(tmp_path / "lake"))
    function = loaded(WORK, tmp_path / "a")
    run(database, function)
    records = pa.Table.from_batches(database.source(("r",)).scan(database.source(("r",)).schema.names))
    old = DeltaTableDatabase(str(tmp_path / "old"))
    delta.append(old.uri(("r",)), records.drop_columns([names.ENVIRONMENT_HASH]).to_reader)
    assert run(old, function, match="content").cached == 3
    report = run(old, function, match="environment")
    assert (report.computed, report.reasons) == (3, {"the environment changed": 3})
    assert ENVIRONMENT_FIELD.name in old.source(("r",)).schema.names
    assert run(old, function, match="environment").cached == 3


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_swapped_output_keys_are_another_function(kind: str, tmp_path: Path) -> None:
    """Names of outputs in another order take no values of each other, are named as the cause, and share one table."""
    database = InMemoryArrowDatabase() if kind == "memory" else DeltaTableDatabase(str(tmp_path / "lake"))
    function = loaded("def work(x: int) -> tuple[int, int]:\n    return x, -x\n", tmp_path)
    source = PacketStream.open([StreamInput("n", MemorySource(pa.table({"id": [1], "x": [5]})), {})], ("id",), {})

    def outputs(keys: list[str]) -> tuple[Any, Any]:
        packet_function = PythonPacketFunction(function, keys, function_name="work")
        pod = FunctionPod(packet_function, ResultCache(database, ("r",)), OutcomeLog(database, ("o",)))
        plan = pod.plan(source)
        pod.compute(plan)
        records = database.source(("r",))
        assert records is not None
        return plan.reasons.counts(), pa.Table.from_batches(records.scan(["lo", "hi"])).to_pylist()

    assert outputs(["lo", "hi"]) == ({"no earlier result": 1}, [{"lo": 5, "hi": -5}])
    reasons, rows = outputs(["hi", "lo"])
    assert reasons == {"the code changed: outputs": 1}
    assert sorted(row["lo"] for row in rows) == [-5, 5]
    assert all(row["hi"] == -row["lo"] for row in rows)
    assert outputs(["lo", "hi"])[0] == {}
