"""What is put back of a process after its rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unprivileged import unprivileged

from orcapod_dagster.core.executors.process_state import process_as_it_was


def descriptors() -> set[int]:
    """Return those that are open, of the first few."""

    def is_open(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return False
        return True

    return set(filter(is_open, range(512)))


def test_a_folder_that_nobody_may_enter_any_more_costs_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that takes the rights of the working directory away leaves the process where it is, and no descriptor open."""
    monkeypatch.chdir(Path.cwd())  # to come back at the end
    with unprivileged() as folder:
        (folder / "work").mkdir()
        os.chdir(folder / "work")
        before = descriptors()
        with process_as_it_was():
            os.chdir(folder)
            (folder / "work").chmod(0)
        assert Path.cwd() == folder
        assert descriptors() == before
        (folder / "work").chmod(0o700)
        monkeypatch.undo()


def test_a_file_that_a_row_opened_in_place_of_the_descriptor_stays_open(tmp_path: Path) -> None:
    """A row that closes a descriptor of ours keeps what it opens in its place, and the process does not go there."""
    here, before = Path.cwd(), descriptors()
    with process_as_it_was():
        (kept,) = descriptors() - before
        os.close(kept)
        own = os.open(tmp_path, os.O_RDONLY)
        assert own == kept
    assert os.path.samestat(os.fstat(own), tmp_path.stat())
    assert Path.cwd() == here
    os.close(own)
