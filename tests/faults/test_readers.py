"""Campaign: a table is read again and again while it is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from campaigns import rounds

from faults import workers
from faults.harness import finish, start

pytestmark = pytest.mark.slow


def test_a_reader_sees_whole_versions(processes: Any, tmp_path: Path) -> None:
    """A reader during 100 replacements of a table always gets one whole version, and sees many of them."""
    uri, stop, answer = str(tmp_path / "t"), tmp_path / "stop", tmp_path / "answer"
    writer = start(processes, workers.replace_many, uri, rounds(10, 100), str(stop))
    finish([start(processes, workers.read_often, uri, rounds(10, 200), str(answer))])
    stop.touch()
    finish([writer])
    assert answer.read_text().startswith("whole, of ")
    assert int(answer.read_text().split()[2]) >= rounds(2, 20)
