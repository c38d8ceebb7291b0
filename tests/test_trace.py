"""Traces: from one row back to the source rows, and never a wrong one."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from desk_project import Project, source

from orcapod_dagster import packet_asset
from orcapod_dagster.core.errors import InputError, TableNotFoundError
from orcapod_dagster.desk import trace
from orcapod_dagster.desk.steps import CHANGED, CURRENT, NOT_FOUND

READINGS = pa.table({"id": [1, 2], "x": [1.0, 2.0]})
SITES = pa.table({"id": [2, 1], "site": ["p", "q"]})


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path / "lake")
    yield one
    one.instance.dispose()


def add(x: float, by: float = 1.0) -> float:
    return x + by


def name(y: float, site: str) -> str:
    return f"{site}{y}"


class Chain:
    """readings → add; add ⋈ sites → name; tables of readings and sites can be changed."""

    def __init__(self, project: Project, **options: Any) -> None:
        self.tables = {"readings": READINGS, "sites": SITES}
        self.project = project
        self.readings = source("readings", lambda: self.tables["readings"], **options)
        self.sites = source("sites", lambda: self.tables["sites"])
        self.add = packet_asset(add, inputs="readings", tag_columns=["id"], output_keys=["y"])
        self.name = packet_asset(
            name, inputs=["add", "sites"], tag_columns=["id"], output_keys=["name"], carry=["site"]
        )

    @property
    def all(self) -> list[dg.AssetsDefinition]:
        return [self.readings, self.sites, self.add, self.name]

    def run(self, *names: str) -> None:
        selected = [dg.AssetKey(one) for one in names] or None
        self.project.run(*self.all, selection=selected)

    def trace(self, row: Any, asset: str = "name") -> Any:
        return trace(self.project.definitions(*self.all), asset, tags={"id": row})


def by_asset(found: Any) -> dict[str, Any]:
    return {step.asset.to_user_string(): step for step in found.steps}


def test_every_step_down_to_the_sources(project: Project) -> None:
    """Through two packet assets and a join, each step has its row, what it consumed, and what made it."""
    chain = Chain(project)
    chain.run()
    before = project.files()
    found = chain.trace(2)
    steps = by_asset(found)
    assert [step.asset.to_user_string() for step in found.steps] == ["name", "add", "sites", "readings"]
    assert {name: step.state for name, step in steps.items()} == dict.fromkeys(steps, CURRENT)
    assert steps["name"].row == {"id": 2, "site": "p", "name": "p3.0"}
    assert steps["name"].consumed == {"y": 3.0, "site": "p"}
    assert steps["add"].consumed == {"x": 2.0, "by": 1.0}
    assert (steps["add"].used_by, steps["sites"].used_by, steps["readings"].used_by) == ((0,), (0,), (1,))
    assert steps["readings"].row == {"id": 2, "x": 2.0}
    assert steps["readings"].tags == {"id": 2}
    assert steps["readings"].version == 1
    assert steps["readings"].table == str(project.root / "readings")
    assert project.files() == before
    table = found.to_table()
    made = table.slice(1, 1).to_pylist()[0]
    stored = steps["add"].record
    assert made["record_id"].replace("-", "") == stored["__record_id"].hex()
    assert (made["function_name"], made["executor_type"]) == ("add", "local")
    assert made["function_content_hash"].startswith("python.content.")
    assert made["computed_at"] == stored["__pod_ts"]
    assert made["duration"] > 0
    assert table["kind"].to_pylist() == ["packet asset", "packet asset", "source", "source"]
    assert table["git_hash"].null_count == table["run_id"].null_count == 2


def test_a_source_row_that_changed_is_read_as_it_was(project: Project) -> None:
    """Of a row that changed since, the version that was consumed is found; the step says so, with both values."""
    chain = Chain(project)
    chain.run()
    chain.tables["readings"] = pa.table({"id": [1, 2], "x": [1.0, 20.0]})
    chain.run("readings")
    steps = by_asset(chain.trace(2))
    assert (steps["readings"].state, steps["readings"].version) == (CHANGED, 1)
    assert steps["readings"].row == {"id": 2, "x": 2.0}
    assert steps["readings"].note == "x was 2.0, is 20.0 now"
    assert steps["add"].state == CURRENT
    assert by_asset(chain.trace(1))["readings"].state == CURRENT


def test_a_row_in_the_middle_that_changed(project: Project) -> None:
    """A packet asset that ran anew since is read as it was, and its own inputs are those of then."""
    chain = Chain(project)
    chain.run()
    chain.tables["readings"] = pa.table({"id": [2], "x": [20.0]})
    chain.run("readings", "add")
    steps = by_asset(chain.trace(2))
    assert (steps["add"].state, steps["add"].version, steps["add"].row["y"]) == (CHANGED, 1, 3.0)
    assert (steps["readings"].state, steps["readings"].row["x"]) == (CHANGED, 2.0)
    gone = by_asset(chain.trace(1))
    assert (gone["add"].state, gone["add"].note) == (CHANGED, "its table has no such row now")
    assert gone["readings"].row == {"id": 1, "x": 1.0}


def test_results_from_an_earlier_run_are_traced_by_its_versions(project: Project) -> None:
    """A result that came from the cache was made from versions of long ago; those are found, over later ones."""
    chain = Chain(project)
    chain.run()
    for x in (5.0, 6.0, 2.0, 7.0):
        chain.tables["readings"] = pa.table({"id": [2], "x": [x]})
        chain.run(*(["readings"] if x == 7.0 else ["readings", "add", "name"]))
    steps = by_asset(chain.trace(2))
    assert steps["name"].consumed == {"y": 3.0, "site": "p"}
    assert (steps["readings"].state, steps["readings"].version) == (CHANGED, 1)


def test_without_a_history_the_trace_ends_and_says_so(project: Project, tmp_path: Path) -> None:
    """Where an input has no versions, a changed row is no lineage: the step is not found, and nothing is shown in its place."""
    project.resources["files"] = dg.FilesystemIOManager(base_dir=str(tmp_path / "files"))
    chain = Chain(project, io_manager_key="files")
    chain.run()
    assert by_asset(chain.trace(2))["readings"].row == {"id": 2, "x": 2.0}
    chain.tables["readings"] = pa.table({"id": [1, 2], "x": [1.0, 20.0]})
    chain.run("readings")
    steps = by_asset(chain.trace(2))
    assert (steps["readings"].state, steps["readings"].row) == (NOT_FOUND, {})
    assert "the input row with its tags has other values now" in steps["readings"].note
    assert steps["add"].consumed == {}
    assert steps["sites"].state == CURRENT


def test_the_values_of_older_code_are_no_lineage_by_the_new(project: Project) -> None:
    """After the parameters of a function changed, its old row cannot be bound; that is what the trace says."""
    chain = Chain(project)
    chain.run()

    def add(x: float, more: float = 5.0) -> float:
        return x + more

    chain.add = packet_asset(add, inputs="readings", tag_columns=["id"], output_keys=["y"])
    steps = by_asset(chain.trace(2))
    assert steps["readings"].state == NOT_FOUND
    assert steps["readings"].note.endswith("the function's parameters are others than then")


def test_what_is_carried_along_counts(project: Project) -> None:
    """A carried column that changed since makes another row, though the packet is the same."""
    chain = Chain(project)
    chain.name = packet_asset(
        text, name="name", inputs=["add", "sites"], tag_columns=["id"], output_keys=["t"], carry=["site"]
    )
    chain.run()
    chain.tables["sites"] = pa.table({"id": [2, 1], "site": ["moved", "q"]})
    chain.run("sites")
    steps = by_asset(chain.trace(2))
    assert (steps["sites"].state, steps["sites"].note) == (CHANGED, "site was 'p', is 'moved' now")
    assert steps["sites"].row["site"] == "p"


def test_an_input_that_only_joins_is_told(project: Project) -> None:
    """An input of which nothing but its tags was used is a step, with a note that its values of then are not known."""
    chain = Chain(project)
    chain.name = packet_asset(text, name="name", inputs=["add", "sites"], tag_columns=["id"], output_keys=["t"])
    chain.run()
    steps = by_asset(chain.trace(2))
    assert "nothing of it was consumed but its tags" in steps["sites"].note
    assert steps["add"].note == steps["readings"].note == ""


def text(y: float) -> str:
    return f"{y}"


def test_a_row_computed_again_with_the_same_values_is_told(project: Project) -> None:
    """Where an input was computed again, the record that was consumed is shown, and that there is another now."""
    chain = Chain(project)
    chain.run()
    first = by_asset(chain.trace(2))["add"].record["__record_id"]
    config = {"ops": {"add": {"config": {"force": True}}}}
    project.run(*chain.all, selection=[dg.AssetKey("add")], run_config=config)
    step = by_asset(chain.trace(2))["add"]
    assert (step.state, step.record["__record_id"]) == (CURRENT, first)
    assert step.note == "computed again since, with the same values"


def test_a_row_that_several_steps_used_is_one_step(project: Project) -> None:
    """Two ways to one source row end in one step, which names both."""
    chain = Chain(project)

    def twice(x: float) -> float:
        return 2 * x

    def both(y: float, z: float) -> float:
        return y + z

    other = packet_asset(twice, inputs="readings", tag_columns=["id"], output_keys=["z"])
    joined = packet_asset(both, inputs=["add", "twice"], tag_columns=["id"], output_keys=["sum"])
    assets = [chain.readings, chain.add, other, joined]
    project.run(*assets)
    found = trace(project.definitions(*assets), "both", tags={"id": 1})
    assert [step.asset.to_user_string() for step in found.steps] == ["both", "add", "twice", "readings"]
    assert found.steps[3].used_by == (1, 2)
    assert "(as above)" in found.to_markdown()


def test_partitions_are_followed_through_their_mapping(project: Project) -> None:
    """A row of a daily asset is traced to the partition before, as its mapping says; the partitions are named."""
    days = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-10")
    options: dict[str, Any] = {"partitions_def": days, "metadata": {"partition_expr": "day"}}

    @dg.asset(**options)
    def events(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        day = dt.date.fromisoformat(context.partition_key)
        return pa.table({"day": [day], "id": [1], "x": [float(day.day)]})

    first = packet_asset(add, inputs=events, tag_columns=["day", "id"], output_keys=["y"], partitions_def=days)
    second = packet_asset(text, inputs=first, output_keys=["t"], partitions_def=days)
    for key in ("2024-01-02", "2024-01-03"):
        project.run(events, first, second, partition_key=key)
    definitions = project.definitions(events, first, second)
    steps = by_asset(trace(definitions, "text", tags={"day": "2024-01-03", "id": 1}))
    assert steps["text"].row["t"] == "4.0"
    assert (steps["text"].partition, steps["add"].partition) == ("2024-01-03", "2024-01-03")
    assert steps["events"].row["x"] == 3.0


def test_rows_of_two_partitions_are_two_steps(project: Project) -> None:
    """Rows that stand first in two partitions of one table are not taken for one; a partition may be an output, too."""
    days = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-10")
    options: dict[str, Any] = {"partitions_def": days, "metadata": {"partition_expr": "day"}}

    @dg.asset(**options)
    def events(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        day = dt.date.fromisoformat(context.partition_key)
        return pa.table({"day": [day], "id": [1], "x": [float(day.day)]})

    def later(x: float) -> tuple[dt.date, float]:
        return dt.date(2024, 1, int(x) + 1), x

    def both(x: float, before: float) -> float:
        return x - before

    yesterday = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    before = packet_asset(
        later, inputs=dg.AssetIn("events", partition_mapping=yesterday), tag_columns=["id"],
        output_keys=["day", "before"], **options,
    )  # fmt: skip
    change = packet_asset(
        both, inputs=["events", "later"], tag_columns=["day", "id"], output_keys=["change"], **options
    )
    project.run(events, partition_key="2024-01-02")
    project.run(events, before, change, partition_key="2024-01-03")
    found = trace(project.definitions(events, before, change), "both", tags={"day": "2024-01-03", "id": 1})
    assert [step.asset.to_user_string() for step in found.steps] == ["both", "events", "later", "events"]
    assert [step.row["x"] for step in found.steps if step.asset == events.key] == [3.0, 2.0]
    assert [step.used_by for step in found.steps] == [(), (0,), (0,), (2,)]


def test_what_has_no_row_is_refused(project: Project) -> None:
    """A trace needs a materialized row; another begins with the command that shows the packet."""
    chain = Chain(project)
    with pytest.raises(TableNotFoundError, match="Materialize it first"):
        chain.trace(1)
    chain.run()
    with pytest.raises(InputError, match=r"no rows have the tags id=9.*`row` shows"):
        chain.trace(9)
    with pytest.raises(InputError, match=r"has the tag columns \['id'\]; got \['key'\]"):
        trace(project.definitions(*chain.all), "name", tags={"key": 1})


HOSTILE = "é 漢\"] --> x; %%{init: {'theme': 'dark'}}%%\n```<script>alert(1)</script> `b` #quot; | & \\ *c* [l](u)"


def test_labels_are_text_and_nothing_else(project: Project) -> None:
    """Values with the syntax of Mermaid, Markdown or HTML stay text in both views."""
    chain = Chain(project)
    chain.tables["sites"] = pa.table({"id": [1, 2], "site": [HOSTILE, "p"]})
    chain.run()
    found = chain.trace(1)
    drawing = found.to_mermaid()
    assert drawing.splitlines()[0] == "flowchart BT"
    for line in drawing.splitlines()[1:]:
        assert re.fullmatch(r'  s\d+(\["|\[\(")[^"\[\]{}|`%&\\]*("\]|"\)\])|  s\d+ --> s\d+', line), line
    assert "<script" not in drawing
    assert "é 漢" in drawing
    outline = found.to_markdown()
    assert all(line.lstrip().startswith("- ") for line in outline.splitlines())
    outside = re.sub(r"(`+)(?:(?!\1).)*?\1", "", outline)
    assert "<script" not in outside


def test_the_command_prints_outline_or_drawing(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trace` prints the outline, with `--mermaid` the drawing; definitions are found by pyproject.toml as for `dagster dev`."""
    from orcapod_dagster.cli import main

    (tmp_path / "traced_defs.py").write_text(
        "import dagster as dg\nimport pyarrow as pa\nfrom orcapod_dagster import packet_asset, packet_resources\n"
        "@dg.asset\ndef rows() -> pa.Table:\n    return pa.table({'id': [1], 'x': [2.0]})\n"
        "@packet_asset(inputs=rows, tag_columns=['id'], output_keys=['y'])\ndef half(x: float) -> float:\n    return x / 2\n"
        "defs = dg.Definitions([rows, half], resources=packet_resources('lake', as_default=True))\n"
    )
    (tmp_path / "pyproject.toml").write_text('[tool.dagster]\nmodule_name = "traced_defs"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import traced_defs  # type: ignore[import-not-found]  # written just now

    with dg.DagsterInstance.ephemeral() as instance:
        traced_defs.defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    capsys.readouterr()
    assert main(["trace", "half", "--tag", "id=1"]) == 0
    assert capsys.readouterr().out.startswith("- **half, version 1** `id=1`\n  - `y = 1.0`\n  - made by `half ")
    assert main(["trace", "half", "--tag", "id=1", "--mermaid"]) == 0
    assert "  s1 --> s0" in capsys.readouterr().out
    assert main(["trace", "half", "--tag", "id=5"]) == 2
    assert "no rows have the tags id=5" in capsys.readouterr().err
