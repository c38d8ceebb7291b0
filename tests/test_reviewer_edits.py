"""Tests of `reviewer_edits`: whether results made before an edit count after it, and what is named as the cause."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edits import LAYOUTS, Edit, apply, in_layout, write_project
from reviewer_edits import COUNTS, COUNTS_NOT, EDITS

WORKER = Path(__file__).with_name("identity_worker.py")
STARRED = {"rate"}
"""What star imports of functions bind that are no functions."""


def run_python(*arguments: str, folder: Path, seed: str, text: str = "") -> str:
    """Return what a fresh process prints."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


def states(edit: Edit) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the project before and after the edit."""
    yield "before", edit.files
    yield "after", apply(edit)


@pytest.fixture(scope="session")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return what is found for each edit, layout and state; before and after are hashed by different processes."""
    top, found = tmp_path_factory.mktemp("reviewed"), {}
    for number, state in enumerate(("before", "after")):
        keys = [(edit.name, layout, state) for edit in EDITS for layout in edit.layouts]
        jobs = []
        for edit in EDITS:
            for layout in edit.layouts:
                folder = top / state / layout / f"edit{EDITS.index(edit)}"
                write_project(folder, dict(states(edit))[state], layout)
                jobs.append({"folder": str(folder), "layout": layout})
        out = run_python(str(WORKER), folder=top, seed=str(number), text=json.dumps(jobs))
        found.update(zip(keys, json.loads(out), strict=True))
    return found


def right_names(edit: Edit, layout: str) -> set[str]:
    """Return the names of parts that tell the cause rightly.

    A notebook counts what its namespace holds: there the imported name is as right, and the kind of thing is not compared.
    """
    if layout in ("modules", "package"):
        return set(in_layout(edit.part or "", layout).split(" or "))
    names = {name.split()[-1] for name in (edit.part or "").split(" or ")}
    bound = {
        node.asname or node.name for node in ast.walk(ast.parse(edit.files["main.py"])) if isinstance(node, ast.alias)
    }
    return {name.replace("PKG.main.", "__main__.").replace("PKG.", "") for name in names} | {
        f"__main__.{n}" for n in bound | STARRED
    }


def changed_names(before: dict[str, Any], after: dict[str, Any], layout: str) -> set[str]:
    """Return the names of the parts that differ."""
    parts = before["parts"], after["parts"]
    changed = {key for key in {**parts[0], **parts[1]} if parts[0].get(key) != parts[1].get(key)}
    return changed if layout in ("modules", "package") else {key.split()[-1] for key in changed}


CASES = [
    pytest.param(
        edit,
        layout,
        id=f"{layout}-{edit.name}",
        marks=[pytest.mark.xfail(strict=True, reason=edit.misses[layout])] if layout in edit.misses else [],
    )
    for edit in EDITS
    for layout in LAYOUTS
    if layout in edit.layouts
]


@pytest.mark.parametrize(("edit", "layout"), CASES)
def test_edit_counts_as_promised(edit: Edit, layout: str, hashed: dict[tuple[str, str, str], Any]) -> None:
    """An edit that can change a result changes the hash and is named, and one that cannot does neither."""
    before, after = hashed[edit.name, layout, "before"], hashed[edit.name, layout, "after"]
    changed = changed_names(before, after, layout)
    assert (before["hash"] != after["hash"]) == bool(changed)
    if edit.part is None:
        assert not changed
    else:
        assert changed, "the edit is not seen"
        assert edit.part == "*" or changed & right_names(edit, layout), f"changed: {sorted(changed)}"


def test_names_are_unique() -> None:
    """No two edits share a name, and each list holds what its name says."""
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    assert all(edit.part for edit in COUNTS)
    assert not any(edit.part for edit in COUNTS_NOT)
