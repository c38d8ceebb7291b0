"""The plan of packet assets outside of a run: in order, without a call or a written byte, in Python and as a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from test_dry_run import snapshot

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.cli import main
from orcapod_dagster.core.errors import DefinitionError, PartitionError
from orcapod_dagster.desk import AssetPlan, plan

PROJECT = """
import time
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster import packet_asset, packet_resources

SITES = dg.StaticPartitionsDefinition(["a", "b"])


def log(text):
    with open({calls!r}, "a") as file:
        file.write(text)


@dg.asset
def readings() -> pa.Table:
    return pa.table({{"id": range({rows}), "x": range({rows})}})


@packet_asset(inputs=readings, tag_columns=["id"], output_keys=["y"], ignore=["log"])
def first(x: int) -> int:
    log("f")
    time.sleep(0.002)
    return x + {added}


@dg.asset
def between(first: pa.Table) -> pa.Table:
    return first.select(["id", "y"])


@packet_asset(inputs=between, tag_columns=["id"], output_keys=["z"], ignore=["log"])
def last(y: int) -> int:
    log("l")
    return y * 2


@packet_asset(inputs=readings, tag_columns=["id"], output_keys=["z"], ignore=["log"])
def beside(x: int) -> int:
    log("b")
    return x


defs = dg.Definitions(
    [readings, first, between, last, beside], resources=packet_resources(root_uri={root!r}, as_default=True, recompute_limit_hours=0)
)
"""


class Project:
    """A project over a lake; each edit of it is a file of its own, for a process reads a module once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = folder / "lake"
        self.calls = folder / "calls"
        self.edits = 0
        self.write()

    def write(self, rows: int = 4, added: int = 1) -> None:
        self.edits += 1
        self.file = self.folder / f"edit{self.edits}" / "project.py"
        self.file.parent.mkdir()
        source = PROJECT.format(calls=str(self.calls), root=str(self.lake), rows=rows, added=added)
        self.file.write_text(source)

    def definitions(self) -> dg.Definitions:
        space: dict[str, Any] = {"__name__": "project", "__file__": str(self.file)}
        exec(compile(self.file.read_text(), str(self.file), "exec"), space)  # a module, edited between loads
        return space["defs"]

    def run(self, *assets: str, **tags: str) -> None:
        job = dg.define_asset_job("job", selection=list(assets) or "*")
        definitions = dg.Definitions.merge(self.definitions(), dg.Definitions(jobs=[job]))
        with dg.DagsterInstance.ephemeral() as instance:
            tags = {f"orcapod/{name}": value for name, value in tags.items()}
            assert definitions.resolve_job_def("job").execute_in_process(instance=instance, tags=tags).success

    def plan(self, *assets: str, **options: Any) -> dict[str, AssetPlan]:
        """Plan, and hold the lake and the log of calls against what they were before."""
        before = snapshot(self.folder)
        found = plan(self.definitions(), list(assets) or None, **options)
        assert snapshot(self.folder) == before
        return {one.asset.to_user_string(): one for one in found}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_nothing_is_to_do_after_a_run(project: Project) -> None:
    """Right after a run all packets are cached, nothing would change, and nothing is expected to take time."""
    project.run()
    plans = project.plan()
    assert set(plans) == {"first", "last", "beside"}
    for one in plans.values():
        assert (one.report.total, one.report.cached, one.report.would_compute) == (4, 4, 0)
        assert (one.report.cost.seconds, one.would_change, one.changed_inputs) == (0.0, False, ())


def test_an_edit_changes_what_is_downstream_too(project: Project) -> None:
    """An edited asset would recompute; one behind an ordinary asset says that its plan is the least; one beside has nothing to do."""
    project.run()
    project.write(added=5)
    plans = project.plan()
    assert list(plans).index("first") < list(plans).index("last")
    first = plans["first"]
    assert (first.report.would_compute, first.guarded, first.changed_inputs) == (4, True, ())
    assert first.report.cost.recorded == 4
    assert 0.008 < first.report.cost.seconds == first.report.cost.wall_seconds
    assert (plans["last"].report.would_compute, plans["last"].changed_inputs) == (0, (dg.AssetKey("between"),))
    assert not plans["beside"].would_change
    assert "At least this: its input between would change" in plans["last"].describe()
    assert "the code changed" in first.describe()
    assert project.plan("last")["last"].changed_inputs == ()


