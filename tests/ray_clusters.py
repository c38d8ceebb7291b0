"""The small Ray cluster of tests; a process has one at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest


@contextmanager
def small_cluster(cores: int = 2) -> Generator[None, None, None]:
    """Run a local cluster within the block; where Ray is not installed, the test is skipped."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
