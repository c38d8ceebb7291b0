"""The audit: cached packets run again, and what comes out is held against what is stored."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from desk_project import Project, source

from orcapod_dagster import Blob, ProcessPoolExecutorResource, build_audit_checks, packet_asset
from orcapod_dagster.cli import main
from orcapod_dagster.core.audit import FAILS, NOT_DETERMINISTIC, STORED_DIFFERS
from orcapod_dagster.core.errors import DefinitionError, InputError, StorageError
from orcapod_dagster.core.executors.base import BatchResult
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.desk import audit
from orcapod_dagster.resources import PacketExecutorResource

ROWS = pa.table({"id": list(range(50)), "x": [float(i) for i in range(50)]})


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path / "lake")
    yield one
    one.instance.dispose()


def asset_of(function: Callable[..., Any], **options: Any) -> dg.AssetsDefinition:
    settings: dict[str, Any] = {"inputs": "rows", "tag_columns": ["id"], "output_keys": ["y"], **options}
    return packet_asset(function, **settings)


def test_equal_values_pass_and_nothing_is_stored(project: Project) -> None:
    """NaN, large values, sets and maps that come out as they are stored are equal; the lake stays as it is, file by file."""

    def several(x: float) -> tuple[float, Blob, set[str], dict[str, float]]:
        names = {f"n{i}" for i in range(int(x) + 3)}
        return math.nan, Blob(bytes([int(x)]) * 50_000), names, dict.fromkeys(sorted(names, reverse=True), x)

    rows, asset = source("rows", ROWS), asset_of(several, output_keys=["a", "b", "c", "d"])
    project.run(rows, asset)
    before = project.files()
    report = audit(project.definitions(rows, asset), "several", size=20, seed=1)
    assert (report.rows, report.with_result, report.checked, report.equal) == (50, 50, 20, 20)
    assert (report.counts, report.findings) == ({}, ())
    assert project.files() == before


def test_a_function_that_is_not_deterministic_is_told(project: Project) -> None:
    """Two runs that differ from each other tell of the function; packets are named, with all three values."""

    def noisy(x: float) -> float:
        return x if x < 40 else float(int.from_bytes(os.urandom(6), "big"))

    rows, asset = source("rows", ROWS), asset_of(noisy)
    project.run(rows, asset)
    report = audit(project.definitions(rows, asset), "noisy", fraction=1.0)
    assert (report.checked, report.equal, dict(report.counts)) == (50, 40, {NOT_DETERMINISTIC: 10})
    assert [one.tags["id"] for one in report.findings] == list(range(40, 50))
    first = report.findings[0]
    assert first.columns == ("y",)
    assert len({first.stored, first.now, first.again}) == 3
    assert all(text.startswith("y=") for text in (first.stored, first.now, first.again))
    assert report.to_table()["what"].to_pylist() == [NOT_DETERMINISTIC] * 10


def test_a_changed_result_is_told_from_a_changed_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that another engine changed differs from two equal runs; what the record says otherwise than now is named."""

    def double(x: float) -> float:
        return 2 * x

    rows, asset = source("rows", ROWS), asset_of(double)
    project.run(rows, asset)
    (folder,) = (project.root / ".orcapod/results").rglob("_delta_log")
    DeltaTable(str(folder.parent)).update(updates={"y": "-1.0"}, predicate="y = 14.0")
    definitions = project.definitions(rows, asset)
    report = audit(definitions, "double", fraction=1.0)
    assert dict(report.counts) == {STORED_DIFFERS: 1}
    (finding,) = report.findings
    assert (finding.tags, finding.stored, finding.now, finding.again) == ({"id": 7}, "y=-1.0", "y=14.0", "")
    assert finding.versions == {}
    monkeypatch.setattr("platform.python_version", lambda: "3.99.1")
    (finding,) = audit(definitions, "double", fraction=1.0).findings
    assert set(finding.versions) == {"python_version"}
    assert finding.versions["python_version"][1] == "3.99.1"


def test_other_code_under_a_loose_policy_is_named(project: Project) -> None:
    """Under match="version" a result of other code counts; where it differs, the finding says that the code is another."""

    def make(by: int) -> dg.AssetsDefinition:
        def add(x: float) -> float:
            return x + by

        return asset_of(add, match="version")

    rows = source("rows", ROWS)
    project.run(rows, make(1))
    report = audit(project.definitions(rows, make(2)), "add", size=1)
    assert dict(report.counts) == {STORED_DIFFERS: 1}
    assert "function_content_hash" in report.findings[0].versions


def test_only_results_of_the_current_code_are_drawn(project: Project) -> None:
    """Under match="content" nothing is left to check after an edit that has not run."""

    def make(by: int) -> dg.AssetsDefinition:
        def add(x: float) -> float:
            return x + by

        return asset_of(add)

    rows = source("rows", ROWS)
    project.run(rows, make(1))
    report = audit(project.definitions(rows, make(2)), "add", size=1)
    assert (report.with_result, report.checked, dict(report.counts)) == (0, 0, {})


