"""How far each packet of a run is: while it runs, afterwards, after a kill, and in SQL."""

from __future__ import annotations

import datetime as dt
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_param
from deltalake import DeltaTable, QueryBuilder
from desk_project import Project, source
from lakes import make_asset

from orcapod_dagster import ProcessPoolExecutorResource, SkipPacket, packet_asset, read_status
from orcapod_dagster.cli import main
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.cleanup import CleanSettings, clean
from orcapod_dagster.core.errors import DefinitionError, InputError, RunNotFoundError
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.verify import verify
from orcapod_dagster.desk import status

ROWS = pa.table({"id": list("abcdef"), "x": [0, 1, 2, 3, 4, 4]})


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A fresh project."""
    one = Project(tmp_path / "lake")
    yield one
    one.instance.dispose()


def work(x: int) -> float:
    """Fail for 1, skip 2."""
    if x == 1:
        raise ValueError("one\nmore of it")
    if x == 2:
        raise SkipPacket("two")
    return x / 2


def asset_of(function: Any = work, **options: Any) -> Any:
    """Return the packet asset `made` of a function over `numbers`."""
    given: dict[str, Any] = {
        "inputs": "numbers",
        "tag_columns": ["id"],
        "output_keys": ["y"],
        "name": "made",
        **options,
    }
    return packet_asset(function, **{"on_error": "continue", **given})


def told(project: Project, asset: Any = None, **options: Any) -> dict[str, tuple[Any, ...]]:
    """Return tag → state, reason and error."""
    rows = read_status(asset or asset_of(), str(project.root), **options).to_pylist()
    return {row["id"]: (row["__state"], row["__reason"], row["__error"]) for row in rows}


def test_every_state_has_its_packets(project: Project) -> None:
    """Computed, failed, skipped and, of equal packets, cached ones are told apart, with reason, duration and error; as counted."""
    done = project.run(source("numbers", ROWS), asset_of())
    new = "no earlier result"
    assert told(project) == {
        "a": ("COMPUTED", new, None),
        "b": ("FAILED", new, "ValueError: one"),
        "c": ("SKIPPED", new, None),
        "d": ("COMPUTED", new, None),
        "e": ("COMPUTED", new, None),
        "f": ("CACHED", None, None),
    }
    table = read_status(asset_of(), str(project.root))
    assert table["__pod_duration"].is_valid().to_pylist() == [True] * 5 + [False]
    assert table.schema.metadata == {b"orcapod.run_id": done.run_id.encode()}
    (event,) = done.asset_materializations_for_node("made")
    shown = {key: value.value for key, value in event.metadata.items()}
    counts = Counter(state for state, *_ in told(project).values())
    assert counts == {
        name.upper(): shown[f"orcapod/packets_{name}"] for name in ("computed", "failed", "skipped", "cached")
    }
    assert shown["orcapod/status"] == f"python -m orcapod_dagster status made --run {done.run_id} -m YOUR_DEFINITIONS"


def test_the_next_runs(project: Project) -> None:
    """A later run has states of its own, the earlier one keeps its, and one that computes nothing leaves no trace."""
    first = project.run(source("numbers", ROWS), asset_of())
    more = pa.concat_tables([ROWS, pa.table({"id": ["g"], "x": [9]})])
    second = project.run(source("numbers", more), asset_of())
    found = told(project)
    assert found["a"] == ("CACHED", None, None)
    assert found["b"] == ("FAILED", "an earlier failure", "ValueError: one")
    assert found["c"] == ("SKIPPED", "skipped in an earlier run", None)
    assert found["g"] == ("COMPUTED", "no earlier result", None)
    assert told(project, run_id=second.run_id) == found
    assert len(told(project, run_id=first.run_id)) == 6
    assert told(project, run_id=first.run_id)["a"][0] == "COMPUTED"

    def fine(x: int) -> float:
        return x / 2

    project.run(source("numbers", ROWS), asset_of(fine, name="other"))
    files = project.files()
    third = project.run(source("numbers", ROWS), asset_of(fine, name="other"))
    assert {name for name in project.files() if "/plans/" in name} == {name for name in files if "/plans/" in name}
    (event,) = third.asset_materializations_for_node("other")
    assert "orcapod/status" not in event.metadata
    with pytest.raises(RunNotFoundError, match=f"run_id {third.run_id}"):
        told(project, asset_of(fine, name="other"), run_id=third.run_id)


def test_two_assets_of_one_function_in_one_run(project: Project) -> None:
    """What one of them computed is cached for the other, though both are of one run and one function."""
    twins = [asset_of(name="one"), asset_of(name="two", deps=["one"])]
    project.run(source("numbers", ROWS), *twins)
    assert Counter(state for state, *_ in told(project, twins[0]).values())["COMPUTED"] == 3
    assert Counter(state for state, *_ in told(project, twins[1]).values()) == {"CACHED": 4, "FAILED": 1, "SKIPPED": 1}


@pytest.mark.parametrize(("config", "expected"), [
    ({"limit": 2}, {"a": "COMPUTED", "b": "FAILED", "c": "PENDING", "d": "PENDING", "e": "PENDING", "f": "PENDING"}),
    ({"rows": "id < 'c'"}, {"a": "COMPUTED", "b": "FAILED"}),
])  # fmt: skip
def test_runs_of_some_packets(project: Project, config: dict[str, Any], expected: dict[str, str]) -> None:
    """Beyond a limit packets are pending, and say so; a condition on rows narrows the status as it narrowed the run."""
    project.run(source("numbers", ROWS), asset_of(), run_config={"ops": {"made": {"config": config}}})
    assert {tag: state for tag, (state, *_) in told(project).items()} == expected
    assert {reason for state, reason, _ in told(project).values() if state == "PENDING"} <= {"left out by limit"}


def test_forced_packets_and_those_of_other_code(project: Project) -> None:
    """The reason of each packet is the one that the run had: forced, or what changed."""

    def work(x: int) -> float:
        return x / 4

    project.run(source("numbers", ROWS), asset_of())
    forced = project.run(source("numbers", ROWS), asset_of(), run_config={"ops": {"made": {"config": {"force": True}}}})
    assert {told(project, run_id=forced.run_id)[tag][:2] for tag in "ade"} == {("COMPUTED", "forced")}
    project.run(source("numbers", ROWS), asset_of(work))
    found = told(project, asset_of(work))
    assert {found[tag][:2] for tag in "ade"} == {("COMPUTED", "the code changed: body")}


def test_refused_values_fail(project: Project) -> None:
    """A value that its parameter does not take is a failure of the run, whose reason says so."""
    table = pa.table({"id": ["a", "b"], "x": pa.array([1, None], pa.int64())})
    project.run(source("numbers", table), asset_of(name="made"))
    state, reason, error = told(project)["b"]
    assert (state, reason) == ("FAILED", "its input is refused")
    assert error.startswith("InputError: ")


def test_partitions_and_ranges(project: Project) -> None:
    """A run of one partition shows its rows alone, and a run of a range those of all its partitions, each with its tags."""
    parts = dg.StaticPartitionsDefinition(["p", "q", "r"])
    table = pa.table({"id": ["a", "b", "c"], "part": ["p", "q", "r"], "x": [0, 1, 3]})
    numbers = make_asset(
        lambda context: table.filter(pc.is_in(table["part"], pa.array(context.partition_keys))),
        "numbers", metadata={"partition_expr": "part"}, partitions_def=parts,
    )  # fmt: skip
    made = asset_of(partitions_def=parts, carry=["part"])
    for key in ("p", "q", "r"):
        project.run(numbers, selection=[numbers], partition_key=key)
    project.run(numbers, made, selection=[made], partition_key="p")
    tags = {"dagster/asset_partition_range_start": "q", "dagster/asset_partition_range_end": "r"}
    project.run(numbers, made, selection=[made], tags=tags)
    defs = project.definitions(numbers, made)
    assert status(defs, "made", partition="p").table["id"].to_pylist() == ["a"]
    latest = status(defs, "made")
    assert (latest.partition, latest.counts) == ("q...r", {"FAILED": 1, "COMPUTED": 1})
    assert latest.table["id"].to_pylist() == ["b", "c"]


def test_what_the_run_read_is_what_is_shown(project: Project) -> None:
    """The input's version of then is read, however often it changed since; where the packets cannot be had again, an error says so."""
    project.run(source("numbers", ROWS), asset_of())
    project.run(source("numbers", pa.table({"id": ["z"], "x": [100]})), selection=["numbers"])
    assert list(told(project)) == list("abcdef")

    def work(x: int, by: int = 2) -> float:
        return x / by

    with pytest.raises(InputError, match=r"its inputs give 6 packets now"):
        told(project, asset_of(work))
    with pytest.raises(DefinitionError):
        read_status(source("numbers", ROWS), str(project.root))


