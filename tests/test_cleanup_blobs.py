"""Clean-up of large values: what any retained version of a table names stays, whoever runs meanwhile; the rest goes once it is old."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import Blob, packet_asset, packet_resources
from orcapod_dagster.cli import main
from orcapod_dagster.core import BlobStore, delta
from orcapod_dagster.core.blobs.layout import BLOB_TYPE
from orcapod_dagster.core.blobs.store import LISTING
from orcapod_dagster.core.cleanup import CleanSettings, Removable, clean
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.verify import verify

DAY = dt.timedelta(days=1)
LONG_AGO = time.time() - 100 * 86_400
FOLDER = ".orcapod/blobs"


def leaf(seed: int) -> bytes:
    return seed.to_bytes(2, "big") * 20_000


class Project:
    """A lake with an asset `seeds` and the packet asset `grow` of it, whose output is a large value per row."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = BlobStore(str(root))

    def run(self, *numbers: int) -> None:
        @dg.asset
        def seeds() -> pa.Table:
            return pa.table({"seed": numbers})

        def grow(seed: int) -> Blob:
            return Blob(leaf(seed))

        asset = packet_asset(grow, inputs=seeds, tag_columns=["seed"], output_keys=["leaf"])
        with dg.DagsterInstance.ephemeral() as instance:
            resources = packet_resources(str(self.root), as_default=True)
            dg.materialize([seeds, asset], instance=instance, resources=resources)

    def clean(self, settings: CleanSettings, *, dry_run: bool = False) -> dict[str, Removable]:
        """Clean up, and return what concerns large values."""
        found = list(clean(Lake(str(self.root)), settings, dry_run=dry_run))
        return {one.what: one for one in found if one.table == FOLDER}

    def stray(self, content: bytes, modified: float = LONG_AGO) -> Path:
        """Store a value that no table names."""
        file = Path(self.store.keeper.keep(content, "c").file)
        os.utime(file, (modified, modified))
        return file

    def place(self, seed: int) -> Path:
        return self.root / FOLDER / Blob(leaf(seed)).hash[:2] / Blob(leaf(seed)).hash

    def seeds_left(self) -> list[int]:
        return [seed for seed in range(10) if self.place(seed).exists()]

    def is_whole(self) -> bool:
        reports = verify(str(self.root), read_all=True)
        return not [finding for report in reports for finding in report.findings if not finding.harmless]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "lake"
    for numbers in ((1, 2, 3), (1, 2)):
        Project(root).run(*numbers)
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Project:
    """A lake whose asset named the values of seeds 1, 2 and 3, and now names those of 1 and 2; its results name all."""
    shutil.copytree(finished, tmp_path / "lake")
    return Project(tmp_path / "lake")


def after(days: float, older_than: float = 7, **settings: object) -> CleanSettings:
    """Settings as if everything that is there were so many days old."""
    now = dt.datetime.now(dt.UTC) + days * DAY
    return CleanSettings(older_than=older_than * DAY, now=now, **settings)  # type: ignore[arg-type]


def no_results(root: Path) -> None:
    shutil.rmtree(root / ".orcapod/results")


def no_asset(root: Path) -> None:
    shutil.rmtree(root / "grow")


def no_names(root: Path) -> None:
    no_results(root)
    no_asset(root)


@pytest.mark.parametrize(
    ("lose", "retention", "left"),
    [
        (lambda root: None, 7, [1, 2, 3]),
        (no_results, 100, [1, 2, 3]),
        (no_results, 7, [1, 2]),
        (no_asset, 7, [1, 2, 3]),
        (no_names, 7, []),
    ],
    ids=["results name it", "an older version names it", "no version names it", "results alone", "nothing"],
)
def test_what_a_retained_version_names_stays(
    project: Project, lose: Callable[[Path], None], retention: float, left: list[int]
) -> None:
    """After 40 days a value is there exactly if results, the asset, or one of its retained versions name it."""
    lose(project.root)
    project.clean(after(40, retention))
    assert project.seeds_left() == left
    assert project.is_whole()


