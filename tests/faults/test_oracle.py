"""Campaign: appends beside replacements, deletions and compactions, held against an oracle in memory, version by version."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from campaigns import rounds

from faults import workers
from faults.harness import finish, rows_of, say, start
from orcapod_dagster.core import delta

pytestmark = pytest.mark.slow

KINDS = ["owner", "owner", "append", "append", "delete", "compact"]
"""Owners append to, replace and empty a partition of their own; deletions take a bucket's rows from all partitions."""
Row = tuple[str, str, int]


class Oracle:
    """What the table must hold at each version, by what its writers say they did in it.

    Which write made a version stands in its commit. A deletion that found nothing makes none; it says at which version.
    """

    def __init__(self, log: Path, journals: Sequence[Path]) -> None:
        self._log = log
        self._files = [path.open() for path in journals]
        self._notes: dict[str, dict[str, Any]] = {}
        self._rows: set[Row] = set()
        self._held: dict[int, set[str]] = {}
        self.version = 1
        self.seen: Counter[str] = Counter()

    def at(self, version: int) -> set[Row]:
        """Return the rows of a version; waits until the writers have told of every version up to it."""
        while self.version < version:
            self.version += 1
            made_by = self._maker(self.version)
            self.seen["compact" if made_by is None else self._apply(made_by)] += 1
            self._held[self.version] = {value for site, bucket, _ in self._rows for value in (site, bucket)}
        return self._rows

    def check_idle_deletions(self) -> int:
        """Every deletion that made no version was right that there was nothing to delete; return how many there were."""
        self._read()
        for name, note in self._notes.items():
            assert note["op"] == "delete", f"{name} made no version"
            assert note["value"] not in self._held.get(note["version"], set()), f"{name} left rows"
        return len(self._notes)

    def _maker(self, version: int) -> str | None:
        """Return the name of the write that made a version; None for a compaction."""
        lines = (self._log / f"{version:020}.json").read_text().splitlines()
        info = next(json.loads(line)["commitInfo"] for line in lines if line.startswith('{"commitInfo"'))
        return None if "orcapod.compaction" in info else info["write"]

    def _apply(self, name: str) -> str:
        deadline = time.monotonic() + 60
        while name not in self._notes:
            assert time.monotonic() < deadline, f"version {self.version} was made by {name}, which does not say so"
            self._read()
        note = self._notes.pop(name)
        assert note["version"] == self.version
        if note["op"] in ("replace", "delete"):
            at = {"site": 0, "bucket": 1}[note["column"]]
            self._rows = {row for row in self._rows if row[at] != note["value"]}
        self._rows = self._rows | {tuple(row.values()) for row in note["rows"]}
        return note["op"]

    def _read(self) -> None:
        for file in self._files:
            place = file.tell()
            while (line := file.readline()).endswith("\n"):
                note = json.loads(line)
                self._notes[note["write"]] = note
                place = file.tell()
            file.seek(place)


def test_every_version_equals_an_oracle(processes: Any, tmp_path: Path) -> None:
    """Every version is one write's, and at every check the table holds exactly what an oracle in memory says of that version."""
    uri, stop = str(tmp_path / "t"), tmp_path / "stop"
    first = pa.schema([("site", pa.string()), ("bucket", pa.string()), ("number", pa.int64())]).empty_table()
    assert delta.replace(uri, first.to_reader, where=None).version == 1
    journals = [tmp_path / f"journal-{writer}" for writer in range(len(KINDS))]
    for journal in journals:
        journal.touch()
    running = [
        start(processes, workers.keep_changing, uri, writer, kind, str(stop), str(journals[writer]))
        for writer, kind in enumerate(KINDS)
    ]
    oracle = Oracle(tmp_path / "t" / "_delta_log", journals)
    try:
        checks = watch(uri, oracle, rounds(4, 600))
    finally:
        stop.touch()
    finish(running)
    check(uri, oracle)
    idle = oracle.check_idle_deletions()
    say(f"{oracle.version} versions by {dict(oracle.seen)}, {idle} deletions of nothing, {checks + 1} checks")


def watch(uri: str, oracle: Oracle, seconds: float) -> int:
    """Hold the newest version against the oracle, again and again, until every kind of write was seen; return how often."""
    began, checks = time.monotonic(), 0
    while time.monotonic() - began < seconds or len(oracle.seen) < 4:
        assert time.monotonic() - began < seconds + 300, f"only {set(oracle.seen)} were seen"
        check(uri, oracle)
        checks += 1
        time.sleep(0.3)
    return checks


def check(uri: str, oracle: Oracle) -> None:
    """The newest version holds what the oracle says, no row twice."""
    table = delta.open_table(uri)
    assert table is not None
    found = rows_of(table)
    there = list(zip(*(found[name].to_pylist() for name in ("site", "bucket", "number")), strict=True))
    wanted = oracle.at(int(table.version()))
    assert len(there) == len(set(there)), f"version {table.version()} holds rows twice"
    assert set(there) == wanted, f"version {table.version()}: {set(there) ^ wanted}"
