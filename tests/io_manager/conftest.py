"""The lake that a test has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lakes import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    one = Lake(tmp_path / "lake")
    yield one
    one.instance.dispose()
