"""Clean-up: what is no longer needed goes, what anybody could need stays, whoever runs meanwhile."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.cli import main
from orcapod_dagster.core import columns as names, delta
from orcapod_dagster.core.cleanup import CleanSettings, Removable, clean, results as results_module
from orcapod_dagster.core.delta import write as write_module
from orcapod_dagster.core.delta.files import write_files
from orcapod_dagster.core.errors import LakeError, StorageError
from orcapod_dagster.core.key_index import FOLDER, data_file_of
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.verify import verify

DAY = dt.timedelta(days=1)
LONG_AGO = time.time() - 100 * 86_400
OLD = dt.datetime.now(dt.UTC) - 100 * DAY


class Project:
    """A lake with an asset `numbers` and the packet asset `square` of it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "lake"
        self.lake = Lake(str(self.root))

    def run(self, rows: int) -> Any:
        @dg.asset
        def numbers() -> pa.Table:
            return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

        def square(x: int) -> int:
            return x * x

        asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"])
        resources = packet_resources(str(self.root), as_default=True)
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([numbers, asset], instance=instance, resources=resources)
        return done.asset_materializations_for_node("square")[0]

    @property
    def results(self) -> str:
        (name,) = (f.name for f in self.lake.folders() if f.name.startswith(".orcapod/results/square"))
        return name

    def uri(self, name: str) -> str:
        return f"{self.root}/{name}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    for rows in (3_000, 4_000, 3_000):
        Project(folder).run(rows)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Project:
    """A lake whose asset had 3,000, 4,000 and again 3,000 rows."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


def after(days: float, **settings: Any) -> CleanSettings:
    """Settings as if everything that is there were so many days old."""
    return CleanSettings(now=dt.datetime.now(dt.UTC) + days * DAY, **settings)


def found(project: Project, settings: CleanSettings, *, dry_run: bool = True) -> dict[tuple[str, str], Removable]:
    return {(one.table, one.what): one for one in clean(project.lake, settings, dry_run=dry_run)}


def table_at(uri: str, version: int | None = None) -> pa.Table:
    table = delta.open_table(uri, version=version)
    assert table is not None
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


def whole(project: Project) -> bool:
    return not [f for report in verify(str(project.root), read_all=True) for f in report.findings if not f.harmless]


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------- files


def test_a_dry_run_changes_nothing(project: Project) -> None:
    """What could go is told with its size, and every file is as it was."""
    before = files(project.root)
    told = found(project, after(8, keep_results="used", results_older_than=DAY))
    assert {what for _, what in told} == {"superseded files", "results", "plans of runs"}
    assert told["square", "superseded files"].files == 2
    assert told["square", "superseded files"].bytes > 0
    assert told[project.results, "results"].rows == 1_000
    assert files(project.root) == before


def test_superseded_files_go_after_the_retention(project: Project) -> None:
    """Within the retention nothing goes; after it exactly the files that only older versions name, and verify is content."""
    assert found(project, after(6), dry_run=False) == {}
    versions = [table_at(project.uri("square"), v).num_rows for v in (1, 2, 3)]
    assert versions == [3_000, 4_000, 3_000]
    gone = found(project, after(8), dry_run=False)
    assert {table for table, _ in gone} == {"numbers", "square"}
    assert table_at(project.uri("square")).num_rows == 3_000
    with pytest.raises(StorageError):
        table_at(project.uri("square"), 1)
    assert whole(project)
    assert found(project, after(8)) == {}


def test_time_travel_within_the_retention_keeps_working(project: Project) -> None:
    """The version that was the newest when the retention began, and all since, stay readable."""
    commits = sorted(Path(project.uri("square"), "_delta_log").glob("*.json"))
    for days, commit in ((100, commits[0]), (100, commits[1]), (50, commits[2])):
        backdate(commit, days)
    for path in Path(project.uri("square")).glob("*.parquet"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    found(project, CleanSettings(older_than=60 * DAY), dry_run=False)
    assert [table_at(project.uri("square"), v).num_rows for v in (1, 2, 3)] == [3_000, 4_000, 3_000]
    found(project, CleanSettings(older_than=40 * DAY), dry_run=False)
    assert [table_at(project.uri("square"), v).num_rows for v in (2, 3)] == [4_000, 3_000]
    with pytest.raises(StorageError):
        table_at(project.uri("square"), 1)


def backdate(commit: Path, days: int) -> None:
    """Make a commit so many days old, by what it says and by its file."""
    then = time.time() - days * 86_400
    commit.write_text(re.sub(r'"timestamp":\d+', f'"timestamp":{int(then * 1000)}', commit.read_text()))
    os.utime(commit, (then, then))


def test_what_killed_writers_left_goes_after_a_day(project: Project) -> None:
    """Data files that no commit names, temporary files and files beside data files that are gone; nothing of anybody else."""
    square = Path(project.uri("square"))
    live = next(path for path in square.glob("*.parquet"))
    litter = [
        "part-0.parquet",
        "part-1.parquet#1",
        "_delta_log/00000000000000000009.json#1",
        "part-0.parquet.keys",
        "part-2.parquet.keys",
    ]
    others = ["notes.txt", f"{live.name}.keys", "sub/part-9.parquet", "_delta_log/_last_checkpoint"]
    for name in (*litter, *others):
        (square / name).parent.mkdir(exist_ok=True)
        (square / name).write_bytes(b"x" * 10)
    (square / "_delta_log/_last_checkpoint").unlink()
    assert found(project, CleanSettings()) == {}
    for name in (*litter, *others[:-1]):
        os.utime(square / name, (LONG_AGO, LONG_AGO))
    gone = found(project, CleanSettings(), dry_run=False)
    assert {(what, one.files) for (_, what), one in gone.items()} == {
        ("files of killed writers", 1),
        ("temporary files", 2),
        ("files beside data files", 2),
    }
    assert not [name for name in litter if (square / name).exists()]
    assert all((square / name).exists() for name in others[:-1])
    assert table_at(str(square)).num_rows == 3_000


def test_indexes_of_keys_go_with_their_data_files(project: Project) -> None:
    """Those of data files that are gone, and unfinished ones, go after a day; the living are nothing to clean or verify."""
    folder = Path(project.uri(project.results), FOLDER)
    living = sorted(folder.iterdir())
    assert living
    gone = folder / "part-0.parquet.some.column"
    half = folder / f".{living[0].name}.0f"
    for path in (gone, half):
        path.write_bytes(b"x" * 10)
    assert found(project, CleanSettings()) == {}
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    (report,) = (one for one in verify(str(project.root)) if one.table == project.results)
    assert [one.what.partition(":")[0] for one in report.findings] == ["1 files (10 bytes) belong to no version"] * 2
    kinds = {(what, one.files) for (_, what), one in found(project, CleanSettings(), dry_run=False).items()}
    assert kinds == {("files beside data files", 1), ("temporary files", 1)}
    assert sorted(folder.iterdir()) == living
    assert whole(project)


def test_indexes_are_no_part_of_a_table(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` counts data files alone, and an export has the rows alone."""
    assert main(["inspect", "--root-uri", str(project.root), "--table", project.results]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    sizes = [path.stat().st_size for path in Path(project.uri(project.results)).glob("*.parquet")]
    assert line.split()[1:-1] == ["4,000", str(len(sizes)), f"{sum(sizes) / 1e6:.2f}"]
    target = tmp_path / "results.parquet"
    assert main(["export", "--root-uri", str(project.root), project.results, "--to", str(target)]) == 0
    assert pq.read_metadata(target).num_rows == 4_000


def test_tables_in_the_folder_of_another_keep_their_files(tmp_path: Path) -> None:
    """An asset `a/b` lies in the folder of the asset `a`; a clean-up of `a` does not take its files for orphans."""
    lake = Lake(str(tmp_path))
    for name in ("a", "a/b"):
        delta.replace(str(tmp_path / name), pa.table({"n": [1, 2]}).to_reader, where=None)
    for path in tmp_path.rglob("*.parquet"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert list(clean(lake, CleanSettings(), dry_run=False)) == []
    assert [table_at(str(tmp_path / name)).num_rows for name in ("a", "a/b")] == [2, 2]


def test_links_are_not_followed(project: Project, tmp_path: Path) -> None:
    """A table behind a symbolic link is left alone and named."""
    outside = tmp_path / "outside"
    delta.replace(str(outside), pa.table({"n": [1]}).to_reader, where=None)
    stray = outside / "part-9.parquet"
    stray.write_bytes(b"x")
    os.utime(stray, (LONG_AGO, LONG_AGO))
    (project.root / "linked").symlink_to(outside)
    told = found(project, after(8), dry_run=False)
    assert told["linked", "left alone"].problem
    assert stray.exists()


def test_a_damaged_table_is_left_alone(project: Project) -> None:
    """A table that cannot be opened is named, its files stay, and no result goes, for nobody knows what it uses."""
    newest = max(Path(project.uri("square"), "_delta_log").glob("*.json"))
    newest.write_bytes(b"")
    before = files(project.root / "square")
    told = found(project, after(40, keep_results="used"), dry_run=False)
    assert told["square", "left alone"].problem
    assert told[".orcapod", "all results stay"].problem
    assert files(project.root / "square") == before
    assert table_at(project.uri(project.results)).num_rows == 4_000


def test_ages_below_a_day_need_a_word() -> None:
    """An age that could hurt a running writer is refused unless the user says that nothing runs."""
    with pytest.raises(LakeError, match="less than a day"):
        CleanSettings(older_than=DAY / 2)
    with pytest.raises(LakeError, match="--nothing-runs"):
        CleanSettings(results_older_than=DAY / 2)
    CleanSettings(older_than=DAY / 2, nothing_runs=True)


def test_a_writer_that_slept_for_days_does_not_break_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written, not committed, and taken for a dead writer's: the late commit is refused, the table stays whole."""
    uri = str(tmp_path / "t")
    delta.append(uri, pa.table({"n": [1]}).to_reader)

    def asleep(*arguments: Any, **options: Any) -> Any:
        actions = write_files(*arguments, **options)
        for path in tmp_path.rglob("*.parquet"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        gone = list(clean(Lake(str(tmp_path)), CleanSettings(), dry_run=False))
        assert [one.what for one in gone] == ["files of killed writers"]
        for action in actions:
            action.modification_time = int(LONG_AGO * 1000)
        return actions

    monkeypatch.setattr(write_module, "write_files", asleep)
    with pytest.raises(StorageError, match="a clean-up took it for dead"):
        delta.append(uri, pa.table({"n": [2]}).to_reader)
    monkeypatch.undo()
    assert table_at(uri)["n"].to_pylist() == [1]
    delta.append(uri, pa.table({"n": [2]}).to_reader)
    assert sorted(table_at(uri)["n"].to_pylist()) == [1, 2]


def test_a_pinned_reader_outlives_a_clean_up(project: Project) -> None:
    """A run that pinned a version before the clean-up reads on, though the version is superseded and compacted meanwhile."""
    table = delta.open_table(project.uri("square"))
    assert table is not None
    source = DeltaSource(table)
    project.run(10)
    for path in Path(project.uri("square")).glob("*.parquet"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    found(project, CleanSettings(), dry_run=False)
    assert sum(batch.num_rows for batch in source.scan(["id", "y"])) == 3_000


# ---------------------------------------------------------------------------- results


def test_results_stay_unless_they_are_named(project: Project) -> None:
    """By default no result goes, however old and unused it is."""
    assert not [what for _, what in found(project, after(1_000)) if what == "results"]


def test_unused_results_go_and_the_next_run_changes_nothing(project: Project) -> None:
    """Rows that left the input long ago lose their results; the next run finds all it needs and writes no new version."""
    before = project.run(3_000)
    version = delta.open_table(project.uri("square"), None).version()  # type: ignore[union-attr]
    assert (project.results, "results") not in found(project, after(29, keep_results="used"))
    gone = found(project, after(40, keep_results="used"), dry_run=False)
    assert gone[project.results, "results"].rows == 1_000
    kept = table_at(project.uri(project.results))
    used = table_at(project.uri("square"))
    assert set(kept[names.RECORD_ID].to_pylist()) == set(used[names.RECORD_ID].to_pylist())
    assert kept.schema == table_at(project.uri(project.results), 1).schema
    again = project.run(3_000)
    assert again.metadata["orcapod/packets_computed"].value == 0
    assert again.tags["dagster/data_version"] == before.tags["dagster/data_version"]
    assert delta.open_table(project.uri("square"), None).version() == version  # type: ignore[union-attr]
    assert project.run(4_000).metadata["orcapod/packets_computed"].value == 1_000
    assert whole(project)


def test_results_of_a_retained_version_are_used(project: Project) -> None:
    """As long as time travel can show a row, its result stays."""
    assert (project.results, "results") not in found(project, after(40, keep_results="used", older_than=50 * DAY))


def test_code_that_made_no_row_of_an_asset_is_old(tmp_path: Path) -> None:
    """Of one result table with records of two codes, only those of the code that no asset uses, and that is not the newest, go."""
    project = Project(tmp_path)
    project.run(100)
    results = project.uri(project.results)
    rows = table_at(results)
    old = with_column(with_column(rows, "__pf_var_function_content_hash", "content.v0:00"), names.RECORD_ID, "new")
    delta.append(results, with_column(old, names.TIMESTAMP, OLD).to_reader)
    spare = with_column(with_column(rows, names.RECORD_ID, "new"), names.TIMESTAMP, OLD)
    delta.append(results, spare.to_reader)
    gone = found(project, CleanSettings(keep_results="current-code"), dry_run=False)
    assert gone[project.results, "results"].rows == 100
    left = table_at(results)
    assert left.num_rows == 200
    assert "content.v0:00" not in left["__pf_var_function_content_hash"].to_pylist()
    assert found(project, CleanSettings(keep_results="used"))[project.results, "results"].rows == 100


def with_column(table: pa.Table, name: str, value: Any) -> pa.Table:
    """Return a table of records with one value, or with fresh ids, in a column."""
    rows = table.num_rows
    values = [os.urandom(16) for _ in range(rows)] if value == "new" else [value] * rows
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_another_lake_may_use_the_results(project: Project, tmp_path: Path) -> None:
    """Results that only the assets of another lake use stay when that lake is named."""
    other = tmp_path / "other"
    delta.replace(str(other / "square"), lambda: table_at(project.uri("square"), 2).to_reader(), where=None)
    named = after(40, keep_results="used", used_by=(Lake(str(other)),))
    assert (project.results, "results") not in found(project, named)


def test_a_failure_goes_a_skip_of_current_code_stays(tmp_path: Path) -> None:
    """Of the log of failures and skips only old failures go: a skip is an answer that would have to be computed again."""
    from orcapod_dagster import SkipPacket

    def odd(x: int) -> int:
        if x == 1:
            raise SkipPacket("one")
        if x == 2:
            raise ValueError("two")
        return x

    @dg.asset
    def numbers() -> pa.Table:
        return pa.table({"x": [0, 1, 2]})

    asset = packet_asset(odd, inputs=numbers, tag_columns=["x"], output_keys=["y"], on_error="continue")
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            [numbers, asset], instance=instance, resources=packet_resources(str(tmp_path / "lake"), as_default=True)
        )
    lake = Lake(str(tmp_path / "lake"))
    (log,) = (folder for folder in lake.folders() if folder.name.startswith(".orcapod/outcomes"))
    gone = [one for one in clean(lake, after(40, keep_results="used"), dry_run=False) if one.rows]
    assert [(one.what, one.rows) for one in gone] == [("failures and skips", 1), ("plans of runs", 1)]
    assert gone[0].table == log.name
    assert table_at(log.uri)["state"].to_pylist() == ["SKIPPED"]


def test_appends_meanwhile_stay(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are stored between the look and the commit of a clean-up stay, and compactions in between cost a new try."""
    from orcapod_dagster.core.compaction import compact

    uri = project.uri(project.results)
    fresh = with_column(table_at(uri).slice(0, 5), names.RECORD_ID, "new")
    fresh = with_column(fresh, names.TIMESTAMP, dt.datetime.now(dt.UTC) + 50 * DAY)
    staying = results_module._staying
    interruptions: list[Callable[[], Any]] = [lambda: compact(uri), lambda: delta.append(uri, fresh.to_reader)]

    def interrupted(*arguments: Any) -> Any:
        if interruptions:
            interruptions.pop(0)()
        yield from staying(*arguments)

    monkeypatch.setattr(results_module, "_staying", interrupted)
    found(project, after(40, keep_results="used"), dry_run=False)
    assert not interruptions
    assert table_at(uri).num_rows == 3_005


# ---------------------------------------------------------------------------- the log


def test_old_log_entries_go_once_a_checkpoint_holds_them(tmp_path: Path) -> None:
    """Commits of more than 30 days ago go, the table and its newest versions stay, and appends go on."""
    uri = str(tmp_path / "t")
    for number in range(30):
        delta.append(uri, pa.table({"n": [number]}).to_reader)
    log = Path(uri, "_delta_log")
    lake = Lake(str(tmp_path))
    assert list(clean(lake, CleanSettings())) == []
    for path in log.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    old = 30 + len(list(log.glob("*.checkpoint.parquet")))
    (told,) = clean(lake, CleanSettings())
    (done,) = clean(lake, CleanSettings(), dry_run=False)
    assert (told.what, told.files, done.files) == ("log entries", old, old)
    assert sorted(p.name for p in log.glob("*.json")) == [f"{30:020}.json"]
    delta.append(uri, pa.table({"n": [30]}).to_reader)
    assert sorted(table_at(uri)["n"].to_pylist()) == list(range(31))
    assert list(clean(lake, CleanSettings())) == []


def test_a_checkpoint_is_on_the_disk_before_the_commits_it_holds_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that clean-up makes is forced to the disk while every commit is still there."""
    uri = str(tmp_path / "t")
    for number in range(3):
        delta.append(uri, pa.table({"n": [number]}).to_reader)
    log, sync = Path(uri, "_delta_log"), os.fsync
    for path in log.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    commits_at_sync: dict[int, int] = {}

    def spy(handle: int) -> None:
        commits_at_sync[os.fstat(handle).st_ino] = len(list(log.glob("*.json")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    list(clean(Lake(str(tmp_path)), CleanSettings(), dry_run=False))
    assert len(list(log.glob("*.json"))) == 1
    assert [commits_at_sync.get(path.stat().st_ino) for path in (log / f"{3:020}.checkpoint.parquet", log)] == [4, 4]


# ---------------------------------------------------------------------------- real processes

RUN = textwrap.dedent(
    """
    import sys, time
    import dagster as dg
    import pyarrow as pa
    from orcapod_dagster import packet_asset, packet_resources

    root, rows, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    def square(x: int) -> int:
        if pause:
            time.sleep(pause)
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], match="version")
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([numbers, asset], instance=instance, resources=packet_resources(root))
    """
)


def start(folder: Path, rows: int, pause: float) -> subprocess.Popen[bytes]:
    script = folder / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder / "lake"), str(rows), str(pause)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "ORCAPOD_GIT": "off"}
    )


def litter(project: Project) -> None:
    """Leave what a clean-up removes in both tables: files of killed writers, and results nobody uses for 100 days."""
    for name in ("square", project.results):
        stray = Path(project.uri(name), f"part-{os.urandom(4).hex()}.parquet")
        stray.write_bytes(b"x")
        os.utime(stray, (LONG_AGO, LONG_AGO))
    uri = project.uri(project.results)
    rows = with_column(table_at(uri).slice(0, 50), names.RECORD_ID, "new")
    keys = with_column(rows, names.INPUT_HASH, "new")
    delta.append(uri, with_column(keys, names.TIMESTAMP, OLD).to_reader)


@pytest.mark.slow
def test_a_run_beside_clean_ups_is_as_if_alone(project: Project, tmp_path: Path) -> None:
    """While a run stores results, is stopped, goes on and replaces its table, clean-ups remove litter: its rows are there, once."""
    process = start(tmp_path, 6_000, 0.002)
    rounds = removed = 0
    while process.poll() is None:
        if rounds == 1:
            os.kill(process.pid, signal.SIGSTOP)
        litter(project)
        gone = found(project, CleanSettings(older_than=DAY, keep_results="used"), dry_run=False)
        removed += sum(one.rows for one in gone.values())
        rounds += 1
        if rounds == 2:
            os.kill(process.pid, signal.SIGCONT)
    assert process.returncode == 0, process.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
    assert rounds >= 3
    assert removed == 50 * rounds
    table = table_at(project.uri("square"))
    assert table["id"].to_pylist() == list(range(6_000))
    assert table["y"].to_pylist() == [i * i for i in range(6_000)]
    assert table_at(project.uri(project.results)).num_rows == 6_000
    assert whole(project)


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from orcapod_dagster.core import delta
    from orcapod_dagster.core.cleanup import CleanSettings, clean
    from orcapod_dagster.core.lake import Lake
    import datetime as dt

    root, place, passage = sys.argv[1], sys.argv[2], int(sys.argv[3])
    passed = 0

    def dies(original, before):
        def wrapped(*arguments, **options):
            global passed
            passed += 1
            if before and passed == passage:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if not before and passed == passage:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped

    owner, name, before = {
        "before the commit": (delta.Write, "_try", True),
        "after the commit": (delta.Write, "_try", False),
    }[place]
    setattr(owner, name, dies(getattr(owner, name), before))
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=40)
    for one in clean(Lake(root), CleanSettings(keep_results="used", now=now), dry_run=False):
        pass
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before the commit", "after the commit"])
def test_a_killed_clean_up_leaves_a_whole_lake(project: Project, place: str) -> None:
    """SIGKILL between the steps of removing rows: every table is whole, and the next clean-up ends as one that was never killed."""
    command = [sys.executable, "-c", KILLED, str(project.root), place, "1"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert table_at(project.uri("square")).num_rows == 3_000
    assert table_at(project.uri(project.results)).num_rows in (3_000, 4_000)
    assert whole(project)
    found(project, after(40, keep_results="used"), dry_run=False)
    found(project, after(80), dry_run=False)
    assert table_at(project.uri(project.results)).num_rows == 3_000
    data = [name for name in files(project.root) if name.endswith(".parquet") and "/part-" in name]
    assert len(data) == 5  # one file of each table, and none that a killed clean-up wrote
    (index,) = Path(project.uri(project.results), FOLDER).iterdir()
    assert f"{project.results}/{data_file_of(index.name)}" in data
    assert whole(project)


def test_a_clean_up_killed_between_two_files_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up that removed some of its files leaves the rest to the next; what vanishes meanwhile is no error."""
    settings = after(8)
    gone = [one for one in clean(project.lake, settings) if one.table == "square"]
    next(iter(sorted(superseded(project)))).unlink()
    for one in gone:
        one.remove()
    assert superseded(project) == []
    assert [one.table for one in clean(project.lake, settings)] == ["numbers"]


def superseded(project: Project) -> Sequence[Path]:
    square = Path(project.uri("square"))
    table = delta.open_table(str(square))
    assert table is not None
    live = set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())
    return [path for path in square.glob("*.parquet") if path.name not in live]
