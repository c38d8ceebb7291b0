"""A notebook with packet assets, run from start to end by a real kernel, again, and again after edits, over one lake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import FULL

RUNNER = Path(__file__).with_name("notebook_run.py")
pytestmark = pytest.mark.slow

HEAD = """
import json
from dataclasses import dataclass
from functools import partial, singledispatch

import dagster as dg
import pyarrow as pa

import tools
from orcapod_dagster import packet_asset, packet_resources


@dg.asset
def numbers() -> pa.Table:
    return pa.table({"id": [1, 2, 3], "x": [1.0, 2.0, 3.0]})


packets = partial(packet_asset, inputs="numbers", tag_columns=["id"], output_keys=["y"])
"""
CELLS = {
    "commented": "@packets()\ndef commented(x: float) -> float:\n    return x + 1",
    "untouched": "@packets()\ndef untouched(x: float) -> float:\n    return helper(x)",
    "body": "@packets()\ndef body(x: float) -> float:\n    return x + 1",
    "helper": "def helper(x):\n    return x * 2",
    "by_helper": "def scale(x):\n    return x * 2\n\n\n@packets()\ndef by_helper(x: float) -> float:\n    return scale(x)",
    "by_module": "@packets()\ndef by_module(x: float) -> float:\n    return tools.shift(x)",
    "by_constant": "LIMIT = 3\n\n\n@packets()\ndef by_constant(x: float) -> float:\n    return min(x, LIMIT)",
    "by_closure": "def make(k):\n    @packets(name='by_closure')\n    def by_closure(x: float) -> float:\n        return x * k\n    return by_closure\n\n\nby_closure = make(2)",
    "by_class": "@dataclass\nclass Point:\n    k: int = 2\n\n\n@packets()\ndef by_class(x: float) -> float:\n    return x * Point().k",
    "by_dispatch": "@singledispatch\ndef show(x):\n    return x\n\n\n@show.register\ndef show_float(x: float):\n    return x * 2\n\n\n@packets()\ndef by_dispatch(x: float) -> float:\n    return show(x)",
    "by_lambda": "TABLE = {'a': lambda x: x + 1}\n\n\n@packets()\ndef by_lambda(x: float) -> float:\n    return TABLE['a'](x)",
}
EDITS = {
    "commented": ("    return", '    """Docstring."""\n    # a comment\n    return'),
    "body": ("x + 1", "x + 2"),
    "by_helper": ("x * 2", "x * 3"),
    "by_constant": ("LIMIT = 3", "LIMIT = 4"),
    "by_closure": ("make(2)", "make(3)"),
    "by_class": ("k: int = 2", "k: int = 3"),
    "by_dispatch": ("x * 2", "x * 3"),
    "by_lambda": ("x + 1", "x + 2"),
}
CAUSES = {
    "body": "body",
    "by_helper": "helper __main__.scale",
    "by_module": "helper tools.shift",
    "by_constant": "constant __main__.LIMIT",
    "by_closure": "closure k",
    "by_class": "class __main__.Point",
    "by_dispatch": "helper __main__.show_float",
    "by_lambda": "helper __main__.TABLE[0]",
}
ASSETS = [name for name in CELLS if name != "helper"]
RUN = f"""
assets = [numbers, {", ".join(ASSETS)}]
with dg.DagsterInstance.ephemeral() as instance:
    run = dg.materialize(assets, instance=instance, resources=packet_resources("lake", as_default=True))
found = {{}}
for event in run.get_asset_materialization_events():
    if "orcapod/packets_computed" in event.materialization.metadata:
        found[event.asset_key.to_user_string()] = event.materialization.metadata["orcapod/computed_because"].value
print("found", json.dumps(found))
"""
TOOLS = "def shift(x):\n    return x + 1\n"


def write_notebook(path: Path, cells: list[str]) -> None:
    """Write a notebook, as Jupyter does."""
    written = [
        {"cell_type": "code", "id": f"cell{n}", "metadata": {}, "execution_count": None, "outputs": []}
        | {"source": text.splitlines(keepends=True)}
        for n, text in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": written, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def run_notebook(folder: Path, name: str, seed: str) -> dict[str, dict[str, int]]:
    """Run a notebook in a fresh process, and return asset → reason → packets."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), name],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{folder}{os.pathsep}{RUNNER.parents[1]}"}
        | {"PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": str(folder), "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("found")[2])


def test_an_edited_notebook_runs_again_what_its_edits_reach(tmp_path: Path) -> None:
    """A notebook that is run again computes nothing; of an edited one those assets that the edits can change, each with its cause."""
    (tmp_path / "tools.py").write_text(TOOLS)
    write_notebook(tmp_path / "before.ipynb", [HEAD, *CELLS.values(), RUN])
    before = run_notebook(tmp_path, "before.ipynb", "1")
    assert before == {name: {"no earlier result": 3} for name in ASSETS}
    if FULL:  # in the short form, what no edit reaches shows as much
        assert run_notebook(tmp_path, "before.ipynb", "2") == {name: {} for name in ASSETS}
    (tmp_path / "tools.py").write_text(TOOLS.replace("x + 1", "x + 2"))
    edited = {name: text.replace(*EDITS[name]) if name in EDITS else text for name, text in CELLS.items()}
    # In another order of cells, the same names stand for the same code.
    write_notebook(tmp_path / "after.ipynb", [HEAD, "# a cell more", *reversed(edited.values()), RUN])
    after = run_notebook(tmp_path, "after.ipynb", "3")
    expected = {name: {f"the code changed: {CAUSES[name]}": 3} if name in CAUSES else {} for name in ASSETS}
    assert after == expected
