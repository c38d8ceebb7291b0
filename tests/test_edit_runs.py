"""The matrix of edits as real runs of packet assets: what runs again, why, and the same in worker processes and on Ray.

Projects before an edit are run in this process's kind of executor, edited ones in the process pool, all over one lake, each
side in a fresh process under another hash seed; then a third process runs the edited ones again, and calls their functions.
The short form takes each edit in one layout, in turn; `EDITS=full` takes each in both.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from edits import EDITS, Edit, apply, write_project

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("edit_runs.py")
FULL = os.environ.get("EDITS") == "full"
LAYOUTS = ("modules", "package")
CASES = [
    (edit, layout)
    for number, edit in enumerate(EDITS)
    for layout in (LAYOUTS if FULL else (LAYOUTS[number % 2],))
    if layout in edit.layouts
]
THIRD = CASES[::3]
PROBED = CASES if FULL else CASES[::9]
"""Cases whose functions are hashed in workers of the pool; each costs a worker of its own."""

_COLUMNS = "the output columns changed"
NAMED_OTHERWISE = {
    "type alias that decides conversion": _COLUMNS,
    "annotation under postponed evaluation": _COLUMNS,
    "constant as default": "the code changed: default k",
    "argument of a partial": "the code changed: default k",
}
"""Edits whose cause is another thing than the part: a default is a value of the input, whatever it is made of."""
_NO_DICT = "only functions take along what their code is"
WORKER_MISSES = {
    "argument of a partial": _NO_DICT,
    "state of a bound method": _NO_DICT,
    "another method of a bound method's class": _NO_DICT,
    "callable object": _NO_DICT,
}


def run_all(jobs: list[dict[str, Any]], executor: str, seed: str) -> list[dict[str, Any]]:
    """Run projects in one fresh process."""
    done = subprocess.run(
        [sys.executable, str(WORKER)],
        input=json.dumps({"executor": executor, "jobs": jobs}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


Found = dict[tuple[str, str], dict[str, Any]]


def keyed(cases: list[tuple[Edit, str]], found: list[dict[str, Any]]) -> Found:
    """Return what was found by name and layout."""
    return {(edit.name, layout): one for (edit, layout), one in zip(cases, found, strict=True)}


class Matrix:
    """The projects of all cases below one folder, and what their runs did."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for number, (edit, layout) in enumerate(CASES):
            write_project(root / "before" / str(number), edit.files, layout)
            write_project(root / "after" / str(number), apply(edit), layout)

    def jobs(self, cases: list[tuple[Edit, str]], side: str, lake: str, **options: bool) -> list[dict[str, Any]]:
        """Return a job per case; the lakes' assets are named by the number of the case."""
        numbers = [CASES.index(case) for case in cases]
        return [
            {"name": f"edit{n}", "folder": str(self._root / side / str(n)), "layout": layout, **options}
            | {"lake": str(self._root / lake)}
            for n, (_, layout) in zip(numbers, cases, strict=True)
        ]

    @functools.cached_property
    def before(self) -> Found:
        """Projects before the edit, in the process of the step."""
        return keyed(CASES, run_all(self.jobs(CASES, "before", "lake"), "local", "1"))

    @functools.cached_property
    def after(self) -> Found:
        """Edited projects, in worker processes; some of them say what hashes the function has there."""
        assert self.before
        jobs = self.jobs(CASES, "after", "lake", check=True)
        for job, case in zip(jobs, CASES, strict=True):
            job["probe"] = case in PROBED
        return keyed(CASES, run_all(jobs, "process_pool", "2"))

    @functools.cached_property
    def again(self) -> Found:
        """A third of the edited projects again, in the process of the step."""
        assert self.after
        return keyed(THIRD, run_all(self.jobs(THIRD, "after", "lake"), "local", "3"))

    @functools.cached_property
    def on_ray(self) -> Found:
        """A third of the edited projects on Ray, over a lake of their own."""
        return keyed(THIRD, run_all(self.jobs(THIRD, "after", "ray", check=True, probe=True), "ray", "4"))

    @functools.cached_property
    def after_ray(self) -> Found:
        """The same again, in the process of the step."""
        assert self.on_ray
        return keyed(THIRD, run_all(self.jobs(THIRD, "after", "ray"), "local", "5"))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """All projects; each side runs when a test first asks for it."""
    return Matrix(tmp_path_factory.mktemp("matrix"))