@functools.cache
def tries() -> list[float]:
    """Return what was called; a cache, which is no part of the code of a function."""
    return []


def test_failures_and_what_fails_only_sometimes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails twice fails now, with the error; what fails once of two times is not deterministic."""

    def touchy(x: float) -> float:
        tries().append(x)
        if x == 3.0 and "TOUCHY" in os.environ:
            raise KeyError("gone")
        if x == 4.0 and "TOUCHY" in os.environ and tries().count(x) == 2:
            raise OSError("once")
        return x

    rows, asset = source("rows", ROWS), asset_of(touchy, ignore=["os.environ"])
    tries().clear()
    project.run(rows, asset)
    monkeypatch.setenv("TOUCHY", "1")
    report = audit(project.definitions(rows, asset), "touchy", fraction=1.0)
    assert dict(report.counts) == {FAILS: 1, NOT_DETERMINISTIC: 1}
    found = {one.tags["id"]: one for one in report.findings}
    assert found[3].error == "KeyError: 'gone'"
    assert 'raise KeyError("gone")' in found[3].traceback
    assert found[4].error == "OSError: once"
    assert tries().count(5.0) == 2


def test_the_sample_is_drawn_by_its_seed(project: Project) -> None:
    """The same seed draws the same packets; the report names the seed that was taken; repeated packets count once."""

    def same(x: float) -> float:
        tries().append(x)
        return x

    twice = pa.concat_tables([ROWS, pa.table({"id": list(range(50, 100)), "x": ROWS["x"]})])
    rows, asset = source("rows", twice), asset_of(same)
    project.run(rows, asset)
    definitions = project.definitions(rows, asset)
    drawn: list[list[float]] = []
    seed = None
    for _ in range(2):
        tries().clear()
        report = audit(definitions, "same", size=9, seed=seed)
        seed = report.seed
        drawn.append(list(tries()))
    assert drawn[0] == drawn[1]
    assert (report.rows, report.with_result, report.checked) == (100, 50, 9)
    with pytest.raises(InputError, match="Give one"):
        audit(definitions, "same", size=9, fraction=0.5)
    with pytest.raises(InputError, match="above 0"):
        audit(definitions, "same", fraction=1.5)


def test_long_values_show_where_they_differ(project: Project) -> None:
    """Of long values that differ at their end, the text shows the end."""

    def text(x: float) -> str:
        return "z" * 5_000 + str(os.getpid() if not tries() else 0)

    rows, asset = source("rows", ROWS.slice(0, 1)), asset_of(text, ignore=["os.getpid"])
    tries().clear()
    project.run(rows, asset)
    tries().append(1.0)
    (finding,) = audit(project.definitions(rows, asset), "text").findings
    assert str(os.getpid()) in finding.stored
    assert finding.now.endswith("zz0'")
    assert max(len(finding.stored), len(finding.now)) < 100


def test_rotten_results_are_an_error(project: Project) -> None:
    """A page of the results that changed on the disk is an error that names the table, never another value."""

    def same(x: float) -> float:
        return x

    rows, asset = source("rows", ROWS), asset_of(same)
    project.run(rows, asset)
    for path in (project.root / ".orcapod/results").rglob("part-*.parquet"):
        data = bytearray(path.read_bytes())
        for at in range(100, len(data) - 4_000, 97):
            data[at] ^= 1
        path.write_bytes(data)
    with pytest.raises(StorageError, match="records results"):
        audit(project.definitions(rows, asset), "same")


class CountingExecutor(LocalPythonFunctionExecutor):
    """Counts how often rows are sent."""

    runs = 0

    def run_rows(self, fn: Callable[..., Any], batches: Iterable[Any], **options: Any) -> Iterator[BatchResult]:
        type(self).runs += 1
        return super().run_rows(fn, batches, **options)


class CountingExecutorResource(PacketExecutorResource):
    """Supplies it."""

    def get_executor(self) -> CountingExecutor:
        return CountingExecutor()


def evaluation(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = result.get_asset_check_evaluations()
    return found


def test_the_check_passes_and_runs_batches_on_the_executor(tmp_path: Path) -> None:
    """The check of a run comes after its asset, passes with its figures, and sends its sample at once to the project's executor."""

    def square(x: float) -> float:
        return x * x

    project = Project(tmp_path / "lake", CountingExecutorResource())
    rows, asset = source("rows", ROWS), asset_of(square)
    project.run(rows, asset)
    CountingExecutor.runs = 0
    found = evaluation(project.run(rows, asset, *build_audit_checks(assets=[asset], size=30, seed=3)))
    assert found.passed
    assert CountingExecutor.runs == 1
    shown = {name: one.value for name, one in found.metadata.items()}
    assert (shown["orcapod/packets_checked"], shown["orcapod/packets_equal"], shown["orcapod/seed"]) == (30, 30, 3)
    assert "30 of 50 packets" in (found.description or "")
    project.instance.dispose()


