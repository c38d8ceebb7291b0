"""One packet on the desk: found by its tags outside of a run, and its function called with it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from desk_project import NUMBERS, Project, source

from orcapod_dagster import Blob, File, SkipPacket, packet_asset
from orcapod_dagster.core.errors import DefinitionError, InputError, PartitionError
from orcapod_dagster.core.tag_values import tag_array, tag_text
from orcapod_dagster.desk import Desk, packet_row


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path / "lake")
    yield one
    one.instance.dispose()


def invert(x: int, digits: int = 3) -> float:
    return round(1 / x, digits)


def invert_asset(**options: Any) -> dg.AssetsDefinition:
    return packet_asset(invert, inputs="numbers", tag_columns=["id"], output_keys=["y"], **options)


def test_a_packet_with_its_arguments_and_result(project: Project) -> None:
    """Arguments are those of a run (defaults and params included); result and table row say what made them."""
    numbers, inverted = source("numbers", NUMBERS), invert_asset(on_error="continue", params={"digits": 1})
    run = project.run(numbers, inverted)
    row = packet_row(project.definitions(numbers, inverted), "invert", tags={"id": "a"})
    assert row.arguments == {"x": 4, "digits": 1}
    assert row.call() == 0.2
    assert row.result is not None
    assert row.table_row is not None
    assert row.result["y"].to_pylist() == row.table_row["y"].to_pylist() == [0.2]
    assert row.result["__record_id"].to_pylist() == row.table_row["__record_id"].to_pylist()
    assert row.result["__input_packet_hash"][0].as_py() == row.input_hash.digest
    extra = dict(row.result["__pf_exec_extra_info"][0].as_py())
    assert extra["run_id"] == run.run_id
    assert extra["input_versions"] == '{"numbers": 1}'
    assert (row.next_run, row.outcome, row.other_results) == ("uses the stored result", None, None)
    assert "y = 0.2" in row.describe()
    assert run.run_id in row.describe()


def test_a_failed_packet_with_its_error(project: Project) -> None:
    """A failed packet has its newest failure with the traceback; calling it raises the function's own exception."""
    numbers, inverted = source("numbers", NUMBERS), invert_asset()
    assert not project.run(numbers, inverted, raises=False).success
    row = packet_row(project.definitions(numbers, inverted), "invert", tags={"id": "b"})
    assert row.outcome is not None
    assert row.outcome["error_type"].to_pylist() == ["ZeroDivisionError"]
    assert "return round(1 / x, digits)" in row.outcome["traceback"][0].as_py()
    assert (row.result, row.table_row) == (None, None)
    assert row.next_run == "computes it: an earlier failure"
    with pytest.raises(ZeroDivisionError):
        row.call()
    assert "return round(1 / x, digits)" in row.describe()


def test_what_a_packet_printed_and_logged(project: Project) -> None:
    """A packet has what it printed and logged in the runs that computed it."""

    def say(x: int) -> int:
        print("got", x)  # it is what is tested
        logging.getLogger("mine").warning("careful with %s", x)
        return x

    numbers = source("numbers", NUMBERS)
    asset = packet_asset(say, inputs=numbers, tag_columns=["id"], output_keys=["y"])
    project.run(numbers, asset)
    row = packet_row(project.definitions(numbers, asset), "say", tags={"id": "a"})
    assert sorted(zip(row.logs["stream"].to_pylist(), row.logs["text"].to_pylist(), strict=True)) == [
        ("log", "careful with 4"),
        ("stdout", "got 4\n"),
    ]
    assert "    stdout: got 4" in row.describe()
    assert "    WARNING: careful with 4" in row.describe()


def test_failures_of_a_materialization_have_the_command(project: Project) -> None:
    """With on_error="continue", the table of failures has the command for each; the place of the definitions is left open here."""
    result = project.run(source("numbers", NUMBERS), invert_asset(on_error="continue"))
    (event,) = result.asset_materializations_for_node("invert")
    (record,) = event.metadata["orcapod/failures"].records  # type: ignore[union-attr]
    assert record.data["command"] == "python -m orcapod_dagster row invert --tag id=b -m YOUR_DEFINITIONS --call"


