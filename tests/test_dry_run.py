"""Dry runs, run options as tags, and the recompute guard, on a real Dagster instance and real Delta tables."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from test_assets import Lake, make_upstream

from orcapod_dagster import (
    File,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    SkipPacket,
    packet_asset,
    packet_resources,
)
from orcapod_dagster.core import PythonPacketFunction
from orcapod_dagster.core.errors import DefinitionError, OrcapodError, RecomputeLimitError, RunOptionError

ROWS = pa.table({"id": pa.array(range(6), pa.int64()), "x": [float(i) for i in range(6)]})


@pytest.fixture
def lake(tmp_path: Path):  # type: ignore[no-untyped-def]
    one = Lake(tmp_path / "lake")
    yield one
    one.instance.dispose()


def snapshot(root: Path) -> dict[str, str]:
    """Return every file below a folder with the digest of its bytes, and every folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def asset(calls: list[float], code: int = 1, **options: Any) -> dg.AssetsDefinition:
    """Return an asset of one name whose code is of one of several kinds."""
    if code == 1:

        def slow(x: float) -> float:
            calls.append(x)
            time.sleep(0.002)
            if x == 5.0:
                raise ValueError("five")
            return x + 1

    else:

        def slow(x: float) -> float:
            calls.append(x)
            return x + 2

    settings: dict[str, Any] = {"inputs": "readings", "tag_columns": ["id"], "output_keys": ["y"], "ignore": ["calls"]}
    return packet_asset(slow, **settings | {"on_error": "continue"} | options)


def report_of(result: dg.ExecuteInProcessResult, name: str = "slow") -> dict[str, Any]:
    """Return the metadata of the one observation of a dry run, tables as rows."""
    (event,) = [
        one
        for one in result.get_asset_observation_events()
        if one.asset_observation_data.asset_observation.asset_key.path == [name]
    ]
    shown = event.asset_observation_data.asset_observation.metadata
    assert result.asset_materializations_for_node(name) == []
    return {
        key: [dict(record.data) for record in value.records]
        if isinstance(value, dg.TableMetadataValue)
        else value.value
        for key, value in shown.items()
    }


def test_a_dry_run_calls_nothing_and_leaves_every_byte(lake: Lake) -> None:
    """A dry run over a lake with results, failures and new rows calls no function and changes no byte; it says what would run."""
    calls: list[float] = []
    current = [ROWS]
    readings = make_upstream(lambda: current[0], io_manager_key="io_manager")
    lake.resources["io_manager"] = dg.mem_io_manager
    lake.run(readings, asset(calls))
    current[0] = pa.concat_tables([ROWS, pa.table({"id": [10, 11], "x": [10.0, 10.0]})])
    calls.clear()
    before = snapshot(lake.root)
    done = lake.run(readings, asset(calls), config={"dry_run": True})
    assert done.success
    assert calls == []
    assert snapshot(lake.root) == before
    shown = report_of(done)
    assert [shown[f"orcapod/{key}"] for key in ("packets_total", "packets_cached", "would_compute")] == [8, 5, 2]
    assert (shown["orcapod/packets_failed_before"], shown["orcapod/packets_skipped"]) == (1, 0)
    because = {row["reason"]: row["packets"] for row in shown["orcapod/would_compute_because"]}
    assert because == {"no earlier result": 1, "an earlier failure": 1}
    assert 0.004 < shown["orcapod/expected_seconds"] < 1
    assert shown["orcapod/expected_wall_seconds"] == shown["orcapod/expected_seconds"]
    assert shown["orcapod/expected_by"] == "2 by the mean of the newest 5 results of this function"
    assert lake.counts(lake.run(readings, asset(calls)), "slow") == (8, 6, 1, 1, 0)


def test_skipped_rows_and_such_that_cannot_be_used_are_counted(lake: Lake) -> None:
    """Rows that the function skipped, and rows with a null where there must be none, are told apart from those to compute."""

    def picky(x: float) -> float:
        if x == 0.0:
            raise SkipPacket("zero")
        return x

    rows = pa.table({"id": [0, 1, 2, 3], "x": [0.0, 1.0, None, 3.0]})
    readings = make_upstream(lambda: rows)
    picked = packet_asset(picky, inputs="readings", tag_columns=["id"], output_keys=["y"], on_error="continue")
    lake.run(readings, picked, config={"rows": "id < 3"})
    shown = report_of(lake.run(readings, picked, config={"dry_run": True}), "picky")
    keys = ("packets_total", "packets_cached", "would_compute", "packets_skipped", "packets_invalid")
    assert [shown[f"orcapod/{key}"] for key in keys] == [4, 1, 1, 1, 1]