def test_what_nothing_names_goes_after_a_day(project: Project) -> None:
    """A young value stays, an old one is shown with its size, then removed; what is used again between the two stays."""
    young, old, used = project.stray(leaf(7), time.time() - 80_000), project.stray(leaf(8)), project.stray(leaf(9))
    found = project.clean(CleanSettings(), dry_run=True)
    assert [(what, one.files, one.bytes, one.problem) for what, one in found.items()] == [
        ("large values", 2, 80_000, False)
    ]
    assert old.exists()
    project.store.keeper.keep(leaf(9), "c")
    found["large values"].remove()
    found["large values"].remove()
    assert (young.exists(), old.exists(), used.read_bytes() == leaf(9)) == (True, False, True)
    assert project.store.leftovers().num_rows == 0
    assert project.clean(CleanSettings()) == {}


def test_values_of_removed_results_go_when_the_version_before_does(project: Project) -> None:
    """A clean-up that removes a result leaves its value for as long as time travel reaches the result."""
    no_asset(project.root)
    project.run(1, 2)
    os.utime(project.place(3), (LONG_AGO, LONG_AGO))
    settings = CleanSettings(keep_results="used", results_older_than=0 * DAY, nothing_runs=True)
    (removed,) = (one for one in clean(Lake(str(project.root)), settings, dry_run=False) if one.what == "results")
    assert removed.rows == 1
    assert project.seeds_left() == [1, 2, 3]
    project.clean(after(8))
    assert project.seeds_left() == [1, 2]
    assert project.is_whole()


def test_values_inside_of_other_columns_are_named(project: Project) -> None:
    """An ordinary asset may hold the structs of values in lists and structs; what they name stays."""
    names = [Blob(leaf(seed)) for seed in range(5, 8)]
    for seed in range(5, 9):
        project.stray(leaf(seed))
    rows = [
        {"hash": blob.digest, "size": blob.size, "media_type": "", "path": f"{FOLDER}/{blob.hash[:2]}/{blob.hash}"}
        for blob in names
    ]
    table = pa.table(
        {
            "several": pa.array([[rows[0], None], None], pa.list_(BLOB_TYPE)),
            "inside": pa.array([None, {"a": rows[1], "path": 1}], pa.struct({"a": BLOB_TYPE, "path": pa.int64()})),
            "named": pa.array([[("x", rows[2])], []], pa.map_(pa.string(), BLOB_TYPE)),
            "other": pa.array([{"path": 1}, None], pa.struct({"path": pa.int64()})),
        }
    )
    delta.replace(str(project.root / "ordinary"), table.to_reader, where=None)
    project.clean(CleanSettings())
    assert project.seeds_left() == [1, 2, 3, 5, 6, 7]


def test_other_lakes_that_use_the_results_keep_their_values(project: Project, tmp_path: Path) -> None:
    """What only an asset table of another lake names stays when that lake is given, and goes when it is not."""
    other = tmp_path / "other"
    (project.root / "grow").rename(other)
    no_results(project.root)
    (tmp_path / "lakes").mkdir()
    other.rename(tmp_path / "lakes/grow")
    project.clean(after(40, used_by=(Lake(str(tmp_path / "lakes")),)))
    assert project.seeds_left() == [1, 2]
    project.clean(after(40))
    assert project.seeds_left() == []


