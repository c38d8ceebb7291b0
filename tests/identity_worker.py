"""Hashes the function `work` of many small projects, each in its own folder, in one fresh process without third-party imports.

Reads a JSON list of jobs on standard input, each a folder with a layout (`"modules"`, `"package"`, `"notebook"`, `"exec"`),
and writes a JSON list of what it found.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import linecache
import os
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def load_identity() -> Any:
    """Import the identity package without its parents, which import Dagster and Arrow."""
    for name in ("orcapod_dagster", "orcapod_dagster.core"):
        parent = types.ModuleType(name)
        parent.__path__ = [str(ROOT.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, parent)
    return importlib.import_module("orcapod_dagster.core.identity")


def load_work(folder: str, layout: str) -> Any:
    """Return `work` as a fresh process that runs this project would have it."""
    if layout in ("notebook", "exec"):
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        cells = Path(folder, "main.py").read_text().split("\n\n\n")
        for number, cell in enumerate(cells):
            filename = f"<{folder} cell {number}>"
            if layout == "notebook":
                linecache.cache[filename] = (len(cell), None, cell.splitlines(keepends=True), filename)
            exec(compile(cell, filename, "exec", dont_inherit=True), vars(main))
        return main.work
    return importlib.import_module("project.main" if layout == "package" else "main").work


@contextlib.contextmanager
def loaded(folder: str, layout: str) -> Iterator[Any]:
    """Give `work` of a project, and leave nothing of it in the process."""
    before = set(sys.modules)
    sys.path.insert(0, folder)
    if Path(folder).is_dir():  # and no archive
        os.chdir(folder)
    importlib.invalidate_caches()
    main = sys.modules["__main__"]
    try:
        with warnings.catch_warnings(record=True):
            yield load_work(folder, layout)
    except Exception as error:
        error.add_note(f"project {folder}, layout {layout}")
        raise
    finally:
        sys.modules["__main__"] = main
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if folder in str(
                getattr(sys.modules[name], "__file__", None) or getattr(sys.modules[name], "__path__", "")
            ):
                del sys.modules[name]


def hash_project(identity: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Hash one project."""
    with loaded(job["folder"], job["layout"]) as work:
        code = identity.function_code(work, **job.get("options", {}))
        return {
            "hash": code.content_hash,
            "signature": identity.function_signature_hash(work),
            "parts": {key: part.digest for key, part in code.parts.items()},
            "sources": {key: part.source for key, part in code.parts.items()},
            "reports": dict(code.reports),
        }


def main() -> None:
    """Hash all projects given."""
    sys.dont_write_bytecode = True
    identity = load_identity()
    with contextlib.redirect_stdout(sys.stderr):  # projects may print
        found = [hash_project(identity, job) for job in json.load(sys.stdin)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