def test_results_of_other_code_are_told_apart(project: Project) -> None:
    """After an edit the packet has no result that counts; the one of the code before is shown as another."""

    def make(by: int) -> dg.AssetsDefinition:
        def add(x: int) -> int:
            return x + by

        return packet_asset(add, inputs="numbers", tag_columns=["id"], output_keys=["y"])

    numbers = source("numbers", NUMBERS)
    project.run(numbers, make(1))
    row = packet_row(project.definitions(numbers, make(2)), "add", tags={"id": "a"})
    assert row.result is None
    assert row.other_results is not None
    assert row.other_results["y"].to_pylist() == [5]
    assert row.next_run == "computes it: the code changed: closure by"
    assert row.call() == 6


def test_skipped_and_refused_packets(project: Project) -> None:
    """A skipped packet says that it is skipped again; one that the function does not take says why."""

    def keep(x: int) -> int:
        if x == 0:
            raise SkipPacket("zero")
        return x

    rows = pa.table({"id": [1, 2, 3], "x": [1, 0, None]})
    numbers = source("numbers", rows)
    kept = packet_asset(keep, inputs=numbers, tag_columns=["id"], output_keys=["y"], on_error="continue")
    project.run(numbers, kept)
    definitions = project.definitions(numbers, kept)
    skipped = packet_row(definitions, "keep", tags={"id": 2})
    assert skipped.next_run == "skips it, as before"
    assert skipped.outcome is not None
    assert skipped.outcome["state"].to_pylist() == ["SKIPPED"]
    refused = packet_row(definitions, "keep", tags={"id": "3"})
    assert refused.refused is not None
    assert "'x' is null" in refused.refused
    assert refused.next_run.startswith("counts it as failed")


def test_nothing_is_stored(project: Project, tmp_path: Path) -> None:
    """Looking at a packet and calling its function leave every file of the lake as it is, digests and blobs included."""
    (tmp_path / "one.txt").write_text("hello")
    paths = source("paths", pa.table({"id": [1], "path": [str(tmp_path / "one.txt")]}))

    def whole(path: File) -> Blob:
        return Blob(Path(path).read_bytes() * 10_000, "text/plain")

    asset = packet_asset(whole, inputs=paths, tag_columns=["id"], output_keys=["data"])
    project.run(paths, asset)
    (tmp_path / "one.txt").write_text("other")
    before = project.files()
    row = packet_row(project.definitions(paths, asset), "whole", tags={"id": 1})
    assert row.next_run == "computes it: the input changed"
    assert row.call().read() == b"other" * 10_000
    assert project.files() == before


def test_large_values_can_be_opened(project: Project) -> None:
    """An argument that is a large value of the lake is opened as in a run."""

    def big(x: int) -> Blob:
        return Blob(bytes([x]) * 100_000)

    def size(data: Blob) -> int:
        return len(data.read())

    numbers = source("numbers", NUMBERS)
    made = packet_asset(big, inputs=numbers, tag_columns=["id"], output_keys=["data"])
    sized = packet_asset(size, inputs=made, output_keys=["bytes"])
    project.run(numbers, made, sized)
    row = packet_row(project.definitions(numbers, made, sized), "size", tags={"id": "c"})
    assert row.call() == 100_000


def test_joins_renames_and_inherited_tags(project: Project) -> None:
    """Of a join, the packet has the columns of both inputs; renamed columns and tags are found by their new names."""
    left = source("left", pa.table({"key": [1, 2], "value": [1.5, math.nan]}))
    right = source("right", pa.table({"id": [2, 1], "site": ["p", "q"]}))

    def name(x: float, *, site: str) -> str:
        return f"{site}{x}"

    asset = packet_asset(
        name, inputs=[left, right], tag_columns=["id"], output_keys=["n"], rename={"key": "id", "value": "x"}
    )
    project.run(left, right, asset)
    row = packet_row(project.definitions(left, right, asset), asset, tags={"id": 1})
    assert row.arguments == {"x": 1.5, "site": "q"}
    assert (row.positional, row.keyword, row.call()) == ([1.5], {"site": "q"}, "q1.5")


def test_async_functions_run_to_their_end(project: Project) -> None:
    """An async function is called like any other, also where a loop is running."""

    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    numbers = source("numbers", NUMBERS)
    asset = packet_asset(slow, inputs=numbers, tag_columns=["id"], output_keys=["y"])
    project.run(numbers, asset)
    row = packet_row(project.definitions(numbers, asset), "slow", tags={"id": "a"})

    async def inside() -> Any:
        return row.call()

    assert (row.call(), asyncio.run(inside())) == (5, 5)


