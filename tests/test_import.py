"""What `import orcapod_dagster` brings along."""

from __future__ import annotations

import subprocess
import sys

import orcapod_dagster
from orcapod_dagster.core import errors

HEAVY = ("pandas", "polars", "ray", "git", "pyarrow.dataset", "pyarrow.compute")


def test_heavy_libraries_are_imported_on_first_use() -> None:
    """Loading definitions imports no library that only runs need."""
    program = f"import dagster, pyarrow, sys; before = set(sys.modules); import orcapod_dagster; print([m for m in {HEAVY} if m in set(sys.modules) - before])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_errors_are_at_the_top() -> None:
    """Whoever catches an error of this package finds its class at the top of it."""
    found = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert "StorageError" in found
    assert found <= set(orcapod_dagster.__all__)
