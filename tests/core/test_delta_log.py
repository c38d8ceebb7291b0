"""The newest commit of a table: noticed when it was cut short, forced to the disk where asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from orcapod_dagster.core import delta
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.delta import log as delta_log
from orcapod_dagster.core.delta.log import refuse_cut_commits
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
        with pytest.raises(
            StorageError, match=r"00004\.json .*or remove it: the table is then as it was before version 4"
        ):
            delta.open_table(str(tmp_path / "t"))
    file.write_bytes(text)
    assert delta.open_table(str(tmp_path / "t")) is not None


def test_a_commit_that_lost_its_name_is_noticed(tmp_path: Path) -> None:
    """A named append whose commit was cut before its name, which is the last line, is not taken for whole: a retry would repeat it."""
    delta.append(str(tmp_path), pa.table({"x": [1]}).to_reader, commit_id="named")
    text = newest_commit(tmp_path).read_bytes()
    *lines, name = text.splitlines(keepends=True)
    assert b'"named"' in name
    newest_commit(tmp_path).write_bytes(b"".join(lines))
    with pytest.raises(StorageError, match="lacks the name of its commit, after 1 file actions"):
        delta.open_table(str(tmp_path))
    newest_commit(tmp_path).write_bytes(text)
    assert delta.open_table(str(tmp_path)) is not None


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


def test_an_earlier_commit_cut_short_is_noticed(tmp_path: Path) -> None:
    """An empty last but one commit, which deltalake opens without its rows, is named, and what to remove."""
    for number in range(3):
        delta.append(str(tmp_path / "t"), pa.table({"x": [number]}).to_reader)
    earlier = tmp_path / "t" / "_delta_log" / f"{2:020}.json"
    earlier.write_bytes(b"")
    assert DeltaTable(str(tmp_path / "t")).to_pyarrow_table().num_rows == 2
    with pytest.raises(StorageError, match=r"00002\.json is empty.*remove it with the 1 after it"):
        delta.open_table(str(tmp_path / "t"))


@pytest.mark.parametrize("kept", [0, 100, "a line"])
def test_a_creation_cut_short_is_named(tmp_path: Path, kept: int | str) -> None:
    """The commit that creates a table, cut short, is named; once it is removed, the next write creates the table."""
    uri = tmp_path / "t"
    delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    newest_commit(uri).unlink()
    created = newest_commit(uri)
    text = created.read_bytes()
    created.write_bytes(text[: text.index(b"\n") + 1 if isinstance(kept, str) else kept])
    with pytest.raises(StorageError, match=r"00000\.json .*the table is then not there"):
        delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    created.unlink()
    delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    assert DeltaTable(str(uri)).to_pyarrow_table().num_rows == 1


def test_cut_commits_of_deltalake_itself_are_noticed(tmp_path: Path) -> None:
    """A commit that deltalake wrote by itself tells by its metrics that its file actions are gone."""
    uri = str(tmp_path / "t")
    write_deltalake(uri, pa.table({"x": [1]}))
    write_deltalake(uri, pa.table({"x": [2]}), mode="append")
    file = newest_commit(tmp_path / "t")
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StorageError, match="has 0 of the 1 file actions"):
        delta.open_table(uri)


def cut_checkpoint(log: Path, keep: int) -> None:
    checkpoint = max(log.glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])


def remove_checkpoint(log: Path, keep: int) -> None:
    max(log.glob("*.checkpoint.parquet")).unlink()


@pytest.mark.parametrize(("harm", "keep"), [(cut_checkpoint, 0), (cut_checkpoint, 500), (remove_checkpoint, 0)])
def test_a_broken_checkpoint_has_a_way_out(tmp_path: Path, harm: Any, keep: int) -> None:
    """A checkpoint that is empty, cut or gone keeps a table closed; the error names the files whose removal opens it whole."""
    uri, log = str(tmp_path / "t"), tmp_path / "t" / "_delta_log"
    for number in range(21):
        delta.append(uri, pa.table({"x": [number]}).to_reader)
    harm(log, keep)
    with pytest.raises(StorageError, match=r"every commit is there\. Remove ") as refused:
        delta.append(uri, pa.table({"x": [21]}).to_reader)
    for file in str(refused.value).partition("Remove ")[2].partition(":")[0].split(" and "):
        Path(file).unlink()
    delta.append(uri, pa.table({"x": [21]}).to_reader)
    assert sorted(DeltaTable(uri).to_pyarrow_table()["x"].to_pylist()) == list(range(22))


def test_a_broken_checkpoint_without_its_commits_is_said(tmp_path: Path) -> None:
    """Where commits were cleaned up, removing the broken checkpoint would lose rows, so that is not advised."""
    uri, log = str(tmp_path / "t"), tmp_path / "t" / "_delta_log"
    for number in range(21):
        delta.append(uri, pa.table({"x": [number]}).to_reader)
    cut_checkpoint(log, 500)
    (log / f"{15:020}.json").unlink()  # after the checkpoint before
    with pytest.raises(StorageError, match=r"commits from version (9|10) on are missing\. Restore it"):
        delta.open_table(uri)


def test_commits_of_others_are_taken_as_they_are(tmp_path: Path) -> None:
    """A commit that does not say how many actions it has, and one that checkpoints and clean-up removed, are no error."""
    uri = str(tmp_path / "t")
    write_deltalake(uri, pa.table({"x": [1]}))
    refuse_cut_commits(uri, 0)
    refuse_cut_commits(uri, 17)
    refuse_cut_commits("s3://bucket/t", 0)
    assert DeltaTable(uri).version() == 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders that are forced to the disk, and the commits in between; as in a process that starts."""
    seen: list[str] = []
    sync, attempt = os.fsync, delta.Write._try

    def spy_sync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        seen.append("data" if name.startswith("part-") else name.lstrip("0") if name.endswith(".json") else name)
        sync(handle)

    def spy_try(self: Any, *arguments: Any) -> None:
        attempt(self, *arguments)
        seen.append("commit")

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(delta.Write, "_try", spy_try)
    monkeypatch.setattr(delta_log, "_synced", {})
    return seen