def test_a_dry_run_on_no_lake_makes_none(lake: Lake) -> None:
    """Before anything was ever materialized a dry run says so, expects nothing, and makes not even the folder."""
    lake.resources["io_manager"] = dg.mem_io_manager
    done = lake.run(make_upstream(lambda: ROWS), asset([]), config={"dry_run": True})
    shown = report_of(done)
    assert (shown["orcapod/would_compute"], shown["orcapod/packets_cached"]) == (6, 0)
    assert shown["orcapod/expected_seconds"] == shown["orcapod/expected_wall_seconds"] == "unknown"
    assert shown["orcapod/would_compute_because"] == [
        {"reason": "no earlier result", "packets": 6, "expected_seconds": None}
    ]
    assert not lake.root.exists()


def test_a_dry_run_keeps_no_digests_of_files(lake: Lake, tmp_path: Path) -> None:
    """Files are read to know what would run, and what was read is not kept; the run afterwards keeps it."""
    paths = [tmp_path / f"{i}.txt" for i in range(700)]
    for i, path in enumerate(paths):
        path.write_text(str(i))
    files = make_upstream(lambda: pa.table({"id": range(len(paths)), "path": [str(path) for path in paths]}))
    lake.resources["io_manager"] = dg.mem_io_manager

    def size(path: File) -> int:
        return path.stat().st_size

    sizes = packet_asset(size, inputs="readings", tag_columns=["id"], output_keys=["y"])
    assert report_of(lake.run(files, sizes, config={"dry_run": True}), "size")["orcapod/would_compute"] == 700
    assert not lake.root.exists()
    lake.run(files, sizes)
    for index in lake.root.rglob("_keys/*"):
        index.unlink()
    before = snapshot(lake.root)
    assert report_of(lake.run(files, sizes, config={"dry_run": True}), "size")["orcapod/would_compute"] == 0
    assert snapshot(lake.root) == before


def test_downstream_steps_and_checks_of_a_dry_run_are_skipped(lake: Lake) -> None:
    """Downstream packet assets, ordinary assets and checks beside the asset are skipped, and the run succeeds."""
    calls: list[float] = []
    readings, slow = make_upstream(lambda: ROWS), asset(calls)
    after = packet_asset(lambda_plus, inputs="slow", tag_columns=["id"], output_keys=["z"], name="after")

    @dg.asset(deps=[slow])
    def ordinary() -> None:
        calls.append(-1.0)

    @dg.asset_check(asset=slow, blocking=True)
    def beside() -> dg.AssetCheckResult:
        calls.append(-2.0)
        return dg.AssetCheckResult(passed=False)

    @dg.asset_check(asset=slow)
    def loads(slow: Any) -> dg.AssetCheckResult:
        calls.append(-3.0)
        return dg.AssetCheckResult(passed=False)

    definitions = dg.Definitions(
        [readings, slow, after, ordinary],
        asset_checks=[beside, loads],
        resources=packet_resources(str(lake.root), as_default=True),
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=lake.instance, tags={"orcapod/dry_run": "true"})
    assert done.success
    assert calls == []
    report_of(done)
    skipped = {event.step_key for event in done.all_events if event.event_type_value == "STEP_SKIPPED"}
    assert {"after", "ordinary", "slow_beside", "slow_loads"} <= skipped


def lambda_plus(y: float) -> float:
    return y + 1


def test_check_specs_are_refused_when_defined() -> None:
    """A packet asset cannot evaluate checks of its own, which would fail each run; the error names the way."""
    with pytest.raises(DefinitionError, match="asset_check"):
        asset([], check_specs=[dg.AssetCheckSpec("mine", asset="slow")])


# ---------------------------------------------------------------------------- options as tags


def test_tags_of_a_run_are_options_of_all_its_packet_assets(lake: Lake) -> None:
    """`limit` and `rows` as tags narrow each packet asset of a run; run config that is set wins over a tag."""
    calls: list[float] = []
    readings, slow = make_upstream(lambda: ROWS), asset(calls)
    lake.run(readings, slow, tags={"orcapod/limit": "2", "orcapod/rows": "id >= 3"})
    assert calls == [3.0, 4.0]
    lake.run(
        readings, slow, tags={"orcapod/limit": "1", "orcapod/dry_run": "True"}, config={"dry_run": False, "limit": 3}
    )
    assert calls == [3.0, 4.0, 0.0, 1.0, 2.0]
    lake.run(readings, slow, tags={"orcapod/force": "true", "orcapod/rows": "id = 0", "team": "x"})
    assert calls[5:] == [0.0]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"orcapod/dry_run": "yes"}, 'expected "true" or "false"'),
        ({"orcapod/limit": "-1"}, "expected a number of packets"),
        ({"orcapod/limit": "ten"}, "expected a number of packets"),
        ({"orcapod/rows": " "}, "expected an SQL condition"),
        ({"orcapod/dryrun": "true"}, "no option of packet assets; those are orcapod/force, orcapod/limit"),
    ],
)
def test_a_malformed_tag_is_refused_before_anything_runs(lake: Lake, tags: dict[str, str], expected: str) -> None:
    """A tag that is misspelt or has no value of its option fails the step, which calls and writes nothing."""
    calls: list[float] = []
    lake.resources["io_manager"] = dg.mem_io_manager
    with pytest.raises(RunOptionError, match=expected):
        lake.run(make_upstream(lambda: ROWS), asset(calls), tags=tags)
    assert calls == []
    assert not lake.root.exists()


