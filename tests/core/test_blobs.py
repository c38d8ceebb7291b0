"""Large values: what counts of them, how they are stored, opened, missed and found wrong."""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, get_type_hints

import pyarrow as pa
import pytest
import reference_hash as reference
from unprivileged import unprivileged

from orcapod_dagster import Blob, File, output_directory
from orcapod_dagster.core import (
    BlobStore,
    DeltaTableDatabase,
    FunctionPod,
    PythonPacketFunction,
    ResultCache,
    calling,
    delta,
    packet_outputs,
    streams,
)
from orcapod_dagster.core.blobs import codec, keeper
from orcapod_dagster.core.blobs.check import BlobCheck, blob_references, unreferenced
from orcapod_dagster.core.blobs.keeper import LocalKeeper, Workspace
from orcapod_dagster.core.blobs.store import ObjectKeeper
from orcapod_dagster.core.converter import to_array
from orcapod_dagster.core.delta import files as data_files, scanning
from orcapod_dagster.core.errors import DefinitionError, StorageError
from orcapod_dagster.core.executors.base import BatchResult, RowBatch
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.files import FileReader
from orcapod_dagster.core.hashing import RowSetDigest, hash_rows
from orcapod_dagster.core.infrastructure import InfrastructureError
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.streams import PacketStream, StreamInput

ABC = bytes.fromhex("bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319")
"""What `b2sum -l 256` prints for `abc`."""
BIG = b"0123456789" * 10_000
TOMORROW = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


class Bench:
    """A pod over a lake on a disk."""

    def __init__(self, root: Path, function: Callable[..., Any], output: Any = Blob, executor: Any = None) -> None:
        self.root = root
        self.blobs = BlobStore(str(root))
        self.database = DeltaTableDatabase(str(root / ".orcapod"))
        keys = list(output) if isinstance(output, dict) else ["out"]
        schema = output if isinstance(output, dict) else {"out": output}
        given = get_type_hints(function)
        hints = {name: given.get(name, int) for name in inspect.signature(function).parameters}
        self.function = PythonPacketFunction(function, keys, "f", input_schema=hints, output_schema=schema)
        self.executor = executor

    def run(self, column: Any, name: str = "x") -> tuple[PodReport, list[Any]]:
        """Run the rows, and return the report and the stored struct or value per row with a result."""
        column = column if isinstance(column, pa.Array) else pa.array(column)
        table = pa.table({"id": range(len(column)), name: column})
        cache, log = ResultCache(self.database, ("r",)), OutcomeLog(self.database, ("o",))
        one = FunctionPod(self.function, cache, log, match="version", blobs=self.blobs, executor=self.executor)
        plan = one.plan(PacketStream.open([StreamInput("t", MemorySource(table))], ["id"]))
        report = one.compute(plan)
        _, snapshot, positions = one.assemble(plan, report)
        if snapshot is None or not len(positions):
            return report, []
        taken = snapshot.source.take(positions, self.function.output_keys)
        return report, taken[self.function.output_keys[0]].to_pylist()

    def files(self) -> dict[str, int]:
        """Return name → inode of the stored values."""
        return {path.name: path.stat().st_ino for path in (self.root / ".orcapod/blobs").glob("??/*")}

    def source(self) -> TableSource:
        source = self.database.source(("r",))
        assert source is not None
        return source


# ---------------------------------------------------------------------------- what counts


def test_only_the_bytes_count(tmp_path: Path) -> None:
    """Media type, place and whether a value lies in the table do not enter the hash; the vector is that of the specification."""
    stored = BlobStore(str(tmp_path), inline_bytes=0).keeper.keep(Blob(b"abc", "text/plain"), "c")
    column = to_array([b"abc", stored, Blob(b"abc", "image/png"), None], Blob | None, column="c")
    hashes = hash_rows({"c": column}).to_pylist()
    assert column.to_pylist()[1]["data"] is None
    assert len(set(hashes[:3])) == 1
    kinds = {"c": {"struct": {"file": "binary"}}}
    assert hashes[0] == reference.hash_row({"c": {"file": ABC}}, kinds)
    assert hashes[0].hex() == "41868270154b865ec07b61f764961962"
    assert hashes[3] == reference.hash_row({"c": None}, kinds)


