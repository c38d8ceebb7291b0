"""The folder by which processes share a local Ray cluster: no other user says there where it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.local_cluster import cluster_folder, join_local_cluster


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_a_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def of_another_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


def link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (open_to_all, "by others .mode 777"),
        (open_to_a_group, "by others .mode 770"),
        (of_another_user, "belongs to user 65534"),
        (link, "leads elsewhere"),
        (Path.touch, "is a file"),
    ],
)
def test_a_folder_that_others_made_is_refused(
    make: Callable[[Path], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made the folder beforehand, or can write there, could name a cluster of theirs; the error says what to do."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cluster_folder.__wrapped__("none")
    make(folder.parent)
    cluster_folder.cache_clear()
    try:
        with pytest.raises(ExecutorError, match=rf"orcapod-ray-{os.getuid()}, .*{says}.*Remove it.*TMPDIR"):
            join_local_cluster("none")
    finally:
        cluster_folder.cache_clear()