# ---------------------------------------------------------------------------- expected cost and the guard


def test_packets_take_what_they_took_and_new_ones_the_mean(lake: Lake) -> None:
    """After an edit packets are expected to take what their own results took, new ones the mean of the newest results."""
    readings = make_upstream(lambda: ROWS)
    lake.run(readings, asset([]), config={"rows": "id < 4"})
    (log,) = lake.root.glob("**/results/slow/**/_delta_log")
    durations = DeltaTable(str(log.parent)).to_pyarrow_table()["__pod_duration"].to_pylist()
    shown = report_of(lake.run(readings, asset([], code=2), config={"dry_run": True}))
    mean = sum(durations) / 4
    assert shown["orcapod/expected_seconds"] == pytest.approx(sum(durations) + 2 * mean, abs=1e-3)
    assert shown["orcapod/expected_by"] == (
        "4 packets by what their own results took, 2 by the mean of the newest 4 results of this function"
    )


def test_packets_that_run_at_a_time_take_less_until_done(lake: Lake) -> None:
    """With several workers all are done sooner, but not before the longest; nobody tells how many packets Ray runs at a time."""
    readings = make_upstream(lambda: ROWS)
    lake.run(readings, asset([]), config={"rows": "id < 4"})
    forced = {"dry_run": True, "force": True, "rows": "id < 4"}
    for workers, packets_each in ((2, 2), (50, 1)):
        pool = ProcessPoolExecutorResource(max_workers=1)
        lake.resources = packet_resources(str(lake.root), executor=pool, as_default=True)
        shown = report_of(lake.run(readings, asset([], executor_options={"max_workers": workers}), config=forced))
        seconds, wall = shown["orcapod/expected_seconds"], shown["orcapod/expected_wall_seconds"]
        assert seconds / 4 * packets_each <= wall * 1.001
        assert wall < seconds
    lake.resources = packet_resources(str(lake.root), executor=RayExecutorResource(), as_default=True)
    shown = report_of(lake.run(readings, asset([]), config=forced))
    assert shown["orcapod/expected_wall_seconds"] == "unknown"
    assert shown["orcapod/expected_seconds"] > 0


def test_the_guard_stops_an_edit_that_costs_more_than_the_limit(lake: Lake) -> None:
    """Above the limit a run fails before its first row, names edit, cost and ways out, and writes nothing; confirmed, it runs."""
    calls: list[float] = []
    readings = make_upstream(lambda: ROWS)
    lake.resources = packet_resources(str(lake.root), recompute_limit_hours=0.0) | {"io_manager": dg.mem_io_manager}
    lake.run(readings, asset(calls))
    lake.run(readings, asset(calls))  # a failure that is tried again trips nothing
    lake.run(readings, asset(calls), config={"force": True})
    calls.clear()
    before = snapshot(lake.root)
    with pytest.raises(RecomputeLimitError) as error:
        lake.run(readings, asset(calls, code=2))
    assert calls == []
    assert snapshot(lake.root) == before
    message = str(error.value)
    assert "slow: 5 packets that have results would be computed again:\n\n    5: the code changed: body" in message
    assert "      slow:\n        config:\n          confirm_recompute: true" in message
    assert "python -m orcapod_dagster accept" in message
    shown = report_of(lake.run(readings, asset(calls, code=2), tags={"orcapod/dry_run": "true"}))
    assert shown["orcapod/needs_confirm_recompute"] is True
    done = lake.run(readings, asset(calls, code=2), tags={"orcapod/confirm_recompute": "true"})
    assert lake.counts(done, "slow") == (6, 0, 6, 0, 0)


