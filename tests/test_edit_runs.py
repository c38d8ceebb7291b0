"""The matrices of edits as real runs: what runs again, why, and the same in worker processes and on Ray.

All projects before an edit are run in one fresh process, all edited ones in another under another hash seed, over the same
lakes; then one more process runs what workers stored. The short form takes each edit in one layout, in turn; most are run by
the engine alone, some as assets of Dagster, few of them in the process pool and on Ray. The long form takes each edit in both
layouts, all as assets in the pool, and on Ray.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reviewer_edits
from campaigns import FULL
from edits import EDITS, Edit, apply, in_layout, write_project

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("edit_runs.py")
LAYOUTS = ("modules", "package")
RUN_OF = 8
"""How many assets share a run and a lake: fewer pay more for what is made once, with more each reads more of the shared tables."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An edit in a layout; `name` is that of its project and asset."""

    name: str
    edit: Edit
    layout: str

    @property
    def counts(self) -> bool:
        """Whether the edit can change a result."""
        return self.edit.part is not None


SENT_OTHERWISE = {
    "argument of a partial",
    "state of a bound method",
    "another method of a bound method's class",
    "callable object",
    "imported inside the body",
    "helper of a cached helper",
}
"""Edits of what goes to workers in another way than a plain function and its helpers."""
CASES = [
    Case(f"edit{number}{layout[0]}", edit, layout)
    for number, edit in enumerate([*EDITS, *reviewer_edits.EDITS])
    for layout in (LAYOUTS if FULL else (LAYOUTS[number % 2],))
    if layout in edit.layouts and (FULL or number % 5 == 0 or edit.name in SENT_OTHERWISE)
]
"""In the short form, every fifth edit in one layout; the hashes of all, in all layouts, are in test_edit_matrix.py."""
FAIL_THEN = {"field of a TypedDict that names the output", "alias in a field of a TypedDict"}
"""Edits after which the function does not return the type that it declares."""
SEEN = [case for case in CASES if case.layout not in case.edit.misses and case.edit.name not in FAIL_THEN]
"""Cases that end alike wherever they run."""
POOLED = [case for n, case in enumerate(SEEN) if FULL or n % 20 == 0 or case.edit.name in SENT_OTHERWISE]
ON_RAY = [case for n, case in enumerate(SEEN) if FULL or case.edit.name in SENT_OTHERWISE or n % 40 == 20]
RAY = importlib.util.find_spec("ray") is not None

_COLUMNS = "the output columns changed"
NAMED_OTHERWISE = {
    "type alias that decides conversion": _COLUMNS,
    "annotation under postponed evaluation": _COLUMNS,
    "constant as default": "the code changed: default k",
    "argument of a partial": "the code changed: default k",
    "field of a TypedDict that names the output": _COLUMNS,
    "alias in a field of a TypedDict": _COLUMNS,
}
"""Edits whose cause is another thing than the part: a default is a value of the input, whatever it is made of."""
TOLD_BY_TABLE = {"default", "keyword-only default", "constant as default", "argument of a partial"}
"""Edits of a value of the input, which the rows of the asset's table tell from a new packet."""
MATERIALIZED = [
    case
    for n, case in enumerate(CASES)
    if case not in POOLED
    and case.edit.name not in FAIL_THEN
    and (n % 8 == 1 or case not in SEEN or case.edit.name in TOLD_BY_TABLE)
]
"""Cases that are run as assets, in the process of the step; the rest but those of the pool is run by the engine alone."""
ENGINE = [case for case in CASES if case not in POOLED and case not in MATERIALIZED]
GIVE_TEXT = {
    "same alias for another module of the standard library",
    "method of a class of the standard library replaced",
    "integer becomes float",
    "one becomes true",
    "text of a template",
    "dedented query",
    "version of a distribution",
}
"""Edits of functions that return texts, whatever they are annotated with."""
TYPES_ONLY = {"field of a TypedDict that names the output", "alias in a field of a TypedDict", "alias of a Literal"}
"""Edits that decide the type of a column, which a call does not show."""