def test_a_file_and_a_blob_of_equal_bytes_are_one_packet(tmp_path: Path) -> None:
    """A parameter that turns from `File` to `Blob` keeps its packets' hashes."""
    (tmp_path / "f").write_bytes(b"abc")
    file = FileReader({"c": File}).contents({"c": pa.array([str(tmp_path / "f")])}).columns
    assert hash_rows(dict(file)) == hash_rows({"c": to_array([b"abc"], Blob, column="c")})


def test_data_versions_count_bytes() -> None:
    """The digest of a set of rows is the same wherever the bytes lie, and another for other bytes."""
    versions: list[str] = []
    for blob in (Blob(b"abc"), Blob(b"abc", "text/plain"), Blob(b"abd")):
        digest = RowSetDigest()
        digest.update({"c": to_array([blob], Blob, column="c")})
        versions.append(str(digest.content_hash()))
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("hint", [list[Blob], dict[str, Blob], tuple[Blob, int], list[Blob | None] | None])
def test_a_blob_inside_of_another_type_is_refused(hint: Any) -> None:
    """The definition fails with the column's name and the way out."""

    def f(x: int) -> Any: ...

    with pytest.raises(DefinitionError, match=r"column 'out'.*has a Blob inside.*one column for each value"):
        PythonPacketFunction(f, ["out"], output_schema={"out": hint})


# ---------------------------------------------------------------------------- handles


def test_what_a_handle_tells(tmp_path: Path) -> None:
    """Size, hash and media type of bytes, files and arrays; reading, opening, and a path even for bytes in memory."""
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    for blob, media_type in ((Blob(b"abc"), "application/octet-stream"), (Blob(path), "image/png")):
        assert (blob.size, blob.hash, blob.media_type) == (3, ABC.hex(), media_type)
        assert blob.read() == blob.open().read() == blob.path().read_bytes() == b"abc"
    assert Blob(b"abc") == Blob(path) != Blob(b"abd")
    borrowed = Blob(b"abc", "image/png")
    temporary = borrowed.path()
    assert temporary.suffix == ".png"
    del borrowed
    assert not temporary.exists()
    with pytest.raises(TypeError, match="not of a str"):
        Blob("a.png")


def test_arrays() -> None:
    """A numpy array comes back with its type and shape; one of objects is refused, for only pickle could hold it."""
    np = pytest.importorskip("numpy")
    blob = Blob(np.arange(6, dtype="int16").reshape(2, 3))
    back = pickle.loads(pickle.dumps(blob)).array()
    assert (back.tolist(), back.dtype, blob.media_type) == ([[0, 1, 2], [3, 4, 5]], np.int16, "application/x-npy")
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        Blob(np.array([object()]))


def test_a_handle_of_a_local_lake_travels_as_its_path(tmp_path: Path) -> None:
    """Pickling does not read the value; what arrives reads it from the same file."""
    stored = BlobStore(str(tmp_path)).keeper.keep(BIG, "c")
    sent = pickle.dumps(stored)
    assert len(sent) < 1000
    assert pickle.loads(sent).read() == BIG


def test_damage_is_told(tmp_path: Path) -> None:
    """A value that is gone, cut or of other bytes raises, with its place and the way out."""
    stored = BlobStore(str(tmp_path)).keeper.keep(BIG, "c")
    file = Path(stored.file)
    file.chmod(0o644)
    file.write_bytes(BIG[:-1] + b"x")
    with pytest.raises(OSError, match=r"blobs/.* holds other bytes than were stored.*Materialize"):
        stored.read()
    file.write_bytes(b"x")
    with pytest.raises(OSError, match="has 1 bytes, 100000 were stored"):
        stored.path()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="is not there"):
        stored.open()