def test_new_rows_never_trip_the_guard(lake: Lake) -> None:
    """However much new rows cost, they are no recomputation; nor is what `rows` and `limit` leave out."""
    current = [ROWS.slice(0, 2)]
    readings = make_upstream(lambda: current[0])
    lake.resources = packet_resources(str(lake.root), as_default=True, recompute_limit_hours=0.0)
    lake.run(readings, asset([]))
    current[0] = ROWS
    lake.run(readings, asset([]))
    lake.run(readings, asset([], code=2), config={"rows": "id > 4"})
    with pytest.raises(RecomputeLimitError):
        lake.run(readings, asset([], code=2), config={"rows": "id > 3"})


def by_one(x: float, by: float = 1.0) -> float:
    return x + by


def by_two(x: float, by: float = 2.0) -> float:
    return x + by


def by_a_parameter(x: float, by: float = 1.0, times: float = 1.0) -> float:
    return (x + by) * times


@pytest.mark.parametrize(
    ("function", "named", "options", "reason"),
    [
        (by_two, "f", {}, "the code changed: default by"),
        (by_a_parameter, "f", {}, "the signature changed: times (added)"),
        (by_one, "g", {}, "the function's name changed: f → g"),
        (by_one, "f", {"version": "v1.0"}, "the version changed: v0 → v1"),
        (by_one, "f", {"output_keys": ["z"]}, "the output columns changed: z (added), y (removed)"),
    ],
)
def test_an_edit_that_makes_other_packets_is_guarded(
    lake: Lake, function: Any, named: str, options: dict[str, Any], reason: str
) -> None:
    """An edit whose packets have no result under their own hash or place costs as much, and trips the guard; new rows do not."""
    current = [ROWS.slice(0, 3)]
    readings = make_upstream(lambda: current[0])
    lake.resources = packet_resources(str(lake.root), as_default=True, recompute_limit_hours=0.0)

    def made(function: Any, named: str, **options: Any) -> dg.AssetsDefinition:
        settings = {"output_keys": ["y"], "version": "v0.0", **options}
        one = PythonPacketFunction(function, settings["output_keys"], named, settings["version"])
        return packet_asset(one, inputs="readings", tag_columns=["id"], name="slow")

    lake.run(readings, made(by_one, "f"))
    current[0] = ROWS
    with pytest.raises(RecomputeLimitError) as error:
        lake.run(readings, made(function, named, **options))
    assert f"3 packets that have results would be computed again:\n\n    3: {reason}" in str(error.value)
    lake.run(readings, made(by_one, "f"))


@pytest.mark.parametrize("limit", [None, 1.0])
def test_the_guard_can_be_off_and_is_generous(lake: Lake, limit: float | None) -> None:
    """Without a limit, and below the default one, an edit runs as it is."""
    readings = make_upstream(lambda: ROWS)
    given = {} if limit == 1.0 else {"recompute_limit_hours": limit}
    lake.resources = packet_resources(str(lake.root), as_default=True, **given)
    assert lake.resources["result_store"].recompute_limit_hours == limit
    lake.run(readings, asset([]))
    assert lake.counts(lake.run(readings, asset([], code=2)), "slow") == (6, 0, 6, 0, 0)


def test_a_range_of_partitions_in_one_run_is_guarded_as_a_whole(lake: Lake) -> None:
    """In a single run over a range of partitions, the packets of all of them count, and a dry run observes the range."""
    options: dict[str, Any] = {
        "partitions_def": dg.StaticPartitionsDefinition(["a", "b"]),
        "metadata": {"partition_expr": "site"},
        "backfill_policy": dg.BackfillPolicy.single_run(),
    }
    rows = pa.table({"site": ["a", "a", "b"], "x": [1.0, 2.0, 3.0]})
    calls: list[float] = []
    readings = make_upstream(lambda: rows, io_manager_key="packet_io_manager", **options)
    whole = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"}
    lake.resources = packet_resources(str(lake.root), recompute_limit_hours=0.0)
    options["tag_columns"] = ["site", "x"]
    lake.run(readings, asset(calls, **options), tags=whole)
    with pytest.raises(RecomputeLimitError, match="3 packets that have results"):
        lake.run(readings, asset(calls, code=2, **options), tags=whole)
    shown = report_of(lake.run(readings, asset(calls, code=2, **options), tags={**whole, "orcapod/dry_run": "true"}))
    assert shown["orcapod/would_compute"] == 3
    lake.run(readings, asset(calls, code=2, **options), tags={**whole, "orcapod/confirm_recompute": "true"})
    assert sorted(calls) == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_the_errors_are_of_the_tree() -> None:
    """Both errors are errors of this package."""
    assert issubclass(RecomputeLimitError, OrcapodError)
    assert issubclass(RunOptionError, ValueError)