def test_the_asset_alone_and_the_lake_by_its_root(project: Project) -> None:
    """The packet asset itself and the root of the lake are enough where its inputs lie there."""
    numbers, inverted = source("numbers", NUMBERS), invert_asset(on_error="continue")
    project.run(numbers, inverted)
    row = packet_row(inverted, tags={"id": "c"}, root_uri=str(project.root))
    assert (row.arguments["x"], row.call()) == (2, 0.5)


def test_inputs_of_other_io_managers(project: Project, tmp_path: Path) -> None:
    """An input that another IO manager keeps is loaded by that one."""
    numbers = source("numbers", NUMBERS, io_manager_key="files")
    inverted = invert_asset(on_error="continue")
    project.resources["files"] = dg.FilesystemIOManager(base_dir=str(tmp_path / "files"))
    project.run(numbers, inverted)
    assert packet_row(project.definitions(numbers, inverted), "invert", tags={"id": "a"}).call() == 0.25


def test_assets_with_another_key_are_found_under_it(project: Project) -> None:
    """An asset that Dagster gave another key (as a prefix for a whole module does) is found under that key."""
    numbers, inverted = source("numbers", NUMBERS), invert_asset(on_error="continue")
    moved = inverted.with_attributes(asset_key_replacements={inverted.key: dg.AssetKey(["team", "invert"])})
    definitions = project.definitions(numbers, moved)
    definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=project.instance)
    with Desk(definitions) as desk:
        assert desk.spec("team/invert").key == dg.AssetKey(["team", "invert"])