@pytest.mark.parametrize("damage", ["log", "data", "link"])
def test_where_a_table_cannot_be_read_no_value_goes(
    project: Project, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that cannot be opened, has lost a file, or is a link may name anything: that is said, and values stay."""
    stray = project.stray(leaf(8))
    table = project.root / "seeds"
    if damage == "log":
        newest = max((table / "_delta_log").glob("*.json"))
        newest.write_text(newest.read_text()[:-20])
    elif damage == "data":
        for path in (project.root / "grow").glob("*.parquet"):
            path.unlink()
    else:
        table.rename(project.root.parent / "elsewhere")
        table.symlink_to(project.root.parent / "elsewhere")
    found = project.clean(CleanSettings())
    assert [(what, one.problem, one.files) for what, one in found.items()] == [("large values stay", True, 0)]
    assert "what tables name is not known: " in found["large values stay"].why
    assert stray.exists()
    assert main(["clean", "--root-uri", str(project.root), "--yes"]) == 1
    assert "large values stay" in capsys.readouterr().out


def test_one_table_says_nothing_of_values(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A clean-up of one table leaves all values alone, and says so."""
    stray = project.stray(leaf(8))
    assert main(["clean", "--root-uri", str(project.root), "--table", "grow", "--yes"]) == 0
    assert "Large values are left alone" in capsys.readouterr().out
    assert stray.exists()
    assert main(["clean", "--root-uri", str(project.root), "--yes"]) == 0
    assert f"  {FOLDER}: no retained version" in capsys.readouterr().out
    assert not stray.exists()


def test_what_killed_calls_left_goes_after_the_longest_run(project: Project) -> None:
    """Directories and files of calls go once nothing in them changed for the retention; those of calls that go on stay."""
    work = project.root / FOLDER / "work"
    work.mkdir(exist_ok=True)
    (work / "new-0").write_bytes(b"x" * 10)
    for name in ("run-old/sub", "run-empty", "run-goes-on/sub", "run-begins"):
        (work / name).mkdir(parents=True)
    (work / "run-old/sub/file").write_bytes(b"x" * 5)
    (work / "run-old/link").symlink_to(project.root)
    for path in (*work.rglob("*"), *work.iterdir()):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    (work / "run-goes-on/sub/file").write_bytes(b"x")
    os.utime(work / "run-begins")
    before = set(work.iterdir())
    assert project.clean(CleanSettings(older_than=101 * DAY)) == {}
    assert set(work.iterdir()) == before
    found = project.clean(CleanSettings())
    assert [(what, one.files, one.bytes) for what, one in found.items()] == [("unfinished large values", 3, 15)]
    assert {path.name for path in work.iterdir()} == {"run-goes-on", "run-begins"}
    assert (work / "run-goes-on/sub/file").exists()
    assert project.is_whole()


KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    from orcapod_dagster.core.cleanup import CleanSettings, clean
    from orcapod_dagster.core.lake import Lake

    def dies(path, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(pathlib.Path, sys.argv[2], dies)
    list(clean(Lake(sys.argv[1]), CleanSettings(), dry_run=False))
    """
)


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_a_killed_clean_up_leaves_the_rest_to_the_next(project: Project, step: str) -> None:
    """SIGKILL before and within the removal of a value: every value that is named is there, and the next removes the rest."""
    strays = [project.stray(leaf(seed)) for seed in (7, 8)]
    command = [sys.executable, "-c", KILLED, str(project.root), step]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert [path.exists() for path in sorted(strays)] == [step == "rename", True]
    assert project.is_whole()
    project.clean(after(8))
    assert project.seeds_left() == [1, 2, 3]
    assert project.store.leftovers().num_rows == 0


RUN = textwrap.dedent(
    """
    import sys, time
    import dagster as dg
    import pyarrow as pa
    from orcapod_dagster import Blob, packet_asset, packet_resources

    @dg.asset(io_manager_key="packet_io_manager")
    def seeds() -> pa.Table:
        return pa.table({"seed": range(int(sys.argv[2]))})

    def grow(seed: int) -> Blob:
        time.sleep(0.002)
        return Blob(seed.to_bytes(2, "big") * 20_000)

    asset = packet_asset(grow, inputs=seeds, tag_columns=["seed"], output_keys=["leaf"], match="version")
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([seeds, asset], instance=instance, resources=packet_resources(sys.argv[1]))
    """
)


@pytest.mark.slow
def test_a_run_beside_clean_ups_keeps_its_values(tmp_path: Path) -> None:
    """While a run stores values that lay there unused and old, clean-ups remove such: every row has its value in the end."""
    project = Project(tmp_path / "lake")
    count = 250
    for seed in range(count):
        project.stray(leaf(seed))
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "ORCAPOD_GIT": "off"}
    command = [sys.executable, str(script), str(project.root), str(count)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        if project.root.joinpath("seeds").exists():
            project.clean(CleanSettings())
    assert process.returncode == 0, process.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
    assert project.is_whole()
    assert len(project.store.listing()) == count


def test_leftovers_are_listed_by_call(project: Project) -> None:
    """A directory is one leftover, with the bytes of all its files; what vanishes meanwhile is no error."""
    folder = Path(project.store.keeper.work_folder())
    (folder / "a").mkdir()
    (folder / "a/b").write_bytes(b"x" * 7)
    left = project.store.leftovers()
    assert left.schema == LISTING
    assert left.select(["path", "size"]).to_pylist() == [{"path": f"{FOLDER}/work/{folder.name}", "size": 7}]
    project.store.remove([f"{FOLDER}/work/none", *left["path"].to_pylist()], dt.datetime.now(dt.UTC) + DAY)
    assert project.store.leftovers().num_rows == 0