def test_a_row_of_a_table_is_opened(tmp_path: Path) -> None:
    """A handle of what a table holds is opened by its lake; without that it says what is missing, and no path leads out."""
    bench = Bench(tmp_path, lambda x: BIG if x else b"abc")
    _, (small, large) = bench.run([0, 1])
    assert Blob.of(small).read() == b"abc"
    assert BlobStore(str(tmp_path)).open(large).read() == BIG
    outside = {**large, "path": "../" + written(tmp_path.parent, f"{tmp_path.name}.bin").name}
    for unknown in (Blob.of(large), BlobStore(str(tmp_path)).open(outside)):
        with pytest.raises(OSError, match=r"Open it with BlobStore\(root_uri\).open\(row\)"):
            unknown.read()


# ---------------------------------------------------------------------------- storing


def test_small_values_lie_in_the_table_and_large_ones_beside_it(tmp_path: Path) -> None:
    """At the limit a value is inline, above it is stored by its digest; equal ones once, and never written again."""
    bench = Bench(tmp_path, lambda x: b"x" * x)
    _, rows = bench.run([keeper.INLINE_BYTES, keeper.INLINE_BYTES + 1])
    assert [row["data"] is None for row in rows] == [False, True]
    assert rows[1]["path"] == f".orcapod/blobs/{rows[1]['hash'].hex()[:2]}/{rows[1]['hash'].hex()}"
    before = bench.files()
    other = Bench(tmp_path, lambda x: Blob(b"x" * x, "text/plain"))
    other.database = DeltaTableDatabase(str(tmp_path / "other"))
    other.run([keeper.INLINE_BYTES + 1])
    assert bench.files() == before


def written(folder: Path, name: str = "a.bin", data: bytes = BIG) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_files_are_moved_from_the_directory_and_copied_from_elsewhere(tmp_path: Path) -> None:
    """A file in the output directory keeps its inode; one outside stays where it is; nothing is left behind."""
    inodes: list[int] = []

    def inside(x: int) -> Any:
        path = written(output_directory())
        assert path.parent == output_directory()
        inodes.append(path.stat().st_ino)
        return path

    bench = Bench(tmp_path / "one", inside)
    _, (row,) = bench.run([1])
    assert list(bench.files().values()) == inodes
    assert row["media_type"] == "application/octet-stream"
    outside = written(tmp_path)
    copied = Bench(tmp_path / "two", lambda x: outside)
    copied.run([1])
    assert outside.read_bytes() == BIG
    assert list(copied.files().values()) != [outside.stat().st_ino]
    assert not len(bench.blobs.leftovers())
    assert not list((tmp_path / "one/.orcapod/blobs/work").iterdir())


def test_a_file_with_another_name_is_copied(tmp_path: Path) -> None:
    """A hard link or a link inside of the directory is no sole owner of its bytes, so the stored value is another file."""
    kept = written(tmp_path, "kept")

    def linked(x: int) -> Any:
        os.link(kept, output_directory() / "hard")
        return output_directory() / "hard"

    bench = Bench(tmp_path / "lake", linked)
    bench.run([1])
    kept.write_bytes(b"changed")
    (name,) = bench.files()
    assert (tmp_path / "lake/.orcapod/blobs" / name[:2] / name).read_bytes() == BIG