def test_partitions_are_found_by_the_row(project: Project) -> None:
    """Of a partitioned asset, the partition is found by the row's values, also of a packet that failed."""
    days = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
    options: dict[str, Any] = {"partitions_def": days, "metadata": {"partition_expr": "day"}}

    @dg.asset(**options)
    def events(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        day = dt.date.fromisoformat(context.partition_key)
        return pa.table({"day": [day, day], "id": [1, 2], "x": [day.day, 0]})

    def invert_it(x: int) -> float:
        return 1 / x

    asset = packet_asset(
        invert_it, inputs=events, tag_columns=["day", "id"], output_keys=["y"], partitions_def=days, on_error="continue"
    )
    for key in ("2024-01-02", "2024-02-01"):
        project.run(events, asset, partition_key=key)
    definitions = project.definitions(events, asset)
    row = packet_row(definitions, "invert_it", tags={"day": "2024-01-02", "id": 1})
    assert (row.partition, row.arguments) == ("2024-01-02", {"x": 2})
    failed = packet_row(definitions, "invert_it", tags={"day": dt.date(2024, 2, 1), "id": 2})
    assert (failed.partition, failed.next_run) == ("2024-02-01", "computes it: an earlier failure")
    with pytest.raises(PartitionError, match="no partition '2025-01-01'"):
        packet_row(definitions, "invert_it", tags={"day": "2024-01-02", "id": 1}, partition="2025-01-01")
    with pytest.raises(InputError, match="neither its table nor its inputs"):
        packet_row(definitions, "invert_it", tags={"day": "2024-01-02", "id": 9})


def test_tags_that_stand_in_several_partitions_need_the_partition(project: Project) -> None:
    """Where a tag stands in several partitions, they are named, and the partition that is given decides, by mapping, too."""
    sites = dg.DynamicPartitionsDefinition(name="sites")
    project.instance.add_dynamic_partitions("sites", ["p", "q"])
    options: dict[str, Any] = {"partitions_def": sites, "metadata": {"partition_expr": "site"}}

    @dg.asset(**options)
    def events(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        return pa.table({"site": [context.partition_key], "id": [1], "x": [ord(context.partition_key)]})

    def same(x: int) -> int:
        return x

    asset = packet_asset(
        same, inputs=events, tag_columns=["id"], carry=["site"], output_keys=["y"], partitions_def=sites
    )
    for key in ("p", "q"):
        project.run(events, asset, partition_key=key)
    definitions = project.definitions(events, asset)
    with pytest.raises(PartitionError, match="stands in the partitions p, q"):
        packet_row(definitions, "same", tags={"id": 1}, instance=project.instance)
    row = packet_row(definitions, "same", tags={"id": 1}, partition="q", instance=project.instance)
    assert row.arguments == {"x": ord("q")}
    assert row.table_row is not None
    assert row.table_row["site"].to_pylist() == ["q"]


def test_partitions_of_two_dimensions(project: Project) -> None:
    """The cell of a row is found by both of its columns."""
    cells = dg.MultiPartitionsDefinition(
        {
            "day": dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01"),
            "site": dg.StaticPartitionsDefinition(["p", "q"]),
        }
    )
    options: dict[str, Any] = {
        "partitions_def": cells,
        "metadata": {"partition_expr": {"day": "on", "site": "site"}},
    }

    @dg.asset(**options)
    def events(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        keys = context.partition_key.keys_by_dimension
        day = dt.date.fromisoformat(keys["day"])
        return pa.table({"on": [day], "site": [keys["site"]], "x": [day.day]})

    asset = packet_asset(invert, inputs=events, tag_columns=["on", "site"], output_keys=["y"], partitions_def=cells)
    for site in ("p", "q"):
        project.run(events, asset, partition_key=dg.MultiPartitionKey({"day": "2024-01-04", "site": site}))
    row = packet_row(project.definitions(events, asset), "invert", tags={"on": "2024-01-04", "site": "q"})
    assert (row.partition, row.call()) == ("2024-01-04|q", 0.25)
    assert row.table_row is not None


@pytest.mark.parametrize(
    ("tags", "asset", "error", "text"),
    [
        ({"id": "z"}, "invert", InputError, "no input rows have the tags id=z"),
        ({}, "invert", InputError, r"has the tag columns \['id'\]"),
        ({"id": "a", "other": 1}, "invert", InputError, r"has the tag columns \['id'\]"),
        ({"id": 7}, "invert", InputError, "Tag id=7 is no string"),
        ({"id": "a"}, "numbers", DefinitionError, "is no packet asset"),
        ({"id": "a"}, "inverts", DefinitionError, "have no asset inverts; they have invert, numbers"),
    ],
)
def test_what_cannot_be_found_is_named(
    project: Project, tags: dict[str, Any], asset: str, error: type[Exception], text: str
) -> None:
    """Tags that no row has, that are missing, unknown or of another type, and other assets, are refused by name."""
    numbers, inverted = source("numbers", NUMBERS), invert_asset(on_error="continue")
    project.run(numbers, inverted)
    with pytest.raises(error, match=text):
        packet_row(project.definitions(numbers, inverted), asset, tags=tags)


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        (-3, pa.int16()), ("it's $5", pa.string()), (0.1, pa.float64()), (True, pa.bool_()), (b"\x00\xff", pa.binary()),
        (dt.date(2013, 1, 2), pa.date32()), (dt.datetime(2013, 1, 2, 3), pa.timestamp("us")), ([1, 2], pa.list_(pa.int64())),
        (dt.datetime(2013, 1, 2, 3, tzinfo=dt.UTC), pa.timestamp("us", "UTC")), (dt.timedelta(hours=1), pa.duration("us")),
    ],
)  # fmt: skip
def test_tags_as_text_come_back(value: Any, arrow_type: pa.DataType) -> None:
    """A tag's text, as a failure report prints it, is read as the same value of the column's type."""
    assert tag_array(tag_text(value), arrow_type, "t").equals(tag_array(value, arrow_type, "t"))


PROJECT = """
import dagster as dg
import pyarrow as pa
from orcapod_dagster import packet_asset, packet_resources

@dg.asset
def readings() -> pa.Table:
    return pa.table({"id": ["it's", "b c"], "x": [0, 2]})

@packet_asset(inputs=readings, tag_columns=["id"], output_keys=["y"], key_prefix="team")
def inverted(x: int) -> float:
    print("called with", x)
    return 1 / x

defs = dg.Definitions([readings, inverted], resources=packet_resources(root_uri="lake", as_default=True))
"""


def test_the_failure_report_prints_the_line_to_type(tmp_path: Path) -> None:
    """The line that a failed run prints, typed in a shell where it says, shows the packet and calls the function with it."""
    (tmp_path / "my_defs.py").write_text(PROJECT)
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    program = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "my_defs", "--select", "*"]
    ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = re.search(
        r"To call the function with this packet, in (.*?): python (-m orcapod_dagster row .*)", ran.stderr
    )
    assert found is not None, ran.stderr
    assert found[1] == str(tmp_path)
    line = f"{sys.executable} {found[2]}"
    typed = subprocess.run(
        line, shell=True, cwd=found[1], env=environment, capture_output=True, text=True, check=False
    )  # it is what a user types
    assert typed.returncode == 1, typed.stderr
    assert "team/inverted: id=it's" in typed.stdout
    assert "called with 0" in typed.stdout
    assert typed.stdout.rstrip().endswith("ZeroDivisionError: division by zero")
    assert DeltaTable(str(tmp_path / "lake/readings")).version() == 1
