"""Runs a notebook from start to end by a real kernel, as `jupyter execute` does; what its last cell prints is printed."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


def run(notebook: Path) -> str:
    """Have nbclient start the kernel of this Python."""
    # Not the kernel that is registered under some name: that may be of another environment.
    manager = AsyncKernelManager()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="this Python", language="python")
    client = NotebookClient(nbformat.read(notebook, as_version=4), km=manager, timeout=300)
    outputs = client.execute()["cells"][-1]["outputs"]
    return "".join(one["text"] for one in outputs if one.get("name") == "stdout")


if __name__ == "__main__":
    sys.stdout.write(run(Path(sys.argv[1])))