def link_out(folder: Path) -> Path:
    (folder / "link").symlink_to("/etc/hostname")
    return folder / "link"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "no.bin", r"'.*no.bin' does not exist. Write it before"),
        (lambda folder: folder, "is a directory. Return the path of a file"),
        (link_out, "is a symbolic link out of the output directory"),
        (lambda _: Path("/dev/null"), "is no regular file"),
        (lambda _: "a.bin", "got a str, expected Blob .give the path of a file as a pathlib.Path"),
        (lambda _: 7, "got a int, expected Blob"),
    ],
)
def test_what_is_no_value_fails_its_packet(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    """The failure names column and reason; the other row is stored."""
    bench = Bench(tmp_path, lambda x: make(output_directory()) if x else b"good")
    report, rows = bench.run([0, 1])
    (failure,) = report.failures
    assert re.search(message, failure.message), failure.message
    assert "'out'" in failure.message
    assert [row["data"] for row in rows] == [b"good"]


@dataclasses.dataclass(frozen=True)
class Record:
    one: Blob
    two: Blob | None
    n: int


class Named(NamedTuple):
    one: Blob
    two: Blob | None
    n: int


class Keyed(TypedDict):
    one: Blob
    two: Blob | None
    n: int


@pytest.mark.parametrize("make", [Record, Named, Keyed, tuple])
def test_every_shape_of_output(tmp_path: Path, make: Any) -> None:
    """Dataclasses, NamedTuples, dicts and tuples of values: each large one is stored, one file returned twice as well."""

    def f(x: int) -> Any:
        path: Any = written(output_directory())
        return (path, path, x) if make is tuple else make(one=path, two=path, n=x)

    function = f
    if make is tuple:
        packet = PythonPacketFunction(
            function, ["one", "two", "n"], output_schema={"one": Blob, "two": Blob | None, "n": int}
        )
    else:
        f.__annotations__["return"] = make
        packet = PythonPacketFunction(function)
    bench = Bench(tmp_path, lambda x: None, int)
    bench.function = packet
    report, (row,) = bench.run([5])
    assert (report.failed, row["path"] is not None, len(bench.files())) == (0, True, 1)


def test_async_functions_have_a_directory_each(tmp_path: Path) -> None:
    """An `async def` gets a fresh directory per packet too, also after an await."""
    seen: list[Path] = []

    async def f(x: int) -> Any:
        import asyncio

        await asyncio.sleep(0)
        seen.append(output_directory())
        return written(output_directory(), data=BIG + bytes([x]))

    bench = Bench(tmp_path, f)
    report, _ = bench.run([1, 2])
    assert (report.computed, len(set(seen)), len(bench.files())) == (2, 2, 2)
    assert not any(path.exists() for path in seen)


def test_a_value_that_was_received_is_not_written_again(tmp_path: Path) -> None:
    """A handle of the same lake keeps its file; one of another lake is copied into this one."""
    bench = Bench(tmp_path / "one", _same)
    stored = bench.blobs.keeper.keep(BIG, "x")
    before = bench.files()
    report, (row,) = bench.run(to_array([stored], Blob, column="x"))
    assert (report.computed, row["path"], bench.files()) == (1, stored.place[1], before)
    foreign = BlobStore(str(tmp_path / "two")).keeper.keep(stored, "x")
    assert foreign.place[0] == str(tmp_path / "two")
    assert foreign.read() == BIG


def _same(x: Blob) -> Blob:
    return x


def test_a_plain_column_refuses_long_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of plain bytes beyond the limit fails its packet, with the hint; the others are stored."""
    monkeypatch.setattr(codec, "LONGEST_BYTES", 1000)
    bench = Bench(tmp_path, lambda x: b"x" * x, bytes)
    report, rows = bench.run([1000, 1001])
    assert [len(row) for row in rows] == [1000]
    assert "column 'out': got 1,001 bytes, at most 1,000 lie in a table. Declare the output 'Blob'" in (
        report.failures[0].message
    )


# ---------------------------------------------------------------------------- faults


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "makedirs"])
def test_a_storage_error_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An error at any call that writes is the lake's, leaves nothing at the value's place, and the next run completes."""
    bench = Bench(tmp_path, lambda x: BIG + bytes([x]))
    bench.run([0])
    real = getattr(os, call)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    if call == "write":
        monkeypatch.setattr(keeper.os, "fdopen", failing)
    else:
        monkeypatch.setattr(keeper.os, call, failing)
    function = bench.function.keeping(bench.blobs.keeper)
    with pytest.raises(InfrastructureError, match=r"output 'out': .*No space left on device"):
        function(1)
    monkeypatch.undo()
    assert real is getattr(os, call)
    assert len(bench.files()) == 1
    assert not len(bench.blobs.leftovers())
    report, rows = bench.run([0, 1])
    assert (report.computed, report.cached, len(rows)) == (1, 1, 2)


CRASH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from core.test_blobs import BIG, Bench, written
from orcapod_dagster import output_directory
from orcapod_dagster.core import delta

append = delta.append

def killed(uri="/r", *args, **kwargs):
    if uri.endswith("/r"):
        os.kill(os.getpid(), signal.SIGKILL)
    return append(uri, *args, **kwargs)

def crash(root, moment):
    def f(x: int):
        path = written(output_directory())
        if moment == "call":
            killed()
        return path
    if moment == "commit":
        delta.append = killed
    Bench(Path(root) / moment, f).run([1])

for moment in ("call", "commit"):
    child = os.fork()
    if not child:
        crash(sys.argv[2], moment)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
folder = output_directory()
(folder / "a").touch()
print(folder)
"""


@pytest.mark.parametrize("how", ["denied", "taken away"])
def test_a_file_that_cannot_be_read_is_its_packets_failure(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the output directory that is not to be read, or goes while it is stored, says nothing of the lake; nothing is left of it."""
    with unprivileged() as lake:
        kept = LocalKeeper(root=str(lake))
        work = Workspace(kept.work_folder)
        file = work.folder() / "out.bin"
        file.write_bytes(BIG)
        if how == "denied":
            file.chmod(0)
        else:
            # As a thread of the function would do it, just before its name is needed again.
            monkeypatch.setattr(keeper.os, "chmod", lambda path, _: (file.unlink(), file.stat()))
        with pytest.raises(ValueError, match=r"output 'out': .*(Permission denied|No such file).*out.bin"):
            kept.keep(file, "out", work)
        work.close()
        assert not [path for path in lake.rglob("*") if path.is_file()]


def test_a_kill_leaves_no_damage(tmp_path: Path) -> None:
    """Killed in a call, or between value and commit: the next run makes or uses the value, clean-up finds the rest.

    Outside of a run the directory is a temporary one, which is gone when the process has ended.
    """
    command = [sys.executable, "-c", CRASH, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "orcapod" in done.stdout
    assert not Path(done.stdout.strip()).exists()
    for moment, expected in {"call": (0, 1), "commit": (1, 0)}.items():
        bench = Bench(tmp_path / moment, lambda x: written(output_directory()))
        orphans, left = bench.files(), bench.blobs.leftovers()
        assert (len(orphans), len(left)) == expected
        report, (row,) = bench.run([1])
        assert (report.computed, BlobStore(str(bench.root)).open(row).read()) == (1, BIG)
        assert not orphans or bench.files() == orphans
        bench.blobs.remove(left["path"].to_pylist(), TOMORROW)
        assert not list((bench.root / ".orcapod/blobs/work").iterdir())


def test_a_value_that_vanishes_while_its_run_goes_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When something removes what this run stored, the run fails, instead of leaving the row out of the table."""
    bench = Bench(tmp_path, lambda x: BIG)
    compute = FunctionPod.compute

    def then_remove(one: FunctionPod, *args: Any) -> PodReport:
        report = compute(one, *args)
        bench.blobs.remove(bench.blobs.listing()["path"].to_pylist(), TOMORROW)
        return report

    monkeypatch.setattr(FunctionPod, "compute", then_remove)
    with pytest.raises(StorageError, match=r"the results of 1 rows .* are gone, or their large values"):
        bench.run([1])


def test_a_lost_value_whose_packet_fails_is_no_row(tmp_path: Path) -> None:
    """A result without its value counts neither as a hit nor as what a failed recomputation falls back to."""
    works = [True]

    def f(x: int) -> Any:
        if not works[0]:
            raise RuntimeError("broken")
        return BIG + bytes([x])

    bench = Bench(tmp_path, f)
    _, rows = bench.run([1, 2])
    (tmp_path / rows[0]["path"]).unlink()
    works[0] = False
    report, left = bench.run([1, 2])
    assert (report.failed, report.reasons) == (1, {"its large value is missing": 1})
    assert [row["path"] for row in left] == [rows[1]["path"]]


# ---------------------------------------------------------------------------- bounds


class Watching(LocalPythonFunctionExecutor):
    """A local executor that says how many rows it was given at a time."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def run_rows(self, fn: Any, batches: Any, **options: Any) -> Iterator[BatchResult]:
        def watched() -> Iterator[RowBatch]:
            for batch in batches:
                self.lengths.append(batch.length)
                yield batch

        return super().run_rows(fn, watched(), **options)


def test_rows_go_to_an_executor_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound a thousandth as large, rows of 5 KB are given in batches of at most 64 KB, and small rows all at once."""
    monkeypatch.setattr(calling, "_BATCH_BYTES", calling._BATCH_BYTES // 1024)
    executor = Watching()
    bench = Bench(tmp_path, _length, int, executor)
    column = pa.array([bytes([i]) + bytes(5_000) for i in range(40)], pa.binary())
    report, _ = bench.run(column)
    assert report.computed == 40
    assert max(executor.lengths) <= 13
    executor.lengths.clear()
    bench.run(pa.array([str(i).encode() for i in range(1000)], pa.binary()))
    assert executor.lengths == [1000]


@pytest.mark.parametrize("most", [0, 20_000, 1_000_000])
def test_outputs_of_a_slice_are_stored_in_as_many_batches_as_their_bytes_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However many bytes the rows return that were computed in one slice, each has its own result, and failures theirs."""
    monkeypatch.setattr(packet_outputs, "LARGEST_BATCH", most)

    def grow(x: int) -> bytes:
        if x % 7 == 3:
            raise ValueError("three")
        return "no bytes" if x % 7 == 5 else bytes([x]) * 5_000  # type: ignore[return-value]

    report, results = Bench(tmp_path, grow, bytes).run(list(range(23)))
    assert (report.computed, report.failed) == (17, 6)
    assert results == [bytes([x]) * 5_000 for x in range(23) if x % 7 not in (3, 5)]
    assert [(o.row, o.error_type) for o in sorted(report.failures, key=lambda o: o.row)] == [
        (x, "ValueError" if x % 7 == 3 else "ConversionError") for x in range(23) if x % 7 in (3, 5)
    ]


def _length(x: bytes) -> int:
    return len(x)


def test_tables_are_written_and_read_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds a thousandth as large, rows of 5 KB lie in row groups of 128 KB, and are scanned 64 and 128 KB at a time."""
    for module, bound in ((data_files, "ROW_GROUP_BYTES"), (scanning, "SCAN_BYTES"), (streams, "CHUNK_BYTES")):
        monkeypatch.setattr(module, bound, getattr(module, bound) // 1024)
    table = pa.table({"id": range(40), "x": pa.array([os.urandom(5_000) for i in range(40)], pa.binary())})
    delta.append(str(tmp_path / "t"), table.to_reader)
    opened = delta.open_table(str(tmp_path / "t"))
    assert opened is not None
    source = DeltaSource(opened)
    (fragment,) = source._fragments
    assert max(group.num_rows for group in fragment.row_groups) <= 27
    batches = list(source.scan(["id", "x"]))
    assert max(batch.num_rows for batch in batches) <= 13
    assert pa.Table.from_batches(batches)["id"].to_pylist() == list(range(40))
    assert next(source.scan(["id"])).num_rows > 13
    stream = PacketStream.open([StreamInput("t", source)], ["id"])
    assert max(batch.num_rows for batch in stream.scan(["id", "x"])) <= 26


# ---------------------------------------------------------------------------- verify and clean-up


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    """A missing value, one of another size and, when all is read, one of other bytes are named, each with the way out."""
    bench = Bench(tmp_path, lambda x: BIG + bytes([x]))
    _, rows = bench.run([0, 1, 2, 3])
    files = [tmp_path / row["path"] for row in rows]
    for file in files:
        file.chmod(0o644)
    assert list(BlobCheck(bench.blobs).problems(bench.source(), read_all=True)) == []
    files[0].unlink()
    files[1].write_bytes(b"cut")
    files[2].write_bytes(BIG + b"x")
    quick = {p.path: p.what for p in BlobCheck(bench.blobs).problems(bench.source())}
    assert sorted(quick) == sorted(row["path"] for row in rows[:2])
    assert quick[rows[0]["path"]].endswith("of 100001 bytes is missing")
    assert quick[rows[1]["path"]].endswith("has 3 bytes, 100001 were stored")
    check = BlobCheck(bench.blobs)
    assert [p.path for p in check.problems(bench.source(), read_all=True)][2:] == [rows[2]["path"]]
    assert len(list(check.problems(bench.source(), read_all=True))) == 2


def test_what_a_run_stores_meanwhile_is_not_missing(tmp_path: Path) -> None:
    """One check looks at table after table while a run writes: values that are younger than its first look are found."""
    bench = Bench(tmp_path, lambda x: BIG + bytes([x]))
    bench.run([0])
    check = BlobCheck(bench.blobs)
    assert list(check.problems(bench.source())) == []
    bench.run([0, 1])
    assert list(check.problems(bench.source())) == []


def test_what_no_table_names_is_found(tmp_path: Path) -> None:
    """Values that no given table names are listed once they are old; a value that is used again is young."""
    bench = Bench(tmp_path, lambda x: BIG + bytes([x]))
    bench.run([0])
    orphan = bench.blobs.keeper.keep(BIG, "c")
    named = blob_references(bench.source())
    an_hour_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    assert (named.num_rows, len(bench.blobs.listing())) == (1, 2)
    assert not len(unreferenced(bench.blobs, [*named["path"].chunks], an_hour_ago))
    os.utime(orphan.file, (0, 0))
    assert unreferenced(bench.blobs, [*named["path"].chunks], an_hour_ago)["path"].to_pylist() == [orphan.place[1]]
    bench.blobs.keeper.keep(BIG, "c")
    assert not len(unreferenced(bench.blobs, [*named["path"].chunks], an_hour_ago))
    bench.blobs.remove([orphan.place[1]], TOMORROW)
    assert len(bench.blobs.listing()) == 1


def test_a_value_that_is_used_again_is_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an object store, and where another user's file cannot be made young, an old value is written again, a young one not."""
    for name in ("object store", "of another user"):
        root = str(tmp_path / name)
        one = ObjectKeeper(0, root, None) if name == "object store" else BlobStore(root).keeper
        file = tmp_path / name / keeper.place_of(Blob(BIG).digest)
        file.parent.mkdir(parents=True)
        one.keep(BIG, "c")
        os.utime(file, (0, 0))
        with monkeypatch.context() as patched:
            if name == "of another user":
                patched.setattr(keeper.LocalKeeper, "_touch", staticmethod(lambda file, _: Path(file).exists()))
            one.keep(BIG, "c")
            first = file.stat()
            assert first.st_mtime > time.time() - 3_600
            one.keep(BIG, "c")
        assert (file.stat().st_mtime_ns, file.stat().st_ino) == (first.st_mtime_ns, first.st_ino)
        assert file.read_bytes() == BIG


def test_a_lake_without_values_costs_and_finds_nothing(tmp_path: Path) -> None:
    """Listing a lake that has none gives empty tables, and checking a table without large values looks at no file."""
    blobs = BlobStore(str(tmp_path / "none"))
    assert (len(blobs.listing()), len(blobs.leftovers())) == (0, 0)
    assert list(BlobCheck(blobs).problems(MemorySource(pa.table({"a": [1]})))) == []


def test_a_workspace_holds_only_what_lies_in_it(tmp_path: Path) -> None:
    """A folder whose name begins like the directory's is outside of it."""
    work = Workspace(lambda: str(tmp_path / "work"))
    assert not work.holds(str(tmp_path / "work" / "a"))
    work.folder()
    assert work.holds(str(tmp_path / "work" / "a"))
    assert not work.holds(str(tmp_path / "work-2" / "a"))
    assert isinstance(BlobStore(str(tmp_path)).keeper, LocalKeeper)