def test_the_check_names_what_differs(project: Project) -> None:
    """A function that is not deterministic fails the check with WARN and a table of packets; a changed result with ERROR."""

    def noisy(x: float) -> float:
        return float(int.from_bytes(os.urandom(6), "big"))

    rows, asset = source("rows", ROWS), asset_of(noisy)
    found = evaluation(project.run(rows, asset, *build_audit_checks(assets=[asset], size=5)))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    records = found.metadata["orcapod/findings"].records  # type: ignore[union-attr]
    assert len(records) == 5
    assert records[0].data["what"] == NOT_DETERMINISTIC
    assert str(records[0].data["tags"]).startswith("id=")

    def plain(x: float) -> float:
        return x

    other = asset_of(plain)
    project.run(rows, other)
    (folder,) = (project.root / ".orcapod/results/plain").rglob("_delta_log")
    DeltaTable(str(folder.parent)).update(updates={"y": "y + 1.0"})
    found = evaluation(project.run(rows, other, *build_audit_checks(assets=[other])))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["orcapod/audit"].value == {STORED_DIFFERS: 20}


def test_the_check_of_a_partitioned_asset_on_a_process_pool(tmp_path: Path) -> None:
    """A partitioned asset's check draws from all partitions, on workers."""
    pytest.importorskip("cloudpickle")
    parts = dg.StaticPartitionsDefinition(["p", "q"])
    options: dict[str, Any] = {"partitions_def": parts, "metadata": {"partition_expr": "part"}}

    @dg.asset(**options)
    def rows(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        key = context.partition_key
        return pa.table({"part": [key] * 3, "id": [1, 2, 3], "x": [ord(key), 1.0, 2.0]})

    def half(x: float) -> float:
        return x / 2

    project = Project(tmp_path / "lake", ProcessPoolExecutorResource(max_workers=1))
    asset = asset_of(half, tag_columns=["part", "id"], partitions_def=parts)
    for key in ("p", "q"):
        project.run(rows, asset, partition_key=key)
    checks = build_audit_checks(assets=[asset], fraction=1.0)
    definitions = dg.Definitions([rows, asset], asset_checks=checks, resources=project.resources)
    job = dg.define_asset_job("job", dg.AssetSelection.checks(*checks))
    definitions = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    found = evaluation(definitions.resolve_job_def("job").execute_in_process(instance=project.instance))
    assert found.passed
    assert found.metadata["orcapod/packets_checked"].value == 4
    one = audit(definitions, "half", fraction=1.0, partition="q")
    assert (one.rows, one.checked, one.equal) == (3, 3, 3)
    project.instance.dispose()


def test_what_cannot_be_audited_is_refused() -> None:
    """An asset without packets, and both sizes at once, are refused when the check is defined."""
    with pytest.raises(DefinitionError, match="is no packet asset"):
        build_audit_checks(assets=[source("rows", ROWS)])
    with pytest.raises(DefinitionError, match="Give one"):
        build_audit_checks(assets=[], size=1, fraction=0.5)


PROJECT = """
import os
import dagster as dg
import pyarrow as pa
from orcapod_dagster import packet_asset, packet_resources

@dg.asset
def rows() -> pa.Table:
    return pa.table({"id": [1, 2], "x": [1, 2]})

@packet_asset(inputs=rows, tag_columns=["id"], output_keys=["y"])
def noisy(x: int) -> str:
    return os.urandom(4).hex() if x > 1 else "same"

defs = dg.Definitions([rows, noisy], resources=packet_resources(root_uri=LAKE, as_default=True))
"""


def test_the_command_names_packets_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`audit` prints the figures and each packet that differs, and its exit status is 1 then."""
    path = tmp_path / "audited_defs.py"
    path.write_text(PROJECT.replace("LAKE", repr(str(tmp_path / "lake"))))
    from dagster import execute_job  # noqa: F401  # loads the job's machinery before output is captured

    from orcapod_dagster._compat import CodePointer, load_repository

    repository = load_repository(CodePointer(python_file=str(path)))
    with dg.DagsterInstance.ephemeral() as instance:
        repository.get_implicit_global_asset_job_def().execute_in_process(instance=instance)
    capsys.readouterr()
    assert main(["audit", "noisy", "-f", str(path), "--seed", "5"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(
        "2 of 2 packets with a result were run again, 1 gave what is stored; 1: the function is not det"
    )
    assert "id=2: the function is not deterministic\n    stored y='" in shown
    assert "Seed 5" in shown