def params(cases: list[tuple[Edit, str]], misses: dict[str, str]) -> list[Any]:
    """Return a parameter per case; what is known to be missed must be missed still."""
    marks = {name: [pytest.mark.xfail(reason=reason, strict=True)] for name, reason in misses.items()}
    return [pytest.param(e, layout, id=f"{e.name}-{layout}", marks=marks.get(e.name, [])) for e, layout in cases]


@pytest.mark.parametrize(("edit", "layout"), params(CASES, {}))
def test_an_edit_runs_again_what_it_can_change(matrix: Matrix, edit: Edit, layout: str) -> None:
    """The edited project computes all its packets anew exactly when the edit can change a result."""
    before, after = matrix.before[edit.name, layout], matrix.after[edit.name, layout]
    assert "error" not in before, before["error"]
    assert "error" not in after, after["error"]
    assert (before["computed"], before["because"]) == (3, {"no earlier result": 3})
    assert after["computed"] == (0 if edit.part is None else 3)


@pytest.mark.parametrize(("edit", "layout"), params([case for case in CASES if case[0].part is not None], {}))
def test_an_edit_is_named_as_the_cause(matrix: Matrix, edit: Edit, layout: str) -> None:
    """What ran again shows as reason, for all packets, the part of the code that the edit changes, or the default or columns."""
    (reason,) = matrix.after[edit.name, layout]["because"]
    assert matrix.after[edit.name, layout]["because"][reason] == 3
    if edit.name in NAMED_OTHERWISE:
        assert reason.startswith(NAMED_OTHERWISE[edit.name])
        return
    what, _, changed = reason.partition(": ")
    part = (edit.part or "").replace("PKG.", "project." if layout == "package" else "")
    assert what == "the code changed"
    assert part in {one.removesuffix(" (added)").removesuffix(" (removed)") for one in changed.split(", ")}


def check_stored(found: dict[str, Any], executor: str) -> None:
    """Hold what an executor stored against what the function gives in the process of the step, and is there."""
    assert "error" not in found, found["error"]
    stored = found["stored"]
    assert stored["values"] == found["called"]
    assert (stored["content"], stored["signature"]) == ([found["content"]], [found["signature"]])
    assert stored["executors"] == [executor]


@pytest.mark.parametrize(("edit", "layout"), params(CASES, {}))
def test_the_process_pool_gives_and_records_what_this_process_does(matrix: Matrix, edit: Edit, layout: str) -> None:
    """Results of the pool are those of the function, under its hashes; those of the run before stand as they are."""
    check_stored(matrix.after[edit.name, layout], "local" if edit.part is None else "process_pool")


@pytest.mark.parametrize(("edit", "layout"), params(THIRD, {}))
def test_results_of_the_process_pool_count_in_this_process(matrix: Matrix, edit: Edit, layout: str) -> None:
    """What the pool stored is found by a run elsewhere, which computes nothing, under the same hashes."""
    there, here = matrix.after[edit.name, layout], matrix.again[edit.name, layout]
    assert here["computed"] == 0
    assert (here["content"], here["signature"]) == (there["content"], there["signature"])


@pytest.mark.parametrize(("edit", "layout"), params(PROBED, WORKER_MISSES))
def test_a_function_hashes_alike_in_a_worker_process(matrix: Matrix, edit: Edit, layout: str) -> None:
    """A function that arrived in the pool by value has the hashes that it has here."""
    there = matrix.after[edit.name, layout]
    assert there["probed"] == {"content": there["content"], "signature": there["signature"]}


@pytest.mark.ray
@pytest.mark.parametrize(("edit", "layout"), params(THIRD, {}))
def test_ray_gives_and_records_what_this_process_does(matrix: Matrix, edit: Edit, layout: str) -> None:
    """Results of Ray are those of the function, under its hashes, and are found by a run elsewhere, which computes nothing."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    there = matrix.on_ray[edit.name, layout]
    check_stored(there, "ray.v0")
    here = matrix.after_ray[edit.name, layout]
    assert (there["computed"], here["computed"]) == (3, 0)
    assert (here["content"], here["signature"]) == (there["content"], there["signature"])


@pytest.mark.ray
@pytest.mark.parametrize(("edit", "layout"), params(THIRD, WORKER_MISSES))
def test_a_function_hashes_alike_on_ray(matrix: Matrix, edit: Edit, layout: str) -> None:
    """A function that arrived on Ray by value has the hashes that it has here."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    there = matrix.on_ray[edit.name, layout]
    assert there["probed"] == {"content": there["content"], "signature": there["signature"]}
