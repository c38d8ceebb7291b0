"""Many writers of one table: who loses too often goes first, and nobody waits long for one that stands still."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta import pace


def test_a_slow_commit_among_quick_ones(tmp_path: Path) -> None:
    """A commit that takes long to prepare loses to appends that never pause, and still happens after a few tries."""
    uri, stop, tries = str(tmp_path / "t"), threading.Event(), []
    rows = pa.table({"x": [1]})
    delta.append(uri, rows.to_reader)

    def keep_appending() -> None:
        while not stop.is_set():
            delta.append(uri, rows.to_reader)

    def slow(_: Any) -> delta.Superseded:
        tries.append(time.monotonic())
        time.sleep(0.5)
        return delta.Superseded([], [])

    threads = [threading.Thread(target=keep_appending) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        write = delta.Write(uri, rows.schema, None, {}, {}, ())
        version = write.run(rows.to_reader, slow).version
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert version > 6
    assert 6 < len(tries) <= 12


def test_nobody_waits_long_for_one_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right of way of a writer that does not go on holds others up for a bounded time, and stops none."""
    monkeypatch.setattr(pace, "_TURN_SECONDS", 0.3)
    uri = str(tmp_path / "t")
    rows = pa.table({"x": [1]})
    delta.append(uri, rows.to_reader)
    with (tmp_path / "t" / "_orcapod.turn").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        assert delta.append(uri, rows.to_reader).version == 2
        assert 0.3 <= time.monotonic() - began < 5
    monkeypatch.setattr(pace, "_TURN_SECONDS", 60.0)
    began = time.monotonic()
    assert delta.append(uri, rows.to_reader).version == 3
    assert time.monotonic() - began < 30  # a busy machine takes a second for it, and who waits for a turn 60