def folders_above(path: Path) -> list[str]:
    return [folder.name for folder in path.parents]


def test_files_are_on_the_disk_before_their_commit(tmp_path: Path, seen: list[str]) -> None:
    """A durable append syncs its data files and their folder, then commits, then syncs commit and log; else nothing is synced."""
    uri = tmp_path / "t"
    delta.append(str(uri), pa.table({"x": [1]}).to_reader)
    assert seen == ["commit"]
    delta.append(str(uri), pa.table({"x": [1]}).to_reader, durable=True)
    seen.clear()
    delta.append(str(uri), pa.table({"x": [1]}).to_reader, durable=True)
    assert seen == ["data", "t", "commit", "3.json", "_delta_log"]


def test_what_a_commit_stands_on_is_on_the_disk(tmp_path: Path, seen: list[str]) -> None:
    """The first durable append of a process also syncs new folders and the commits of others, and later ones what came since."""
    log = tmp_path / "new" / "t" / "_delta_log"
    rows = pa.table({"x": [1]})
    delta.append(str(log.parent), rows.to_reader, durable=True)
    assert seen == ["data", "t", "commit", "1.json", ".json", "_delta_log", *folders_above(log)]
    for _ in range(2):
        delta.append(str(log.parent), rows.to_reader)
    seen.clear()
    delta.append(str(log.parent), rows.to_reader, durable=True)
    assert seen == ["data", "t", "commit", "4.json", "3.json", "2.json", "_delta_log"]


def test_checkpoints_are_on_the_disk(tmp_path: Path, seen: list[str]) -> None:
    """A checkpoint that deltalake made beside a commit is synced with it, and so is the file that names it."""
    uri = str(tmp_path / "t")
    for _ in range(19):
        delta.append(uri, pa.table({"x": [1]}).to_reader, durable=True)
    checkpoint = f"{19:020}.checkpoint.parquet"
    assert seen[-7:] == ["data", "t", "commit", "19.json", checkpoint, "_last_checkpoint", "_delta_log"]


def test_a_compaction_is_on_the_disk_before_it_counts(tmp_path: Path, seen: list[str]) -> None:
    """A compaction syncs what it wrote, for its commit takes files out of the table that were on the disk."""
    uri = str(tmp_path / "t")
    for _ in range(2):
        delta.append(uri, pa.table({"x": [1]}).to_reader, durable=True)
    seen.clear()
    assert compact(uri) is not None
    assert seen == ["data", "t", "commit", "3.json", "_delta_log"]
