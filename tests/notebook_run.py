"""Runs a notebook from start to end in this fresh process: by a real kernel, else by IPython, else as their cells would run.

Arguments: the notebook, and which of these to use (`kernel`, `ipython`, `cells`). What its last cell prints is printed.
"""

from __future__ import annotations

import json
import linecache
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def run_by_kernel(notebook: Path) -> str:
    """Have nbclient start the kernel of this Python, as `jupyter execute` does."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    # Not the kernel that is registered under some name: that may be of another environment.
    manager = AsyncKernelManager()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="this Python", language="python")
    client = NotebookClient(nbformat.read(notebook, as_version=4), km=manager, timeout=120)
    outputs = client.execute()["cells"][-1]["outputs"]
    return "".join(one["text"] for one in outputs if one.get("name") == "stdout")


def run_by_ipython(notebook: Path) -> str:
    """Run the cells in the shell that a kernel runs them in."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell, printed = InteractiveShell.instance(), ""
    sys.modules["__main__"] = shell.user_module
    for cell in cells_of(notebook):
        with capture_output() as captured:
            done = shell.run_cell(cell)
        done.raise_error()
        printed = captured.stdout
    return printed


def run_cells(notebook: Path) -> str:
    """Run the cells in a `__main__` without a file, with their lines where tracebacks look for them."""
    import contextlib
    import io

    main, printed = ModuleType("__main__"), ""
    sys.modules["__main__"] = main
    for number, cell in enumerate(cells_of(notebook)):
        filename = f"<cell {number}>"
        linecache.cache[filename] = (len(cell), None, cell.splitlines(keepends=True), filename)
        with contextlib.redirect_stdout(io.StringIO()) as captured:
            exec(compile(cell, filename, "exec", dont_inherit=True), vars(main))
        printed = captured.getvalue()
    return printed


def cells_of(notebook: Path) -> list[str]:
    """Return the code of a notebook."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


if __name__ == "__main__":
    run = {"kernel": run_by_kernel, "ipython": run_by_ipython, "cells": run_cells}[sys.argv[2]]
    sys.stdout.write(run(Path(sys.argv[1])))