def run_all(runs: list[dict[str, Any]], seed: str) -> list[dict[str, Any]]:
    """Do runs in one fresh process, and return what each of their jobs found."""
    settings = {"PYTHONHASHSEED": seed, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "ORCAPOD_GIT": "off"}
    done = subprocess.run(
        [sys.executable, str(WORKER)],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


Found = dict[Case, dict[str, Any]]


class Matrix:
    """The projects of all cases below one folder, and what their runs did."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for one in CASES:
            write_project(root / "before" / one.name, one.edit.files, one.layout, one.name)
            write_project(root / "after" / one.name, apply(one.edit), one.layout, one.name)

    def runs(self, cases: list[Case], side: str, lake: str, how: str, **options: bool) -> list[dict[str, Any]]:
        """Return runs of a side of these cases, each over a lake of its own."""
        jobs = [
            {"name": case.name, "folder": str(self._root / side / case.name), "layout": case.layout, **options}
            | ({"output": "str"} if case.edit.name in GIVE_TEXT else {})
            for case in cases
        ]
        return [
            {"how": how, "lake": str(self._root / f"{lake}{n}"), "jobs": jobs[n : n + RUN_OF]}
            for n in range(0, len(jobs), RUN_OF)
        ]

    def side(self, side: str, pool: str, seed: str, *, check: bool) -> Found:
        """Return what the runs of a side found."""
        runs = [
            *self.runs(ENGINE, side, "engine", "engine", check=check),
            *self.runs(MATERIALIZED, side, "lake", "local", check=check),
            *self.runs(POOLED, side, "pooled", pool, check=check, probe=check),
        ]
        return dict(zip([*ENGINE, *MATERIALIZED, *POOLED], run_all(runs, seed), strict=True))

    @functools.cached_property
    def before(self) -> Found:
        """Projects before the edit."""
        return self.side("before", "local", "1", check=False)

    @functools.cached_property
    def after(self) -> Found:
        """Edited projects; worker processes also say what hashes the function has there."""
        assert self.before
        return self.side("after", "process_pool", "2", check=True)

    @functools.cached_property
    def on_ray(self) -> Found:
        """Some of the edited projects on Ray, over lakes of their own."""
        runs = self.runs(ON_RAY, "after", "ray", "ray", check=True, probe=True)
        return dict(zip(ON_RAY, run_all(runs, "3"), strict=True))

    @functools.cached_property
    def again(self) -> tuple[Found, Found]:
        """What the pool ran, and what Ray ran, again in the process of the step."""
        assert self.after
        on_ray = ON_RAY if RAY and self.on_ray else []
        runs = [*self.runs(POOLED, "after", "pooled", "local"), *self.runs(on_ray, "after", "ray", "local")]
        found = run_all(runs, "4")
        count = len(POOLED)
        return dict(zip(POOLED, found[:count], strict=True)), dict(zip(on_ray, found[count:], strict=True))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """All projects; each side runs when a test first asks for it."""
    return Matrix(tmp_path_factory.mktemp("matrix"))


def params(cases: list[Case], *, misses: bool = False) -> list[Any]:
    """Return a parameter per case; what is known to be missed must be so still, where that is told."""
    found: list[Any] = []
    for case in cases:
        reason = case.edit.misses.get(case.layout) if misses else None
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        found.append(pytest.param(case, id=f"{case.edit.name}-{case.layout}", marks=marks))
    return found


@pytest.mark.parametrize("case", params(CASES))
def test_each_project_runs(matrix: Matrix, case: Case) -> None:
    """The project before the edit computes all its packets, and the edited one ends well."""
    before, after = matrix.before[case], matrix.after[case]
    assert "error" not in before, before["error"]
    assert "error" not in after, after["error"]
    assert (before["ran"], before["because"]) == (3, {"no earlier result": 3})


@pytest.mark.parametrize(
    "case", params([case for case in CASES if case.edit not in EDITS and case.edit.name not in TYPES_ONLY])
)
def test_edits_are_what_they_say(matrix: Matrix, case: Case) -> None:
    """The function gives other results after an edit of the reviewer that counts, and the same after one that does not."""
    before, after = matrix.before[case]["called"], matrix.after[case]["called"]
    if case.edit in EDITS and case.counts:
        return
    assert (before != after) is (case.counts)


@pytest.mark.parametrize("case", params(CASES, misses=True))
def test_an_edit_runs_again_what_it_can_change(matrix: Matrix, case: Case) -> None:
    """The edited project computes all its packets anew exactly when the edit can change a result."""
    assert matrix.after[case]["ran"] == (0 if not case.counts else 3)


@pytest.mark.parametrize("case", params([case for case in CASES if case.counts], misses=True))
def test_an_edit_is_named_as_the_cause(matrix: Matrix, case: Case) -> None:
    """What ran again shows as reason, for all packets, the part of the code that the edit changes, or the default or columns."""
    (reason,) = matrix.after[case]["because"]
    assert matrix.after[case]["because"][reason] == 3
    if case.edit.name in NAMED_OTHERWISE:
        assert reason.startswith(NAMED_OTHERWISE[case.edit.name])
        return
    what, _, changed = reason.partition(": ")
    right = set(in_layout(case.edit.part or "", case.layout, name=case.name).split(" or "))
    assert what == "the code changed"
    assert right & {one.removesuffix(" (added)").removesuffix(" (removed)") for one in changed.split(", ")}


def check_stored(found: dict[str, Any], executor: str) -> None:
    """Hold what an executor stored against what the function gives in the process of the step, and is there."""
    assert "error" not in found, found["error"]
    stored = found["stored"]
    assert stored["values"] == found["called"]
    assert (stored["content"], stored["signature"]) == ([found["content"]], [found["signature"]])
    assert stored["executors"] == [executor]


@pytest.mark.parametrize("case", params([case for case in CASES if case.edit.name not in FAIL_THEN], misses=True))
def test_what_is_stored_is_what_the_function_gives(matrix: Matrix, case: Case) -> None:
    """Results are those of the function, under its hashes, also from the pool; those of the run before stand as they are."""
    anew = "process_pool" if case in POOLED else "local"
    check_stored(matrix.after[case], "local" if not case.counts else anew)


@pytest.mark.parametrize("case", params(POOLED))
def test_results_of_the_process_pool_count_in_this_process(matrix: Matrix, case: Case) -> None:
    """What the pool stored is found by a run elsewhere, which computes nothing, under the same hashes."""
    check_again(matrix.after[case], matrix.again[0][case])


@pytest.mark.parametrize("case", params(POOLED))
def test_a_function_hashes_alike_in_a_worker_process(matrix: Matrix, case: Case) -> None:
    """A function that arrived in the pool by value has the hashes that it has here."""
    check_probed(matrix.after[case])


@pytest.mark.ray
@pytest.mark.skipif(not RAY, reason="the extra 'ray' is not installed")
@pytest.mark.parametrize("case", params(ON_RAY))
def test_ray_gives_and_records_what_this_process_does(matrix: Matrix, case: Case) -> None:
    """Results of Ray are those of the function, under its hashes, and are found by a run elsewhere, which computes nothing."""
    check_stored(matrix.on_ray[case], "ray.v0")
    assert matrix.on_ray[case]["ran"] == 3
    check_again(matrix.on_ray[case], matrix.again[1][case])


@pytest.mark.ray
@pytest.mark.skipif(not RAY, reason="the extra 'ray' is not installed")
@pytest.mark.parametrize("case", params(ON_RAY))
def test_a_function_hashes_alike_on_ray(matrix: Matrix, case: Case) -> None:
    """A function that arrived on Ray by value has the hashes that it has here."""
    check_probed(matrix.on_ray[case])


def check_again(there: dict[str, Any], here: dict[str, Any]) -> None:
    """Hold a run in the process of the step against one in workers before it."""
    assert here["ran"] == 0
    assert (here["content"], here["signature"]) == (there["content"], there["signature"])


def check_probed(there: dict[str, Any]) -> None:
    """Hold the hashes that a worker found against those here."""
    assert there["probed"] == {"content": there["content"], "signature": there["signature"]}