def test_an_edit_that_is_undone_computes_nothing_and_changes_the_table(project: Project) -> None:
    """After an edit and its undoing all results are there, and the table, and so what is downstream, would change still."""
    project.run("readings", "first")
    project.write(added=5)
    project.run("first", confirm_recompute="true")
    project.write(added=1)
    first = project.plan("first")["first"]
    assert (first.report.would_compute, first.would_change) == (0, True)
    assert "would be written anew" in first.describe()


def test_new_rows_take_the_mean(project: Project) -> None:
    """New rows are expected to take the mean of what is recorded; `rows` narrows the plan."""
    project.run()
    project.write(rows=6)
    project.run("readings")
    first = project.plan()["first"]
    assert (first.report.would_compute, first.report.cost.estimated, first.report.cost.mean_of) == (2, 2, 4)
    assert not first.guarded
    assert project.plan("first", rows="id = 4")["first"].report.would_compute == 1
    forced = project.plan("first", force=True)["first"].report
    assert (forced.would_compute, forced.cost.recorded, forced.cost.estimated) == (6, 4, 2)


def test_an_input_without_a_table_is_told(project: Project) -> None:
    """Before the inputs are there, an asset cannot be planned, and says which input is missing; others can."""
    project.run("readings")
    plans = project.plan()
    assert plans["first"].report.would_compute == 4
    assert plans["first"].report.cost.seconds is None
    assert "unknown" in plans["first"].describe()
    assert "between" in (plans["last"].problem or "")
    assert plans["last"].changed_inputs == (dg.AssetKey("between"),)


def test_a_partition_is_planned_alone(tmp_path: Path) -> None:
    """An asset with partitions is planned as a whole, or one partition of it; a partition that is not there is refused."""
    options: dict[str, Any] = {
        "partitions_def": dg.StaticPartitionsDefinition(["a", "b"]),
        "metadata": {"partition_expr": "site"},
    }
    sites = pa.table({"site": ["a", "a", "b"], "x": [1, 2, 3]})

    @dg.asset(**options)
    def readings(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        return sites.filter(pa.compute.equal(sites["site"], context.partition_key))

    def plus(x: int) -> int:
        return x + 1

    added = packet_asset(plus, inputs=readings, tag_columns=["site", "x"], output_keys=["y"], **options)
    resources = packet_resources(str(tmp_path / "lake"), as_default=True)
    with dg.DagsterInstance.ephemeral() as instance:
        for key in ("a", "b"):
            assets = [readings, added] if key == "a" else [readings]
            dg.materialize(assets, instance=instance, resources=resources, partition_key=key)
    definitions = dg.Definitions([readings, added], resources=resources)
    (whole,), (a,), (b,) = (plan(definitions, partition=key) for key in (None, "a", "b"))
    assert [one.report.would_compute for one in (whole, a, b)] == [1, 0, 1]
    assert [one.would_change for one in (whole, a, b)] == [True, False, True]
    with pytest.raises(PartitionError, match="'c'"):
        plan(definitions, "plus", partition="c")


def test_what_is_no_packet_asset_is_refused(project: Project) -> None:
    """An ordinary asset, one that is not there, and a partition of assets without any are refused by name."""
    with pytest.raises(DefinitionError, match="readings is no packet asset"):
        project.plan("readings")
    with pytest.raises(DefinitionError, match="no asset nope"):
        project.plan("nope")
    with pytest.raises(DefinitionError, match="no partitions"):
        project.plan("first", partition="a")


def test_the_command_prints_the_plan(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan -f FILE` prints all assets in order with reasons, seconds and the sum; `--asset` names some; 1 where one has a problem."""
    project.run()
    project.write(added=5)
    assert main(["plan", "-f", str(project.file), "-d", str(project.file.parent)]) == 0
    said = capsys.readouterr().out
    assert said.index("first\n") < said.index("last\n")
    assert "the code changed" in said
    assert "In all 4 packets would be computed, at least" in said
    assert main(["plan", "-f", str(project.file), "--asset", "beside", "-d", str(project.file.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "beside"


def test_the_command_fails_where_an_asset_cannot_be_planned(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the inputs the exit status is 1 and the missing table is named."""
    assert main(["plan", "-f", str(project.file), "--asset", "first", "-d", str(project.file.parent)]) == 1
    assert "cannot be planned: asset readings has no table" in capsys.readouterr().out