def test_the_command(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command counts the states, shows first what asks for attention, and its exit status says whether something failed."""
    module = tmp_path / "status_defs.py"
    module.write_text(
        textwrap.dedent(f"""
        import dagster as dg, pyarrow as pa
        from orcapod_dagster import packet_asset, packet_resources
        @dg.asset
        def numbers() -> pa.Table:
            return pa.table({{"id": list("abcdef"), "x": [0, 1, 2, 3, 4, 4]}})
        def work(x: int) -> float:
            if x == 1:
                raise ValueError("one")
            return x / 2
        made = packet_asset(work, inputs=numbers, tag_columns=["id"], output_keys=["y"], name="made", on_error="continue")
        defs = dg.Definitions([numbers, made], resources=packet_resources({str(project.root)!r}, as_default=True))
        """)
    )
    namespace = runpy.run_path(str(module))
    project.run(namespace["numbers"], namespace["made"])
    assert main(["status", "made", "-f", str(module)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  6 packets: 1 FAILED, 4 COMPUTED, 1 CACHED"
    assert lines[2].startswith("  FAILED   id=b, ")
    assert lines[2].endswith(" s; no earlier result; ValueError: one")
    assert main(["status", "made", "-f", str(module), "--state", "CACHED", "--rows", "5"]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == ["  CACHED   id=f"]
    assert main(["status", "made", "-f", str(module), "--run", "none"]) == 2
    assert "No run is known" in capsys.readouterr().err


SLOW = """
import sys, time
import dagster as dg, pyarrow as pa
from orcapod_dagster import packet_asset, packet_resources, ProcessPoolExecutorResource

@dg.asset
def numbers() -> pa.Table:
    return pa.table({"id": [str(i) for i in range(200)], "x": list(range(200))})

def slow(x: int) -> int:
    time.sleep(0.1)
    return x

made = packet_asset(slow, inputs=numbers, tag_columns=["id"], output_keys=["y"], name="made")
executor = ProcessPoolExecutorResource(max_workers=2) if sys.argv[2] == "pool" else None
if __name__ == "__main__":
    dg.materialize([numbers, made], resources=packet_resources(sys.argv[1], executor, as_default=True))
"""


@pytest.mark.parametrize("executor", [long_param("local"), "pool"])
def test_another_process_reads_it_while_the_run_goes_on(tmp_path: Path, executor: str) -> None:
    """While a run computes, and after it was killed, its finished packets are computed and the others pending."""
    script = tmp_path / "slow_run.py"
    script.write_text(SLOW)
    root = str(tmp_path / "lake")
    with subprocess.Popen([sys.executable, str(script), root, executor], stderr=subprocess.DEVNULL) as run:
        seen: list[int] = []
        deadline = time.monotonic() + 60
        while len(set(seen)) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            found = _states(root)
            if found and found["COMPUTED"]:
                seen.append(found["COMPUTED"])
        assert run.poll() is None
        run.send_signal(signal.SIGKILL)
    assert seen == sorted(seen)
    assert 0 < seen[0] < 200
    found = _states(root)
    assert found is not None
    assert found["COMPUTED"] >= seen[-1]
    assert found["COMPUTED"] + found["PENDING"] == 200


def _states(root: str) -> Counter[str] | None:
    def slow(x: int) -> int:
        return x

    made = packet_asset(slow, inputs="numbers", tag_columns=["id"], output_keys=["y"], name="made")
    try:
        return Counter(read_status(made, root)["__state"].to_pylist())
    except RunNotFoundError:
        return None


def test_a_step_that_is_tried_again(project: Project) -> None:
    """Of a step that Dagster tries again within one run, what the first try computed stays computed, with its reason."""
    marker = project.root / "marker"

    def twice(x: int) -> float:
        if x == 1 and not marker.exists():
            marker.mkdir()
            raise ValueError("once")
        return x / 2

    made = asset_of(twice, on_error="raise", retry_policy=dg.RetryPolicy(max_retries=1))
    project.run(source("numbers", ROWS), made)
    found = told(project, made)
    assert found["a"] == ("COMPUTED", "no earlier result", None)
    assert found["b"] == ("COMPUTED", "an earlier failure", None)


def test_sql_reads_it(project: Project) -> None:
    """Plans, results and failures of a run are counted, and told packet by packet, by SQL alone."""
    done = project.run(source("numbers", ROWS), asset_of())
    query = QueryBuilder()
    for kind in ("plans", "results", "outcomes"):
        (log,) = project.root.glob(f".orcapod/{kind}/work/**/_delta_log")
        query = query.register(kind, DeltaTable(str(log.parent)))
    run = f"run_id = '{done.run_id}'"
    planned = query.execute(f"SELECT state, SUM(packets) AS packets FROM plans WHERE {run} GROUP BY state").read_all()
    assert pa.table(planned).to_pylist() == [{"state": "PENDING", "packets": 5}]
    ended = f"""
        SELECT COALESCE(n.reason, usual.reason) AS reason, e.state, COUNT(*) AS packets FROM (
            SELECT __input_packet_hash AS hash, 'COMPUTED' AS state, __pf_exec_extra_info['run_id'] AS run_id FROM results
            UNION ALL SELECT __input_packet_hash, state, __pf_exec_extra_info['run_id'] FROM outcomes
        ) e JOIN plans usual ON usual.run_id = e.run_id AND usual.packet_hash IS NULL
        LEFT JOIN plans n ON n.run_id = e.run_id AND n.packet_hash = e.hash
        WHERE e.{run} GROUP BY 1, 2 ORDER BY 2
    """
    found = pa.table(query.execute(ended).read_all()).to_pylist()
    assert [(row["state"], row["packets"]) for row in found] == [("COMPUTED", 3), ("FAILED", 1), ("SKIPPED", 1)]
    assert {row["reason"] for row in found} == {"no earlier result"}


def test_upkeep_knows_the_table(project: Project) -> None:
    """Verify is content, `--results` removes plans of old runs, whole, and `compact` keeps what they say."""
    for _ in range(3):
        project.run(source("numbers", ROWS), asset_of(), run_config={"ops": {"made": {"config": {"force": True}}}})
    before = told(project)
    assert main(["compact", "--root-uri", str(project.root)]) == 0
    assert told(project) == before
    assert not [finding for report in verify(str(project.root), read_all=True) for finding in report.findings]
    assert not list(project.root.glob(".orcapod/plans/**/_keys"))
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=40)
    settings = CleanSettings(keep_results="current-code", now=later)
    gone = {one.what: one for one in clean(Lake(str(project.root)), settings, dry_run=False)}
    assert gone["plans of runs"].rows == 3
    with pytest.raises(RunNotFoundError):
        told(project)


def test_a_plan_that_cannot_be_stored_is_told(project: Project) -> None:
    """Where the table of plans cannot be written, the run goes on, results are stored, and a warning says what is missing."""
    project.root.joinpath(".orcapod").mkdir(parents=True)
    project.root.joinpath(".orcapod", "plans").write_text("a file where a folder should be")
    done = project.run(source("numbers", ROWS), asset_of())
    (event,) = done.asset_materializations_for_node("made")
    assert event.metadata["orcapod/packets_computed"].value == 3
    assert "orcapod/status" not in event.metadata
    logged = [entry.user_message for entry in project.instance.all_logs(done.run_id)]
    assert any("could not be stored" in message for message in logged)


def test_it_costs_little_disk(project: Project) -> None:
    """Of 20,000 new packets nothing is stored per packet; where half of them are cached, at most 18 bytes each."""

    def same(x: int) -> int:
        return x

    asset = asset_of(same)
    for rows in (20_000, 40_000):
        table = pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})
        project.run(source("numbers", table), asset)
        size = max(path.stat().st_size for path in project.root.glob(".orcapod/plans/**/*.parquet"))
        assert size <= (10_000 if rows == 20_000 else 10_000 + 18 * 20_000)
    assert Counter(read_status(asset, str(project.root))["__state"].to_pylist()) == {
        "CACHED": 20_000,
        "COMPUTED": 20_000,
    }


def test_the_pool_and_status(tmp_path: Path) -> None:
    """Results of worker processes carry the run as those of this process do."""
    project = Project(tmp_path / "lake", ProcessPoolExecutorResource(max_workers=2))
    project.run(source("numbers", ROWS), asset_of())
    assert Counter(state for state, *_ in told(project).values()) == {
        "COMPUTED": 3, "FAILED": 1, "SKIPPED": 1, "CACHED": 1,
    }  # fmt: skip
    project.instance.dispose()
