"""What all fault campaigns share: processes that start in milliseconds, and files that are gone when a test is over."""

from __future__ import annotations

import multiprocessing as mp
from typing import Any

import pytest


@pytest.fixture(scope="session")
def processes() -> Any:
    """Processes that start in milliseconds: forks of a server that has imported everything and used nothing."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["dagster", "faults.workers", "orcapod_dagster"])
    return context
