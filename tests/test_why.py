"""Why one row is as it is, outside of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from desk_project import Project, source

from orcapod_dagster import File, packet_asset
from orcapod_dagster.core import PythonPacketFunction
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.identity import Environment
from orcapod_dagster.desk import Desk, Why, packet_row, why


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A fresh project."""
    one = Project(tmp_path / "lake")
    yield one
    one.instance.dispose()


def rows(x: float, note: str = "short") -> pa.Table:
    """Return two rows, of which the first has these values."""
    return pa.table({"id": ["a", "b"], "x": [x, 2.0], "note": [note, "other"], "unused": [x, 0.0]})


def size(x: float, note: str, by: int = 1) -> float:
    """Return a number made of both."""
    return x * by + len(note)


def asset_of(function: Any = size, **options: Any) -> Any:
    """Return the packet asset `made` of a function over `numbers`."""
    given: dict[str, Any] = {
        "inputs": "numbers",
        "tag_columns": ["id"],
        "output_keys": ["y"],
        "name": "made",
        **options,
    }
    return packet_asset(function, **given)


def asked(project: Project, table: Any, made: dg.AssetsDefinition, tag: Any = "a", **options: Any) -> Why:
    """Ask why of one row, and hold that nothing of the lake changed."""
    before = project.files()
    found = why(project.definitions(source("numbers", table), made), "made", tags={"id": tag}, **options)
    assert project.files() == before
    found.describe().encode()
    return found


def test_a_cached_row_says_what_it_was_made_for(project: Project) -> None:
    """A row whose result counts is cached; its run and time are told, and that it was new then."""
    done = project.run(source("numbers", rows(1.0)), asset_of())
    found = asked(project, rows(1.0), asset_of())
    assert (found.cached, found.next_run) == (True, "uses the stored result")
    assert (found.code, found.columns, found.note) == ((), {}, "")
    assert found.stored["run"] == done.run_id
    assert found.made_because == "no earlier result of this packet"
    assert done.run_id in found.describe()


def test_changed_code_is_shown_and_told_later(project: Project) -> None:
    """Before the run the parts and their difference are shown; after it the result says what it was computed for."""

    def other(x: float, note: str, by: int = 1) -> float:
        return x - by + len(note)

    other.__name__ = "size"
    project.run(source("numbers", rows(1.0)), asset_of())
    found = asked(project, rows(1.0), asset_of(other))
    assert (found.cached, found.next_run) == (False, "computes it: the code changed: body")
    assert [part.part for part in found.code] == ["body"]
    assert "-    return x * by + len(note)" in found.code[0].diff
    assert "+        return x - by + len(note)" in found.describe()
    project.run(source("numbers", rows(1.0)), asset_of(other))
    later = asked(project, rows(1.0), asset_of(other))
    assert (later.cached, later.made_because) == (True, "the code changed: body")


def test_the_changed_column_is_named_with_both_values(project: Project) -> None:
    """Of a changed input, the consumed columns that differ are named, long values cut to where they differ, and no others."""
    project.run(source("numbers", rows(1.0, "long " * 100)), asset_of())
    for step in range(3):
        project.run(source("numbers", rows(7.0 + step, "long " * 99 + "gone ")), selection=["numbers"])
    found = asked(project, None, asset_of())
    assert found.next_run == "computes it: the input changed"
    assert found.columns["x"] == ("1.0", "9.0")
    then, now = found.columns["note"]
    assert "long" in then
    assert "gone" in now
    assert max(len(then), len(now)) <= 82
    assert set(found.columns) == {"x", "note"}
    assert asked(project, None, asset_of(), tag="b").cached


def test_an_earlier_input_that_is_not_known(project: Project) -> None:
    """Where the input has no versions, the row says that its earlier input is not known."""
    made = asset_of()
    project.resources = {key: one for key, one in project.resources.items() if key != "io_manager"}
    project.resources["io_manager"] = dg.FilesystemIOManager(base_dir=str(project.root.parent / "files"))
    project.run(source("numbers", rows(1.0)), made)
    project.run(source("numbers", rows(2.0)), selection=["numbers"])
    found = asked(project, None, made)
    assert (found.next_run, found.columns) == ("computes it: the input changed", {})
    assert "not known any more" in found.note


def test_another_packet_asset_computed_the_result(project: Project) -> None:
    """A row whose result an asset of another name made is compared with what its own table was made from."""
    project.run(source("numbers", rows(1.0)), source("others", rows(1.0)), asset_of(inputs="others", name="first"))
    project.run(source("numbers", rows(1.0)), asset_of())
    project.run(source("numbers", rows(3.0)), selection=["numbers"])
    assert asked(project, None, asset_of()).columns == {"x": ("1.0", "3.0")}


