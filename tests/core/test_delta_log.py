"""The newest commit of a table: noticed when it was cut short, forced to the disk where asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta_log import refuse_cut_commit
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.predicates import Equals


def newest_commit(uri: Path) -> Path:
    return max((uri / "_delta_log").glob("*.json"))


def make_table(uri: Path) -> bytes:
    """Write three parts and replace one of them, so that the newest commit adds and removes; return its text."""
    for site in "abc":
        delta.append(str(uri), pa.table({"site": [site]}).to_reader)
    delta.replace(str(uri), pa.table({"site": ["a"]}).to_reader, where=Equals("site", ("a",)))
    return newest_commit(uri).read_bytes()


def test_a_commit_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    """The newest commit, cut to nothing, at any line end or in the middle of a line, is named with its file and the way out."""
    text = make_table(tmp_path / "t")
    file = newest_commit(tmp_path / "t")
    lines = text.splitlines(keepends=True)
    assert len(lines) == 3
    cuts = [b"", *(b"".join(lines[:n]) for n in (1, 2)), text[: len(lines[0]) + 20], text[:30]]
    for cut in cuts:
        file.write_bytes(cut)
        with pytest.raises(StorageError, match=r"00004\.json|Kernel error|Json error"):
            delta.open_table(str(tmp_path / "t"))
    file.write_bytes(text)
    assert delta.open_table(str(tmp_path / "t")) is not None


def test_the_way_out_works(tmp_path: Path) -> None:
    """Removing the file that is named gives the table as it was before, and the next write goes on from there."""
    make_table(tmp_path / "t")
    newest_commit(tmp_path / "t").write_bytes(b"")
    with pytest.raises(StorageError, match="or remove it"):
        delta.append(str(tmp_path / "t"), pa.table({"site": ["d"]}).to_reader)
    newest_commit(tmp_path / "t").unlink()
    delta.append(str(tmp_path / "t"), pa.table({"site": ["d"]}).to_reader)
    table = delta.open_table(str(tmp_path / "t"))
    assert table is not None
    assert sorted(table.to_pyarrow_table()["site"].to_pylist()) == ["a", "b", "c", "d"]


def test_commits_of_others_are_taken_as_they_are(tmp_path: Path) -> None:
    """A commit that does not say how many actions it has, and one that checkpoints and clean-up removed, are no error."""
    uri = str(tmp_path / "t")
    write_deltalake(uri, pa.table({"x": [1]}))
    refuse_cut_commit(uri, 0)
    refuse_cut_commit(uri, 17)
    refuse_cut_commit("s3://bucket/t", 0)
    assert DeltaTable(uri).version() == 0


def test_files_are_on_the_disk_before_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable append syncs its data files and their folder, then commits, then syncs commit and log; else nothing is synced."""
    seen: list[str] = []
    sync, attempt = os.fsync, delta.Write._try

    def spy_sync(handle: int) -> None:
        seen.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def spy_try(self: Any, *arguments: Any) -> None:
        attempt(self, *arguments)
        seen.append("commit")

    uri = tmp_path / "t"
    delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(delta.Write, "_try", spy_try)
    delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    assert seen == ["commit"]
    seen.clear()
    delta.append(str(uri), pa.table({"x": [1]}).to_reader, durable=True)
    assert seen[0].startswith("part-")
    assert seen[1:] == ["t", "commit", newest_commit(uri).name, "_delta_log"]
