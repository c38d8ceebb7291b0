"""Asset checks of a lake: whole tables pass, damage fails with the way out, litter warns."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import build_lake_checks, packet_asset, packet_resources


@dg.asset(io_manager_key="packet_io_manager")
def numbers() -> pa.Table:
    return pa.table({"id": pa.array(range(100)), "x": pa.array(range(100))})


def square(x: int) -> int:
    return x * x


SQUARES = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], key_prefix="team")
CHECKS = build_lake_checks(assets=[numbers, SQUARES], read_all=True)
ONE_BY_KEY = build_lake_checks(assets=["numbers"])


def run(lake: Path, *, checks: Any = CHECKS, only_checks: bool = False) -> dict[str, dg.AssetCheckEvaluation]:
    """Materialize the assets with their checks, or evaluate the checks alone, and return what they found."""
    definitions = dg.Definitions([numbers, SQUARES], asset_checks=checks, resources=packet_resources(str(lake)))
    selection = dg.AssetSelection.checks(*checks) if only_checks else dg.AssetSelection.all()
    job = dg.define_asset_job("job", selection)
    definitions = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    with dg.DagsterInstance.ephemeral() as instance:
        done = definitions.resolve_job_def("job").execute_in_process(instance=instance, raise_on_error=False)
    return {one.asset_key.to_user_string(): one for one in done.get_asset_check_evaluations()}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    found = run(tmp_path / "lake")
    assert all(one.passed for one in found.values())
    assert set(found) == {"numbers", "team/square"}
    return tmp_path / "lake"


def test_whole_tables_pass_with_figures(tmp_path: Path) -> None:
    """In the run that materializes, checks come after their assets, pass, and show rows, files and size."""
    found = run(tmp_path / "lake")
    assert {name: one.passed for name, one in found.items()} == {"numbers": True, "team/square": True}
    shown = found["team/square"].metadata
    assert (shown["dagster/row_count"].value, shown["orcapod/files"].value) == (100, 1)
    assert "orcapod/findings" not in shown


def test_damage_is_an_error_with_the_way_out(lake: Path) -> None:
    """A missing file fails the check with severity ERROR; a table in the metadata names it and what to do."""
    next((lake / "team/square").glob("*.parquet")).unlink()
    found = run(lake, only_checks=True)
    assert found["numbers"].passed
    failed = found["team/square"]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    (record,) = failed.metadata["orcapod/findings"].records  # type: ignore[union-attr]
    assert "is missing" in record.data["what"]
    assert "repair()" in record.data["do"]
    assert record.data["harmless"] is False
    assert "is missing" in (failed.description or "")


def test_damaged_results_fail_the_check_of_their_asset(lake: Path) -> None:
    """A packet asset's results are looked at, too: a bit that flipped there is its finding."""
    path = next((lake / ".orcapod/results").rglob("part-*.parquet"))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found = run(lake, only_checks=True)
    assert (found["numbers"].passed, found["team/square"].passed) == (True, False)
    assert found["team/square"].metadata["orcapod/findings"].records[0].data["table"].startswith(".orcapod/results/")  # type: ignore[union-attr]


def test_litter_is_a_warning(lake: Path) -> None:
    """What a killed writer left fails the check with severity WARN, for nothing is lost."""
    stray = lake / "numbers" / "part-0.parquet"
    stray.write_bytes(b"x")
    os.utime(stray, (time.time() - 90_000,) * 2)
    found = run(lake, only_checks=True)["numbers"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "clean" in (found.description or "")


def test_checks_by_key_and_before_the_first_materialization(tmp_path: Path) -> None:
    """Assets may be given by key; one that has no table yet is told so, as a warning."""
    (tmp_path / "lake").mkdir()
    found = run(tmp_path / "lake", checks=ONE_BY_KEY, only_checks=True)["numbers"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "Materialize the asset first" in (found.description or "")


def test_checks_of_other_assets_have_other_names() -> None:
    """Several groups of checks live in one project, for their names differ; the same assets give the same name."""
    names = [build_lake_checks(assets=[key])[0].node_def.name for key in ("a", "b", "a")]
    assert names[0] == names[2] != names[1]