def test_defaults_params_and_new_rows(project: Project) -> None:
    """What is alike for all rows is named in place of a column; a row whose tags are new has no earlier result."""
    project.run(source("numbers", rows(1.0)), asset_of(params={"by": 1}))
    found = asked(project, rows(1.0), asset_of(params={"by": 2}))
    assert (found.next_run, found.columns) == ("computes it: params changed: by", {})
    more = pa.concat_tables([rows(1.0), pa.table({"id": ["c"], "x": [5.0], "note": ["new"], "unused": [1.0]})])
    project.run(source("numbers", more), selection=["numbers"])
    new = asked(project, None, asset_of(params={"by": 1}), tag="c")
    assert (new.next_run, new.made_because) == ("computes it: no earlier result", None)
    assert "there is no stored result" in new.describe()
    with pytest.raises(InputError, match="no input rows"):
        asked(project, None, asset_of(), tag="d")


def test_environments_and_failures(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed distribution is named, before and after; a result that was made after a failure says so."""
    project.run(source("numbers", rows(1.0)), asset_of(match="environment"))
    versions = PythonPacketFunction(size, "y").get_environment().versions
    newer = Environment({**versions, "numpy": "99.0"})
    monkeypatch.setattr(PythonPacketFunction, "get_environment", lambda _: newer)
    reason = "the environment changed: numpy (not used) → 99.0"
    assert asked(project, rows(1.0), asset_of(match="environment")).next_run == f"computes it: {reason}"
    assert asked(project, rows(1.0), asset_of()).cached
    project.run(source("numbers", rows(1.0)), asset_of(match="environment"))
    assert asked(project, rows(1.0), asset_of(match="environment")).made_because == reason
    broken = project.root / "broken"
    broken.touch()

    def failing(x: float) -> float:
        if broken.exists():
            raise ValueError("not yet")
        return x

    made = asset_of(failing, ignore=["broken"], on_error="continue")
    project.run(source("numbers", rows(1.0)), made)
    assert asked(project, rows(1.0), made).next_run == "computes it: an earlier failure"
    broken.unlink()
    project.run(source("numbers", rows(1.0)), made)
    assert asked(project, rows(1.0), made).made_because == "an earlier failure"


def test_a_file_with_other_content(project: Project, tmp_path: Path) -> None:
    """A file that was written anew under its old name is a changed input, of which the earlier content is not known."""
    file = tmp_path / "data.txt"
    file.write_text("one")

    def read(path: File) -> str:
        return path.read_text()

    table = pa.table({"id": ["a"], "path": [str(file)]})
    project.run(source("numbers", table), asset_of(read))
    file.write_text("another")
    found = asked(project, table, asset_of(read))
    assert (found.next_run, found.columns) == ("computes it: the input changed", {})
    assert found.note


def test_partitions(project: Project) -> None:
    """Of an asset with partitions, the row's own partition is looked at, found by its values or named."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    state = {"x": 1.0}

    @dg.asset(partitions_def=days, metadata={"partition_expr": "day"})
    def numbers(context) -> pa.Table:  # pyright: ignore[reportMissingParameterType]  # dagster takes no annotation that is text
        day = context.partition_key
        return pa.table({"id": [f"{day}1"], "day": [day], "x": [state["x"]]})

    def twice(x: float) -> float:
        return x * 2

    made = asset_of(twice, partitions_def=days, carry=["day"])
    for day in ("mon", "tue"):
        project.run(numbers, made, partition_key=day)
    state["x"] = 5.0
    project.run(numbers, partition_key="tue")
    with Desk(project.definitions(numbers, made)) as desk:
        tue = why(desk, made, tags={"id": "tue1"})
        assert (tue.partition, tue.columns) == ("tue", {"x": ("1.0", "5.0")})
        assert why(desk, made, tags={"id": "mon1"}, partition="mon").cached
        assert packet_row(desk, made, tags={"id": "tue1"}).next_run == "computes it: the input changed"


def test_the_command(project: Project, tmp_path: Path) -> None:
    """The command line says the same."""
    module = tmp_path / "defs_of_why.py"
    module.write_text(
        f"""import dagster as dg
import pyarrow as pa
from orcapod_dagster import packet_asset, packet_resources

@dg.asset
def numbers() -> pa.Table:
    return pa.table({{"id": ["a"], "x": [1.0]}})

def twice(x: float) -> float:
    return x * 2

made = packet_asset(twice, inputs="numbers", tag_columns=["id"], output_keys=["y"])
defs = dg.Definitions([numbers, made], resources=packet_resources({str(project.root)!r}, as_default=True))
"""
    )
    space: dict[str, Any] = {"__name__": "defs_of_why", "__file__": str(module)}
    exec(compile(module.read_text(), str(module), "exec"), space)
    project.run(space["numbers"], space["made"])
    module.write_text(module.read_text().replace("x * 2", "x * 3"))
    done = subprocess.run(
        [sys.executable, "-m", "orcapod_dagster", "why", "twice", "--tag", "id=a", "-f", str(module)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the next run computes it: the code changed: body" in done.stdout
    assert "-    return x * 2\n" in done.stdout
