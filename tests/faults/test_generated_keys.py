"""Generated asset and partition keys, made to lead elsewhere: each write changes its own table and partition, nothing else.

The short form runs with the tests; the long form writes 10,000 different keys.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import FULL
from dagster._core.definitions.scoped_resources_builder import ScopedResourcesBuilder

from orcapod_dagster import DeltaLakeIOManager
from orcapod_dagster.core import delta
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.verify import verify

pytestmark = pytest.mark.slow
KEYS = 10_000 if FULL else 150
BATCH = 50
PARTITIONS = 50 if FULL else 15
"""Per partitioned table."""
PIECES = [
    "a", "A", "b", "readings", "x" * 70, "é" * 40, "é", "e\u0301", "ß", "SS", "😀", "\u202e", "\ufeff", "1", "-", "_",  # names
    "/", "//", "\\", ".", "..", "../", "/..", "~", "C:", "%2F", "%2e%2e", "%", "%25", "=", "=2F", "=2E", "==", "?x=1", "#", "*", "://",  # paths
    "_delta_log", "_orcapod.lock", ".orcapod", "results", "part-0.parquet", ".parquet", "00000000000000000000.json", "_last_checkpoint",  # ours, Delta's
    "con", "NUL", "com1.txt", ".", " ", "  ", "\u00a0", "a.", "a ", "part=a", "__HIVE_DEFAULT_PARTITION__", "null", "NaN", "None",  # reserved
    "'", '"', "''", "' OR '1'='1", "'; DROP TABLE rows; --", "/*", "*/", "--", ";", "`", "$(id)", "${HOME}", "|", "&&", "_%", "[a-z]",  # SQL, shells
    "{", "}", '{"add":{}}', "{0}", "{key}", "%s", "%(x)s", "<b>", "&amp;", "\\u0000", "\x7f",  # JSON, formats
]  # fmt: skip
NO_RESOURCES = ScopedResourcesBuilder().build(None)
"""Without it, each context would make an instance of Dagster with its databases."""
FORBIDDEN = ("...", "\a", "\b", "\f", "\n", "\r", "\t", "\v", "\0")
"""What Dagster itself takes in no partition key."""


class Keys:
    """Different keys, many of them made from ones before: longer by a component, in other case, with something behind."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self.assets: dict[tuple[str, ...], None] = {}

    def text(self) -> str:
        return "".join(self.pick.choices(PIECES, k=self.pick.randint(1, 4)))

    def near(self, text: str) -> str:
        return self.pick.choice([text.swapcase(), text + ".", text + " ", text + "/", "." + text, text[:-1], text * 3])

    def asset(self) -> list[str]:
        while True:
            path = [self.text() for _ in range(self.pick.randint(1, 3))]
            if self.assets and self.pick.random() < 0.5:
                other = list(self.pick.choice(list(self.assets)))
                path = [*other[:-1], self.near(other[-1])] if self.pick.random() < 0.4 else [*other[:4], self.text()]
            if tuple(path) not in self.assets:
                self.assets[tuple(path)] = None
                return path

    def partitions(self) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < PARTITIONS:
            key = self.near(self.pick.choice(list(found))) if found and self.pick.random() < 0.4 else self.text()
            if not any(piece in key for piece in FORBIDDEN):
                found[key] = None
        return list(found)


class Lake:
    """A lake, written through the IO manager, and what it should hold: asset key → partition or "" → number of the write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manager = DeltaLakeIOManager(root_uri=str(root))
        self.expected: dict[tuple[str, ...], dict[str, int]] = {}
        self.files: dict[str, tuple[int, int, int]] = {}
        self.turn = 0

    def write(self, path: list[str], definition: dg.StaticPartitionsDefinition | None, key: str = "") -> None:
        self.turn += 1
        asset_key = dg.AssetKey(path)
        context = dg.OutputContext(
            name="result",
            asset_key=asset_key,
            run_id="run",
            resources=NO_RESOURCES,
            definition_metadata={} if definition is None else {"partition_expr": "part"},
            asset_partitions_def=definition,
            asset_partitions_subset=None if definition is None else definition.subset_with_partition_keys([key]),
        )
        self.manager.handle_output(context, pa.table({"part": [key], "turn": [self.turn]}))
        self.expected.setdefault(tuple(path), {})[key] = self.turn

    def changed(self) -> Iterator[str]:
        """Yield the folder of each file that was made, changed or removed since the last call."""
        now: dict[str, tuple[int, int, int]] = {}
        waiting = [str(self.root)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        found = entry.stat(follow_symlinks=False)
                        now[entry.path] = (found.st_size, found.st_mtime_ns, found.st_ino)
        before, self.files = self.files, now
        for path in before.keys() | now.keys():
            if before.get(path) != now.get(path):
                folder = Path(path).parent
                yield str(folder.parent if folder.name == "_delta_log" else folder)

    def check(self, path: tuple[str, ...]) -> None:
        table = delta.open_table(self.manager.table_uri(dg.AssetKey(list(path))))
        assert table is not None, path
        rows = [row for batch in DeltaSource(table).scan(["part", "turn"]) for row in batch.to_pylist()]
        assert sorted((row["part"], row["turn"]) for row in rows) == sorted(self.expected[path].items()), path


def test_generated_keys_change_only_their_own_table_and_partition(tmp_path: Path) -> None:
    """Keys with injections, reserved names, other cases, and keys in one another: only the written table and partition change."""
    keys, lake = Keys(7), Lake(tmp_path / "lake")
    lake.root.mkdir()
    (tmp_path / "beside").write_text("nobody's business")
    writes: list[tuple[list[str], dg.StaticPartitionsDefinition | None, str]] = []
    while len(writes) < KEYS // 2:
        writes.append((keys.asset(), None, ""))
    while len(writes) < KEYS:
        path, names = keys.asset(), keys.partitions()
        definition = dg.StaticPartitionsDefinition(names)
        writes += [(path, definition, name) for name in names]
    writes = writes[:KEYS]
    assert len({(*path, "", key) for path, _, key in writes}) == KEYS
    keys.pick.shuffle(writes)
    for start in range(0, KEYS, BATCH):
        again = keys.pick.sample(writes[: start + 1], min(start + 1, BATCH // 10))
        batch = [*writes[start : start + BATCH], *again]
        for write in batch:
            lake.write(*write)
        written = {lake.manager.table_uri(dg.AssetKey(path)) for path, _, _ in batch}
        assert len(written) == len({tuple(path) for path, _, _ in batch})
        assert set(lake.changed()) == written
        for path in {tuple(path) for path, _, _ in batch}:
            lake.check(path)
    for path in lake.expected:
        lake.check(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside", "lake"]
    assert not (lake.root / ".orcapod").exists()
    reports = list(verify(str(lake.root)))
    assert len(reports) == len(lake.expected)
    assert [report for report in reports if report.findings] == []
    assert sum(report.rows for report in reports) == KEYS
