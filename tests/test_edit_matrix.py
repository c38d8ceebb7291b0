"""The matrix of edits: for each, whether the function's content hash changes, and which part is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from campaigns import long_form
from edits import EDITS, LAYOUTS, REGISTRY, SHAPES, TOOLS, Edit, apply, write_project

WORKER = Path(__file__).with_name("identity_worker.py")
Found = dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]]


def hash_all(jobs: list[dict[str, Any]], python: str = sys.executable, seed: str = "0") -> list[dict[str, Any]]:
    """Hash projects in one fresh process."""
    done = subprocess.run(
        [python, str(WORKER)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": seed, "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = [(edit, layout) for edit in EDITS for layout in edit.layouts]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All edits in all layouts: one fresh process for the projects before, one for those after."""
    assert {layout for _, layout in CASES} == set(LAYOUTS)
    sides: list[list[dict[str, Any]]] = []
    for seed, change in (("1", False), ("2", True)):
        root, jobs = tmp_path_factory.mktemp("after" if change else "before"), []
        for number, (edit, layout) in enumerate(CASES):
            write_project(root / str(number), apply(edit) if change else edit.files, layout)
            jobs.append({"folder": str(root / str(number)), "layout": layout})
        sides.append(hash_all(jobs, seed=seed))
    keys = [(edit.name, layout) for edit, layout in CASES]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, zip(*sides, strict=True), strict=True))


def _cases() -> list[Any]:
    """Return every edit in every layout; what is known to be missed must be missed still."""
    cases: list[Any] = []
    for edit, layout in CASES:
        marks = [pytest.mark.xfail(reason=edit.misses[layout], strict=True)] if layout in edit.misses else []
        cases.append(pytest.param(edit, layout, id=f"{edit.name}-{layout}", marks=marks))
    return cases


@pytest.mark.parametrize(("edit", "layout"), _cases())
def test_edit(found: Found, edit: Edit, layout: str) -> None:
    """An edit changes the hash exactly when it can change a result, and the part that it changes is named."""
    before, after = found[edit.name, layout]
    assert (before["hash"] != after["hash"]) is (edit.part is not None)
    if edit.part is not None and layout in ("modules", "package"):
        part = edit.part.replace("PKG.", "project." if layout == "package" else "")
        every = {**before["parts"], **after["parts"]}
        assert part in {key for key in every if before["parts"].get(key) != after["parts"].get(key)}


ASSETS = '''
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster import packet_asset
from PKG.registry import TABLE, register
from PKG.shapes import Square
from PKG.tools import scale


@dg.asset
def numbers() -> pa.Table:
    return pa.table({"id": [1, 2, 3], "x": [1.0, 2.0, 3.0]})


def packets(function) -> Any:
    return packet_asset(inputs="numbers", tag_columns=["id"], output_keys=["y"])(function)


@packets
def plain(x: float) -> float:
    """Docstring."""
    return x + 1


@packets
def helped(x: float) -> float:
    return scale(x)


@packets
def registered(x: float) -> float:
    return TABLE["a"](x)


@packets
def shaped(x: float) -> float:
    return Square().double() * x


@register("a")
def a(x):
    return x * 2
'''
RUN = """
import importlib, json, sys
import dagster as dg
from orcapod_dagster import packet_resources
main = importlib.import_module(sys.argv[1])
assets = [main.numbers, main.plain, main.helped, main.registered, main.shaped]
with dg.DagsterInstance.ephemeral() as instance:
    run = dg.materialize(assets, instance=instance, resources=packet_resources(root_uri=sys.argv[2], as_default=True))
computed = {}
for event in run.get_asset_materialization_events():
    found = event.materialization.metadata.get("orcapod/packets_computed")
    if found is not None:
        computed[event.asset_key.to_user_string()] = found.value
print("computed", json.dumps(computed))
"""


@long_form  # test_edit_runs.py does as much, with other edits
def test_edits_in_real_runs_over_one_lake(tmp_path: Path) -> None:
    """An edited project, in a fresh process over the same lake, runs again exactly the assets whose code the edits reach."""
    files = {"main.py": ASSETS, "registry.py": REGISTRY, "shapes.py": SHAPES, "tools.py": TOOLS}
    write_project(tmp_path / "before", files, "package")
    edited = {
        "main.py": ASSETS.replace('"""Docstring."""', "# a comment").replace("return x * 2", "return x * 3"),
        "registry.py": "# moved down\n" + REGISTRY,
        "shapes.py": SHAPES.replace("side = 2", "side = 3"),
        "tools.py": TOOLS.replace("def other(x):\n    return x", "def other(x):\n    return -x"),
    }
    write_project(tmp_path / "after", edited, "package")
    assert _materialize(tmp_path, "before") == {"plain": 3, "helped": 3, "registered": 3, "shaped": 3}
    assert _materialize(tmp_path, "after") == {"plain": 0, "helped": 0, "registered": 3, "shaped": 3}


def _materialize(folder: Path, project: str) -> dict[str, int]:
    places = [str(folder / project), str(WORKER.parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", RUN, "project.main", str(folder / "lake")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("computed")[2])
