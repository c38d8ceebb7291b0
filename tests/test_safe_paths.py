"""Safe paths: no key leads outside of the root or to another asset's table, links are not followed, tables in tables are apart."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.errors import LakeError, OrcapodError
from orcapod_dagster.core.paths import LOG_FOLDER, join_uri, refuse_strange_folder, safe_component
from orcapod_dagster.core.verify import verify

STRANGE = [
    "", ".", "..", "...", "_", "_delta_log", "_orcapod.lock", ".orcapod", "part-0.parquet", "a", "A", "a.", "a/", "/a", "a/b", "a\\b",
    "a%2Fb", "%", "=", "==", "=2E", "=2e", " ", "a ", "\n", "\x00", "é", "e\u0301", "😀", "\ud800", "con", "x" * 200, "x" * 201,
    "x" * 300, "x" * 299 + "y", "é" * 100, "é" * 101, "'; DROP TABLE a; --", "$(id)", "*", "?", "~", "C:", "a|b",
]  # fmt: skip


def write(root: Path, key: list[str], value: int, instance: dg.DagsterInstance | None = None) -> None:
    asset = dg.asset(key=dg.AssetKey(key))(lambda: pa.table({"value": [value]}))
    dg.materialize([asset], instance=instance, resources={"io_manager": DeltaLakeIOManager(root_uri=str(root))})


def read(root: Path, key: list[str]) -> list[int]:
    seen: list[pa.Table] = []

    @dg.asset(ins={"rows": dg.AssetIn(dg.AssetKey(key))})
    def reader(rows: pa.Table) -> None:
        seen.append(rows)

    source = dg.AssetSpec(key=dg.AssetKey(key))
    dg.materialize(
        [source, reader], selection=[reader], resources={"io_manager": DeltaLakeIOManager(root_uri=str(root))}
    )
    return seen[0]["value"].to_pylist()


def test_different_names_have_different_folders() -> None:
    """No two names share a folder, none is one that a table or the lake uses itself, and none goes up or elsewhere."""
    folders = [safe_component(name) for name in STRANGE]
    assert len(set(folders)) == len(STRANGE)
    for folder in folders:
        assert 0 < len(folder) <= 200
        assert folder[0] not in "._"
        assert folder[-1] != "."
        assert folder.isascii()
        assert not set(folder) & set('/\\%:*?"<>|~$\x00\n ')


def test_keys_of_several_components_are_apart() -> None:
    """Pairs of strange components never share a folder with one another, however they are put together."""
    pairs = [list(pair) for pair in itertools.product(STRANGE, repeat=2)]
    uris = {join_uri("/lake", key) for key in [*pairs, *([name] for name in STRANGE)]}
    assert len(uris) == len(pairs) + len(STRANGE)
    assert all(f"/{LOG_FOLDER}" not in uri and os.path.normpath(uri) == uri for uri in uris)


def test_a_key_below_another_leaves_its_table_alone(tmp_path: Path) -> None:
    """Assets whose keys go on from another's, also with names that a table uses itself, are written and read apart."""
    keys = [["a"], ["a", "b"], ["a", LOG_FOLDER], ["a", "_orcapod.lock"], ["a", "part-0.parquet"], ["a", "b", ".."]]
    for turn in range(2):
        for number, key in enumerate(keys):
            write(tmp_path, key, 10 * turn + number)
    assert [read(tmp_path, key) for key in keys] == [[10 + number] for number in range(len(keys))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_table_in_the_folder_of_another_has_its_own_files(tmp_path: Path) -> None:
    """Verify takes no file of the asset `a/b` for an orphan of `a`, nor the other way, and still finds real orphans."""
    for turn in range(3):
        write(tmp_path, ["a"], turn)
        write(tmp_path, ["a", "b"], turn)
        write(tmp_path, ["a", "ab"], turn)
    long_ago = time.time() - 7 * 24 * 3600
    for path in tmp_path.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert [report.findings for report in verify(str(tmp_path), read_all=True)] == [(), (), ()]
    orphan = tmp_path / "a" / "b" / "part-orphan.parquet"
    shutil.copy(next((tmp_path / "a").glob("*.parquet")), orphan)
    os.utime(orphan, (long_ago, long_ago))
    found = {report.table: report.findings for report in verify(str(tmp_path))}
    assert found["a"] == found["a/ab"] == ()
    (finding,) = found["a/b"]
    assert finding.what.startswith("1 files (")
    assert finding.harmless
    assert [one.table for one in verify(str(tmp_path), table="a/b")] == ["a/b"]
    before = read(tmp_path, ["a", "b"])
    compact(str(tmp_path / "a"))
    assert read(tmp_path, ["a", "b"]) == before


# ---------------------------------------------------------------------------- symbolic links


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with the tables `a` and `b/c`, beside a folder that is none of its business."""
    root = tmp_path / "lake"
    for key in (["a"], ["b", "c"]):
        write(root, key, 1)
    shutil.copytree(root / "a", tmp_path / "outside" / "c")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


LINKS = {
    "out of the root": ("b/d", "../../outside/c", ["b", "d"]),
    "of a component": ("e", "../outside", ["e", "c"]),
    "to another table": ("e", "a", ["e"]),
    "of the log": ("b/d/_delta_log", "../../a/_delta_log", ["b", "d"]),
    "to nowhere": ("e", "../outside/new", ["e"]),
    "to itself": ("e", "e", ["e"]),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_below_the_root_are_refused(tmp_path: Path, lake: Path, case: str) -> None:
    """A link in the way to a table is refused by name when writing and reading, and nothing changes behind it."""
    at, target, key = LINKS[case]
    (lake / at).parent.mkdir(parents=True, exist_ok=True)
    (lake / at).symlink_to(target)
    before = contents(tmp_path / "outside"), contents(lake)
    with pytest.raises(LakeError, match="is a symbolic link to"):
        write(lake, key, 2)
    with pytest.raises(LakeError, match="is a symbolic link to"):
        read(lake, key)
    assert (contents(tmp_path / "outside"), contents(lake)) == before


def test_results_behind_a_link_are_refused(tmp_path: Path) -> None:
    """The folder of results, and the table of a function in it, are no links either."""

    @dg.asset
    def numbers() -> pa.Table:
        return pa.table({"x": [1]})

    def square(x: int) -> int:
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["x"], output_keys="y")
    (tmp_path / "lake").mkdir()
    (tmp_path / "outside").mkdir()
    for at in (tmp_path / "lake/.orcapod", tmp_path / "lake/.orcapod/results"):
        at.symlink_to(tmp_path / "outside")
        with pytest.raises(LakeError, match="is a symbolic link to"):
            dg.materialize([numbers, asset], resources=packet_resources(str(tmp_path / "lake"), as_default=True))
        at.unlink()
        (tmp_path / "lake/.orcapod").mkdir(exist_ok=True)
    assert contents(tmp_path / "outside") == {}


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """A lake whose root is a link, or lies behind one, is written, read and verified."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for root in (tmp_path / "link", tmp_path / "link" / "lake"):
        write(root, ["a"], 1)
        assert read(root, ["a"]) == [1]
        assert [report.rows for report in verify(str(root), table="a")] == [1]


def test_verify_does_not_look_behind_links(lake: Path) -> None:
    """Verify names a link instead of checking what lies behind it, and a link in a circle does not hold it up."""
    (lake / "e").symlink_to("../outside")
    (lake / "b" / "up").symlink_to("..")
    reports = {report.table: report for report in verify(str(lake))}
    assert reports["a"].findings == reports["b/c"].findings == ()
    assert "is a symbolic link to ../outside" in reports["e/c"].findings[0].what
    assert reports["e/c"].version is None


def test_upper_and_lower_case_are_told_apart_where_the_file_system_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is there under another spelling only is refused; here the file system is made to overlook case."""
    write(tmp_path, ["Readings"], 1)
    refuse_strange_folder(str(tmp_path), ["Readings"])
    refuse_strange_folder(str(tmp_path), ["readings"])
    lstat = os.lstat

    def without_case(path: Any) -> os.stat_result:
        names = {p.name.lower(): p for p in Path(path).parent.iterdir()}
        return lstat(names.get(Path(path).name.lower(), path))

    monkeypatch.setattr(os, "lstat", without_case)
    refuse_strange_folder(str(tmp_path), ["Readings"])
    with pytest.raises(LakeError, match="differs in upper and lower case only"):
        refuse_strange_folder(str(tmp_path), ["readings"])


def test_a_key_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    """A key whose path is longer than the system takes is refused with the path, and nothing is written."""
    with pytest.raises(OrcapodError, match="File name too long"):
        write(tmp_path, ["x" * 200] * 30, 1)
    assert list(tmp_path.rglob("*.parquet")) == []
