"""Why packets are computed, in real runs: rows that the asset's table knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.core import earlier_rows, planning

ROWS = pa.table({"id": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]})


class Lake:
    """A lake with an instance, and a shorthand to materialize a packet asset over a table."""

    def __init__(self, root: Path) -> None:
        self._instance = dg.DagsterInstance.ephemeral()
        self._resources = packet_resources(root_uri=str(root), as_default=True)

    def run(self, rows: pa.Table, function: Any, **options: Any) -> dict[str, Any]:
        """Materialize; return what the packet asset's materialization shows."""

        @dg.asset
        def source() -> pa.Table:
            return rows

        given = {"inputs": "source", "tag_columns": ["id"], "output_keys": ["y"], "name": "made", **options}
        config = {"ops": {"made": {"config": given.pop("config", {})}}}
        asset: Any = packet_asset(function, **given)
        done = dg.materialize([source, asset], instance=self._instance, resources=self._resources, run_config=config)
        (event,) = done.asset_materializations_for_node("made")
        return {key.removeprefix("orcapod/"): value.value for key, value in event.metadata.items()}

    def why(self, rows: pa.Table, function: Any, **options: Any) -> dict[str, int]:
        """Materialize; return reason → count."""
        return self.run(rows, function, **options)["computed_because"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A fresh lake."""
    return Lake(tmp_path / "lake")


def by_two(x: float, by: float = 2.0) -> float:
    """Return the product."""
    return x * by


def test_a_changed_input_is_told_from_a_new_row(lake: Lake) -> None:
    """A row whose value changed has that for a reason, a row whose tag is new has none, in whatever order and width of tags."""
    lake.run(ROWS, by_two)
    changed = pa.table({"id": ["d", "c", "b", "a"], "x": [9.0, 3.5, 2.0, 1.0]})
    assert lake.why(changed, by_two) == {"no earlier result": 1, "the input changed": 1}
    wide = changed.set_column(0, "id", changed["id"].cast(pa.large_string()))
    assert lake.run(wide, by_two)["packets_computed"] == 0


def test_a_changed_default_is_named(lake: Lake) -> None:
    """A default enters the input, so each packet looks new; the default is named for known rows, and the code is compared."""
    lake.run(ROWS, by_two)

    def by_three(x: float, by: float = 3.0) -> float:
        return x * by

    by_three.__name__ = "by_two"
    more = pa.concat_tables([ROWS, pa.table({"id": ["d"], "x": [7.0]})])
    shown = lake.run(more, by_three)
    assert shown["computed_because"] == {"the code changed: default by": 3, "no earlier result": 1}


def test_changed_params_and_parameters_are_named(lake: Lake) -> None:
    """A value of `params` that changed is named, and so is a parameter that was added; no value is shown."""
    lake.run(ROWS, by_two, params={"by": 4.0})
    assert lake.why(ROWS, by_two, params={"by": 31415926.0}) == {"params changed: by": 3}

    def with_more(x: float, by: float = 2.0, more: int = 0) -> float:
        return x * by + more

    with_more.__name__ = "by_two"
    reasons = lake.why(ROWS, with_more, params={"by": 31415926.0})
    assert reasons == {"the signature changed: more (added)": 3}


def test_another_name_and_a_lost_result(lake: Lake, tmp_path: Path) -> None:
    """Rows whose packets are as they were, but were made under another name, say so; those whose results are gone, too."""
    lake.run(ROWS, by_two)

    def renamed(x: float, by: float = 2.0) -> float:
        return x * by

    assert lake.why(ROWS, renamed) == {"the function's name changed: by_two → renamed": 3}
    shutil.rmtree(tmp_path / "lake" / ".orcapod" / "results")
    assert lake.why(ROWS, renamed) == {"its stored result is gone": 3}


def test_forced_packets_and_cached_runs_look_nowhere(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forced run has its own reason, and a run without misses looks neither at the table's tags nor beside the results."""
    lake.run(ROWS, by_two)
    monkeypatch.setattr(earlier_rows.EarlierRows, "explain", None)
    monkeypatch.setattr(planning, "results_elsewhere", None)
    assert lake.why(ROWS.take([2, 1, 0]), by_two) == {}
    assert lake.why(ROWS, by_two, config={"force": True}) == {"forced": 3}


def test_changed_code_is_shown(lake: Lake) -> None:
    """What changed in the code stands in the materialization, as a difference; a run that computes for other reasons shows none."""
    assert "code_changes" not in lake.run(ROWS, by_two)

    def added(x: float, by: float = 2.0) -> float:
        return x + by

    added.__name__ = "by_two"
    shown = lake.run(ROWS, added)
    assert shown["computed_because"] == {"the code changed: body": 3}
    assert "-    return x * by" in shown["code_changes"]
    assert "+        return x + by" in shown["code_changes"]
    assert shown["code_changes"].startswith("**3 results of `")
    assert "code_changes" not in lake.run(ROWS, added)
    assert "code_changes" not in lake.run(ROWS, by_two, match="version")
