"""Whoever only asks leaves the lake as it is, byte for byte, also where an index of keys is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from desk_project import Project, source

from orcapod_dagster import build_audit_checks, build_failure_checks, packet_asset, read_failures, read_status
from orcapod_dagster.desk import audit, packet_row, plan, trace, why


def work(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


MADE = packet_asset(
    work,
    inputs="numbers",
    tag_columns=["id"],
    output_keys=["y"],
    name="made",
    on_error="continue",
    max_failures=1.0,
)


def numbers(count: int) -> Any:
    return source("numbers", pa.table({"id": range(count), "x": range(count)}))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A lake with many results and failures, a small input, and no index of keys."""
    one = Project(tmp_path / "lake")
    one.run(numbers(4000), MADE)
    one.run(numbers(3), MADE, tags={"orcapod/force": "true"})
    for index in one.root.rglob("_keys/*"):
        index.unlink()
    yield one
    one.instance.dispose()


ASKS: dict[str, Callable[[Project], Any]] = {
    "status": lambda project: read_status(MADE, str(project.root)),
    "why": lambda project: why(MADE, root_uri=str(project.root), tags={"id": 2}),
    "row": lambda project: packet_row(MADE, root_uri=str(project.root), tags={"id": 2}),
    "trace": lambda project: trace(MADE, root_uri=str(project.root), tags={"id": 2}),
    "plan": lambda project: plan(MADE, root_uri=str(project.root)),
    "audit": lambda project: audit(MADE, root_uri=str(project.root)),
    "failures": lambda project: read_failures(MADE, str(project.root)),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_whoever_asks_writes_nothing(project: Project, ask: Callable[[Project], Any]) -> None:
    """What shows packets, plans or failures, or audits, writes no file, and changes none."""
    before = project.files()
    ask(project)
    assert project.files() == before


@pytest.mark.parametrize("build", [build_failure_checks, build_audit_checks])
def test_checks_write_nothing(project: Project, build: Any) -> None:
    """A check of failures and an audit leave the lake as it is."""
    checks = build(assets=[MADE])
    before = project.files()
    done = project.run(numbers(3), MADE, *checks, selection=dg.AssetSelection.checks(*checks))
    assert len(done.get_asset_check_evaluations()) == 1
    assert project.files() == before
