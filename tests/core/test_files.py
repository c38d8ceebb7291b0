"""Files as values: content counts and never the path, unchanged files are not read again, changes are never missed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from typing_extensions import TypeAliasType

from orcapod_dagster import Directory, File
from orcapod_dagster.core import (
    CachedPacketFunction,
    DeltaTableDatabase,
    FunctionPod,
    InMemoryArrowDatabase,
    Packet,
    PythonPacketFunction,
    ResultCache,
)
from orcapod_dagster.core.converter import to_array
from orcapod_dagster.core.errors import DefinitionError, InputError
from orcapod_dagster.core.files import FileMemory, FileReader, Looks, PathsInFlight, digests
from orcapod_dagster.core.files.memory import RECORD_PATH
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.identity import function_signature_hash
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.paths import safe_component
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.skip import SkipPacket
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput

_opened: list[bytes] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(args[0], bytes):
        _opened.append(args[0])


sys.addaudithook(_audit)


@contextmanager
def opened_files() -> Iterator[list[bytes]]:
    """Collect the paths (as bytes, so only those of the reader) that this process opens, by Python's own audit events."""
    global _opened  # noqa: PLW0603  # an audit hook cannot be taken away again
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Shorten the time in which files count as just touched, and return what waits for its end."""
    monkeypatch.setattr(digests, "_RACY_NS", 30_000_000)
    return lambda: time.sleep(0.05)


def digest(path: Path, hint: Any = File, memory: FileMemory | None = None) -> bytes:
    """Return the content digest of one path; fails the test where it cannot be read."""
    contents = FileReader({"p": hint}, memory=memory).contents({"p": pa.array([str(path)])})
    assert not contents.problems
    return next(iter(contents.columns["p"][0].as_py().values()))


def problem(path: Path | str, hint: Any = File) -> str:
    contents = FileReader({"p": hint}, "function 'f'").contents({"p": pa.array([str(path)])})
    return contents.problems[0]


# ---------------------------------------------------------------------------- digests: the specification


def slow_tree(tree: dict[bytes, Any]) -> bytes:
    """Digest a directory, given as name → bytes or tree, by the letter of docs/hashing.md."""
    entries: list[tuple[bytes, bytes | None]] = []

    def walk(prefix: bytes, below: dict[bytes, Any]) -> None:
        for name, what in below.items():
            entries.append((prefix + name, what if isinstance(what, bytes) else None))
            if not isinstance(what, bytes):
                walk(prefix + name + b"/", what)

    walk(b"", tree)
    text = b""
    for path, content in sorted(entries):
        text += (b"D" if content is None else b"F") + len(path).to_bytes(8, "little") + path
        text += b"" if content is None else hashlib.blake2b(content, digest_size=32).digest()
    return hashlib.blake2b(text, digest_size=32, person=b"orcapod.dir.v1").digest()


def plant(top: Path, tree: dict[bytes, Any]) -> Path:
    top.mkdir(parents=True)
    for name, what in tree.items():
        path = top / os.fsdecode(name)
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            plant(path, what)
    return top


TREE = {b"b.txt": b"abc", b"a": {b"x": b"", b"empty": {}}, b"a-b": b"\xff", "ä".encode(): b"1"}

FILE_VECTORS = {
    b"": "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8",
    b"abc": "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319",
}


@pytest.mark.parametrize("content", FILE_VECTORS)
def test_golden_vectors_of_files(tmp_path: Path, content: bytes) -> None:
    """A file's digest is the plain BLAKE2b-256 of its bytes."""
    (tmp_path / "f").write_bytes(content)
    assert digest(tmp_path / "f").hex() == FILE_VECTORS[content]


def test_golden_vectors_of_directories(tmp_path: Path) -> None:
    """The digests of an empty directory and of a small tree are literals, and the slow specification gives them too."""
    for name, tree, expected in (
        ("none", {}, "a03df6c38abb70eb00533f62096e91db7b918660125ba35da3e0cc8baae83d9c"),
        ("tree", TREE, "6efe9b90cf19c36ebe8f10ad4839b79d90a669bf9819693b83bf02cec2dd08fa"),
    ):
        assert digest(plant(tmp_path / name, tree), Directory).hex() == expected == slow_tree(tree).hex()


def test_golden_vectors_of_packets(tmp_path: Path) -> None:
    """The packet hashes of one file and one directory are literals, and those of a struct column with the digest."""
    (tmp_path / "f").write_bytes(b"abc")
    plant(tmp_path / "d", TREE)
    for hint, path, expected in (
        (File, "f", "cc92a5ebc2a587b3620a65dbce5b33ce"),
        (Directory, "d", "ea7457620b5d48d1e6d967b0d526e9d8"),
    ):
        kind = "file" if hint is File else "directory"
        by_hand = pa.array([{kind: digest(tmp_path / path, hint)}], pa.struct([(kind, pa.binary())]))
        packet = Packet({"p": tmp_path / path}, {"p": hint})
        assert packet.content_hash().digest.hex() == expected == hash_rows({"p": by_hand})[0].as_py().hex()


def test_a_file_is_no_bytes_column_and_no_path(tmp_path: Path) -> None:
    """A file, its digest as bytes, its content, its path, and a directory that holds it have different hashes."""
    path = tmp_path / "d" / "f"
    plant(tmp_path / "d", {b"f": b"abc"})
    packets = [
        Packet({"p": path}, {"p": File}),
        Packet({"p": path}, {"p": Path}),
        Packet({"p": path.parent}, {"p": Directory}),
        Packet({"p": digest(path)}, {"p": bytes}),
        Packet({"p": b"abc"}, {"p": bytes}),
    ]
    assert len({packet.content_hash() for packet in packets}) == len(packets)


names = st.binary(min_size=1, max_size=4).filter(lambda n: not set(n) & {0, ord("/")} and n not in (b".", b".."))
trees = st.recursive(
    st.binary(max_size=3), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@settings(deadline=None, max_examples=60)
@given(trees, trees)
def test_trees_have_one_digest_if_and_only_if_they_are_equal(one: dict[bytes, Any], other: dict[bytes, Any]) -> None:
    """Any two trees: each has the digest of the specification, and these are equal just where the trees are."""
    with tempfile.TemporaryDirectory() as top:
        first, second = digest(plant(Path(top) / "1", one), Directory), digest(plant(Path(top) / "2", other), Directory)
    assert (first, second) == (slow_tree(one), slow_tree(other))
    assert (first == second) == (one == other)


def change(tree: dict[bytes, Any], data: st.DataObject) -> dict[bytes, Any]:
    """Return the tree with one change of a name, a content or the structure."""
    tree = dict(tree)
    if not tree:
        return {b"new": data.draw(st.sampled_from([b"", {}]))}
    name = data.draw(st.sampled_from(sorted(tree)))
    what = tree[name]
    how = data.draw(st.sampled_from(["rename", "remove", "content", "kind"]))
    if how == "rename":
        tree[name + b"~"] = tree.pop(name)
    elif how == "remove":
        del tree[name]
    elif how == "content":
        tree[name] = what + b"!" if isinstance(what, bytes) else change(what, data)
    else:
        tree[name] = {} if isinstance(what, bytes) else b""
    return tree


@settings(deadline=None, max_examples=60)
@given(trees, st.data())
def test_every_change_of_a_tree_changes_its_digest(tree: dict[bytes, Any], data: st.DataObject) -> None:
    """A change of one name, content or place anywhere in a random tree changes the digest of that very directory."""
    with tempfile.TemporaryDirectory() as top:
        before = digest(plant(Path(top) / "1", tree), Directory)
        after = digest(plant(Path(top) / "2", change(tree, data)), Directory)
    assert before != after


# ---------------------------------------------------------------------------- links and what is no file


def test_links_count_as_what_they_point_to(tmp_path: Path) -> None:
    """A tree with links to a file and to a directory has the digest of the tree with copies, also in chains of links."""
    real = plant(tmp_path / "real", {b"f": b"1", b"d": {b"x": b"2"}})
    linked = plant(tmp_path / "linked", {})
    (tmp_path / "hop").symlink_to(real / "d")
    (linked / "f").symlink_to(real / "f")
    (linked / "d").symlink_to(tmp_path / "hop")
    (tmp_path / "top").symlink_to(linked)
    assert digest(linked, Directory) == digest(tmp_path / "top", Directory) == digest(real, Directory)
    assert digest(linked / "f") == digest(real / "f")


def test_a_directory_may_be_linked_twice(tmp_path: Path) -> None:
    """Two links to one directory beside each other are no cycle."""
    top = plant(tmp_path / "top", {b"d": {b"x": b"2"}})
    (top / "e").symlink_to(top / "d")
    assert digest(top, Directory) == slow_tree({b"d": {b"x": b"2"}, b"e": {b"x": b"2"}})


@pytest.mark.parametrize("target", [".", "..", "d"])
def test_a_link_that_leads_back_is_refused(tmp_path: Path, target: str) -> None:
    """A link to the directory itself, or to one above it, is refused with the link's name, at once."""
    top = plant(tmp_path / "top", {b"d": {b"x": b"2"}})
    (top / "d" / "loop").symlink_to(top / target)
    why = problem(top, Directory) if target != ".." else problem(tmp_path, Directory)
    assert f"the symbolic link '{top / 'd' / 'loop'}' leads back" in why or f"{top / 'd' / 'loop' / ''}" in why
    assert "leads back to a directory above it" in why


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    """A pipe, a socket, a device, a dangling link and a link to itself are each refused with what they are."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        assert "is a socket, but declared File" in problem(tmp_path / "sock")
        (tmp_path / "d").mkdir()
        (tmp_path / "sock").rename(tmp_path / "d" / "sock")
        assert f"'{tmp_path / 'd' / 'sock'}' is a socket" in problem(tmp_path / "d", Directory)
    assert "is a named pipe, but declared File" in problem(tmp_path / "pipe")
    assert "is a character device" in problem("/dev/null")
    assert f"'{tmp_path / 'dangling'}' does not exist" in problem(tmp_path / "dangling")
    assert "symbolic links" in problem(tmp_path / "self")


def test_problems_say_column_path_and_reason(tmp_path: Path) -> None:
    """A missing file, a directory for a file and the reverse, and text that is no path are told apart, with the column."""
    (tmp_path / "f").write_bytes(b"")
    assert problem(tmp_path / "g").startswith(f"function 'f': column 'p': '{tmp_path / 'g'}' does not exist")
    assert "is a directory, but declared File. Declare it Directory" in problem(tmp_path)
    assert "is a file, but declared Directory. Declare it File" in problem(tmp_path / "f", Directory)
    assert "address of an object store" in problem("s3://bucket/key")
    assert "is no path (" in problem("a\0b")


def test_permission_denied_is_said(tmp_path: Path) -> None:
    """A file that this user may not read gives "permission denied", with its path."""
    (tmp_path / "f").write_bytes(b"secret")
    (tmp_path / "f").chmod(0)
    root = os.geteuid() == 0
    if root:  # nothing is denied to root
        os.seteuid(65534)
    try:
        why = problem(tmp_path / "f")
    finally:
        if root:
            os.seteuid(0)
    assert f"permission denied to read '{tmp_path / 'f'}'" in why


# ---------------------------------------------------------------------------- where paths may stand


@dataclasses.dataclass
class Scan:
    subject: str
    image: File | None


class Pair(NamedTuple):
    both: tuple[File, int]
    rest: dict[str, list[File]]


class Options(TypedDict):
    folder: Directory
    extra: NotRequired[File]


Recording = typing.NewType("Recording", File)  # type: ignore[valid-newtype]  # what users write all the same
MaybeFile = TypeAliasType("MaybeFile", File | None)


NESTED: dict[str, Any] = {
    "alone": File | None,
    "listed": list[File | None] | None,
    "many": tuple[File, ...],
    "mapped": dict[str, File],
    "scan": Scan | None,
    "pair": Pair,
    "options": Options,
    "named": list[Recording],
    "maybe": MaybeFile,
}


def nested_rows(f: Path, g: Path, d: Path) -> dict[str, pa.Array]:
    """Return four rows with paths in every place where they may stand, nulls and empty containers among them."""
    pair = Pair((f, 1), {"x": [g, f], "y": []})
    values: dict[str, list[Any]] = {
        "alone": [f, None, g, f],
        "listed": [[f, None, g], None, [], [g]],
        "many": [(f, g), (), (g,), (f,)],
        "mapped": [{"a": f}, {}, {"a": g, "b": f}, {"b": g}],
        "scan": [Scan("s", f), Scan("s", None), None, Scan("t", g)],
        "pair": [pair] * 4,
        "options": [{"folder": d}, {"folder": d, "extra": g}, {"folder": d}, {"folder": d, "extra": f}],
        "named": [[f], [], [g], [f, g]],
        "maybe": [None, f, g, f],
    }
    return {name: to_array(values[name], hint, column=name) for name, hint in NESTED.items()}


def test_paths_count_by_content_wherever_they_stand(tmp_path: Path) -> None:
    """In lists, tuples, maps and records: other paths with equal content hash equal, other content differs row by row."""
    for name, content in {"f": b"1", "f2": b"1", "g": b"2", "g2": b"2", "h": b"3"}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("d", "d2"):
        plant(tmp_path / name, {b"x": b"y"})
    paths = [tmp_path / name for name in ("f", "g", "d")]
    reader = FileReader(NESTED)

    def hashes(columns: dict[str, pa.Array]) -> list[bytes]:
        return hash_rows(reader.contents(columns).columns).to_pylist()

    here = nested_rows(*paths)
    moved = nested_rows(*(path.with_name(path.name + "2") for path in paths))
    other = nested_rows(paths[0], tmp_path / "h", paths[2])
    assert hashes(here) == hashes(moved)
    assert all(a != b for a, b in zip(hashes(here), hashes(other), strict=True))
    assert hashes({name: array.slice(1, 2) for name, array in here.items()}) == hashes(here)[1:3]
    assert len(set(hashes(here))) == 4


@pytest.mark.parametrize("name", [n for n in NESTED if n not in ("pair", "options")])
def test_each_place_names_the_row_of_a_missing_file(tmp_path: Path, name: str) -> None:
    """A missing file inside a value is found, in each kind of place, for the rows that name it and for no other."""
    (tmp_path / "f").write_bytes(b"1")
    plant(tmp_path / "d", {})
    rows = nested_rows(tmp_path / "f", tmp_path / "missing", tmp_path / "d")
    problems = FileReader({name: NESTED[name]}).contents(rows).problems
    texts = ["missing" in str(value) for value in rows[name].to_pylist()]
    assert sorted(problems) == [row for row, has in enumerate(texts) if has]


@pytest.mark.parametrize("hint", [set[File], frozenset[File], dict[File, int], list[set[File]]])
def test_places_where_content_cannot_count_are_refused(hint: Any) -> None:
    """Sets of files, and files as keys, are refused when the function is defined, with the parameter."""
    with pytest.raises(DefinitionError, match=r"function 'f', column 'p'.*cannot count by their content"):
        PythonPacketFunction(lambda p: 1, "n", "f", input_schema={"p": hint}, output_schema={"n": int})


def test_the_signature_tells_a_file_from_a_path() -> None:
    """`File`, `Directory` and `Path` in a signature have different signature hashes, as annotations and as text."""

    def make(annotation: Any) -> Callable[..., int]:
        def f(p: Any) -> int:
            return 1

        f.__annotations__["p"] = annotation
        return f

    hints = [File, Directory, Path, "File", "Directory", "Path", list[File], list[Path]]
    assert len({function_signature_hash(make(hint)) for hint in hints}) == len(hints)


def test_the_types_travel_without_this_package() -> None:
    """A pickled `File` names nothing of this package, so a function annotated with it reaches workers that lack it."""
    assert b"orcapod_dagster" not in pickle.dumps(File | None)
    assert pickle.loads(pickle.dumps(File)) == File


# ---------------------------------------------------------------------------- memory


@pytest.fixture(params=["memory", "delta"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return InMemoryArrowDatabase() if request.param == "memory" else DeltaTableDatabase(str(tmp_path / "lake"))


def test_an_unchanged_file_is_read_once(tmp_path: Path, database: Any, quick: Callable[[], None]) -> None:
    """A second reader on the same database opens no file, alone and below a directory, and gives the same digests."""
    top = plant(tmp_path / "top", {b"f": b"1", b"d": {b"x": b"2"}})
    quick()

    def both() -> tuple[bytes, bytes]:
        memory = FileMemory(database)
        found = digest(top / "f", File, memory), digest(top, Directory, memory)
        memory.flush()
        return found

    with opened_files() as opened:
        first = both()
    assert sorted(set(opened)) == sorted(os.fsencode(p) for p in (top / "d" / "x", top / "f"))
    assert len(opened) == 2
    with opened_files() as opened:
        assert both() == first
    assert opened == []


def test_one_commit_per_flush(tmp_path: Path, quick: Callable[[], None]) -> None:
    """Hundreds of new files are remembered by one commit; nothing new makes none."""
    for i in range(300):
        (tmp_path / str(i)).write_bytes(b"x")
    quick()
    database = DeltaTableDatabase(str(tmp_path / "lake"))
    for _ in range(2):
        reader = FileReader({"p": File}, memory=FileMemory(database))
        reader.contents({"p": pa.array([str(tmp_path / str(i)) for i in range(300)])})
        reader.flush()
        source = database.source(RECORD_PATH)
        assert source is not None
        assert source.num_rows == 300
    assert len(list((tmp_path / "lake" / "=").rglob("*.parquet"))) == 1


def test_many_keys_are_recalled(database: Any) -> None:
    """Few keys and many keys, known and unknown ones, give the digests that were remembered, flushed or not."""
    memory = FileMemory(database)
    known = {i.to_bytes(16, "big"): i.to_bytes(32, "big") for i in range(3000)}
    for key, value in list(known.items())[:2900]:
        memory.remember(key, value)
    memory.flush()
    for key, value in list(known.items())[2900:]:
        memory.remember(key, value)
    unknown = [i.to_bytes(16, "big") for i in range(5000, 5010)]
    assert memory.recall([*known, *unknown]) == known
    assert memory.recall([*list(known)[2890:2910], *unknown]) == dict(list(known.items())[2890:2910])
    assert FileMemory(database).recall(list(known)) == dict(list(known.items())[:2900])


def test_no_function_can_take_the_place_of_the_memory() -> None:
    """The memory's folder begins with an empty name, which no function has, and no other name is written like it."""
    assert RECORD_PATH[0] == ""
    assert PythonPacketFunction(lambda x: 1, "y", "f", input_schema={"x": int}, output_schema={"y": int}).uri[0]
    assert [name for name in ("=", "", " ", "orcapod.file.v1") if safe_component(name) == "="] == [""]


def test_a_touched_file_is_read_again(tmp_path: Path, database: Any, quick: Callable[[], None]) -> None:
    """A file whose time changed is read again; with the same content it has the same digest."""
    (tmp_path / "f").write_bytes(b"1")
    quick()
    memory = FileMemory(database)
    first = digest(tmp_path / "f", File, memory)
    os.utime(tmp_path / "f", (1, 1))
    quick()
    with opened_files() as opened:
        assert digest(tmp_path / "f", File, memory) == first
    assert len(opened) == 1


def test_content_changed_behind_restored_times_is_seen(
    tmp_path: Path, database: Any, quick: Callable[[], None]
) -> None:
    """Other content of the same size in the same inode, with the old mtime put back, is read again: ctime tells."""
    (tmp_path / "f").write_bytes(b"1")
    quick()
    memory, before = FileMemory(database), (tmp_path / "f").stat()
    first = digest(tmp_path / "f", File, memory)
    (tmp_path / "f").write_bytes(b"2")
    os.utime(tmp_path / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (tmp_path / "f").stat()
    same = ("st_size", "st_mtime_ns", "st_ino")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert digest(tmp_path / "f", File, memory) != first


def test_a_file_just_touched_is_not_remembered(tmp_path: Path) -> None:
    """A file written less than 2 s ago, or with a time in the future, is read each time, for it may change and look the same."""
    memory = FileMemory(InMemoryArrowDatabase())
    (tmp_path / "f").write_bytes(b"1")
    for _ in range(2):
        with opened_files() as opened:
            digest(tmp_path / "f", File, memory)
        assert len(opened) == 1
    os.utime(tmp_path / "f", (time.time() + 9e6, time.time() + 9e6))
    time.sleep(2.1)
    for _ in range(2):
        with opened_files() as opened:
            digest(tmp_path / "f", File, memory)
        assert len(opened) == 1


@contextmanager
def silent_rewriter(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Write a file of one byte anew so that neither size nor times show it: into a page that is mapped and dirty."""
    path.write_bytes(b"0")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1) as page:

        def rewrite(content: bytes) -> None:
            page[:1] = content

        rewrite(b"1")
        yield rewrite


def test_a_rewrite_that_does_not_show_is_seen(tmp_path: Path) -> None:
    """A file that is hashed and rewritten at once, with nothing in its size and times to tell, is read again each time."""
    memory, path = FileMemory(InMemoryArrowDatabase()), tmp_path / "f"
    with silent_rewriter(path) as rewrite:
        before = path.stat()
        for content in (b"2", b"3", b"4"):
            rewrite(content)
            assert digest(path, File, memory) == hashlib.blake2b(content, digest_size=32).digest()
        assert path.stat().st_ctime_ns == before.st_ctime_ns


SECOND_PROCESS = """
import json, sys
import pyarrow as pa
from orcapod_dagster.core import DeltaTableDatabase
from orcapod_dagster.core.files import File, Directory, FileMemory, FileReader
opened = []
sys.addaudithook(lambda e, a: opened.append(a[0]) if e == "open" and isinstance(a[0], bytes) else None)
top, lake = sys.argv[1:]
reader = FileReader({"f": File, "d": Directory}, memory=FileMemory(DeltaTableDatabase(lake)))
columns = reader.contents({"f": pa.array([top + "/f"]), "d": pa.array([top])}).columns
reader.flush()
print(json.dumps([len(opened), columns["f"][0].as_py()["file"].hex(), columns["d"][0].as_py()["directory"].hex()]))
"""


def test_the_next_process_reads_nothing_again(tmp_path: Path) -> None:
    """A second process opens none of the unchanged files; after one of them changed, it opens just that one."""
    top = plant(tmp_path / "top", {b"f": b"1", b"d": {b"x": b"2", b"y": b"3"}})

    def run() -> list[Any]:
        command = [sys.executable, "-c", SECOND_PROCESS, str(top), str(tmp_path / "lake")]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path.cwd()).stdout)

    time.sleep(2.1)
    first = run()
    assert first[0] == 3
    assert run() == [0, *first[1:]]
    (top / "d" / "x").write_bytes(b"changed")
    time.sleep(2.1)
    third = run()
    assert (third[0], third[1]) == (1, first[1])
    assert third[2] != first[2]


# ---------------------------------------------------------------------------- in the engine


class Bench:
    """A pod over one function of a `File`, on rows of paths."""

    def __init__(self, function: Callable[..., Any], hint: Any = File, database: Any = None) -> None:
        self.function = PythonPacketFunction(
            function, "n", "f", input_schema={"p": hint}, output_schema={"n": int}, own_code=()
        )
        self.database = database or InMemoryArrowDatabase()

    def run(self, *paths: Path | None) -> tuple[PodReport, list[int | None]]:
        """Run the rows, and return the report and the result per row."""
        table = pa.table({"id": range(len(paths)), "p": pa.array([p and str(p) for p in paths], pa.string())})
        pod = FunctionPod(
            self.function, ResultCache(self.database, ("r",)), OutcomeLog(self.database, ("o",)), match="version"
        )
        stream = PacketStream.open([StreamInput("t", MemorySource(table))], ["id"])
        plan = pod.plan(stream)
        report = pod.compute(plan)
        narrowed, snapshot, positions = pod.assemble(plan, report)
        got: dict[int, int] = {}
        if snapshot is not None and len(positions):
            ids = pa.Table.from_batches(narrowed.scan(["id"]))["id"].to_pylist()
            got = dict(zip(ids, snapshot.source.take(positions, ["n"])["n"].to_pylist(), strict=True))
        return report, [got.get(row) for row in range(len(paths))]


def test_equal_content_is_one_packet(tmp_path: Path, quick: Callable[[], None]) -> None:
    """Two paths with one content are computed once; moved and touched files hit, changed content is computed again."""
    calls: list[Path] = []

    def size(p: Path) -> int:
        calls.append(p)
        return len(p.read_bytes())

    bench = Bench(size)
    for name, content in {"a": b"1", "b": b"1", "c": b"22"}.items():
        (tmp_path / name).write_bytes(content)
    quick()
    report, values = bench.run(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert (report.computed, values, calls) == (2, [1, 1, 2], [tmp_path / "a", tmp_path / "c"])
    with opened_files() as opened:
        bench.run(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert opened == []
    (tmp_path / "a").rename(tmp_path / "moved")
    os.utime(tmp_path / "c")
    report, values = bench.run(tmp_path / "moved", tmp_path / "c")
    assert (report.computed, report.cached, values, len(calls)) == (0, 2, [1, 2], 2)
    (tmp_path / "c").write_bytes(b"333")
    report, values = bench.run(tmp_path / "moved", tmp_path / "c")
    assert (report.computed, report.cached, values, calls[2:]) == (1, 1, [1, 3], [tmp_path / "c"])


def test_a_missing_file_fails_alone(tmp_path: Path) -> None:
    """A row whose file is missing fails with column and path; the others run; once the file is there, it is computed."""
    (tmp_path / "a").write_bytes(b"1")
    bench = Bench(lambda p: len(p.read_bytes()))
    rows = (tmp_path / "a", tmp_path / "b", tmp_path)
    report, values = bench.run(*rows)
    assert (report.computed, report.failed, values) == (1, 2, [1, None, None])
    assert [(o.row, o.error_type) for o in report.failures] == [(1, "InputError"), (2, "InputError")]
    assert report.failures[0].message.startswith(f"function 'f': column 'p': '{tmp_path / 'b'}' does not exist")
    assert "is a directory" in report.failures[1].message
    assert len(set(bench.database._tables["o",][0]["__input_packet_hash"].to_pylist())) == 2
    (tmp_path / "b").write_bytes(b"22")
    report, values = bench.run(*rows[:2])
    assert (report.computed, report.failed, values) == (1, 0, [1, 2])


def test_null_is_a_value_of_an_optional_file(tmp_path: Path) -> None:
    """With `File | None` a null is computed as null, and a missing file does not get the result of null."""
    bench = Bench(lambda p: -1 if p is None else len(p.read_bytes()), File | None)
    (tmp_path / "a").write_bytes(b"1")
    report, values = bench.run(tmp_path / "a", None)
    assert (report.failed, values) == (0, [1, -1])
    report, values = bench.run(None, tmp_path / "missing")
    assert (report.computed, report.failed, values) == (0, 1, [-1, None])


def test_null_fails_a_file_that_is_not_optional(tmp_path: Path) -> None:
    """With `File` a null fails its row alone, with the message of every null."""
    (tmp_path / "a").write_bytes(b"1")
    report, values = Bench(lambda p: 1).run(None, tmp_path / "a")
    assert (report.failed, values) == (1, [None, 1])
    assert "column 'p' is null" in report.failures[0].message


@pytest.mark.parametrize("raises", [None, SkipPacket("no")])
@pytest.mark.parametrize("hint", [File, Directory])
def test_a_file_that_changes_during_the_call_fails_its_packet(
    tmp_path: Path, hint: Any, raises: Exception | None, quick: Callable[[], None]
) -> None:
    """A path that changed between hash and result fails that packet, keeps no result or skip, and is computed next time."""
    spoil = [True]

    def read(p: Path) -> int:
        file = p if p.is_file() else p / "x"
        text = file.read_text()
        if text == "b" and spoil[0]:
            file.write_text("spoiled")
            if raises is not None:
                raise raises
        return len(text)

    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        if hint is Directory:
            path.mkdir()
        (path if hint is File else path / "x").write_text(path.name)
    quick()
    bench = Bench(read, hint)
    report, values = bench.run(*paths)
    assert (report.computed, report.failed, report.skipped, values) == (2, 1, 0, [1, None, 1])
    (failure,) = report.failures
    assert failure.row == 1
    assert "changed after it was hashed and before the result had come" in failure.message
    spoil[0] = False
    (paths[1] if hint is File else paths[1] / "x").write_text("b")  # the old content has no result either
    report, values = bench.run(*paths)
    assert (report.computed, report.cached, values) == (1, 2, [1, 1, 1])


def test_a_change_that_does_not_show_is_seen_by_content(tmp_path: Path) -> None:
    """A file written just before it was hashed is compared by content after the call: rewritten unseen it has changed, else not."""
    reader, path = FileReader({"p": File | None}), tmp_path / "f"
    (tmp_path / "g").write_bytes(b"1")
    columns = {"p": pa.array([None, str(path), str(tmp_path / "g")])}
    with silent_rewriter(path) as rewrite:
        looks = reader.contents(columns).looks
        assert reader.changed(columns, looks) == {}
        rewrite(b"2")
        assert list(reader.changed(columns, looks)) == [1]


def test_an_unchanged_file_is_not_read_after_the_call(tmp_path: Path, quick: Callable[[], None]) -> None:
    """The check after a call looks at files that had rested, and opens none of them."""
    path = tmp_path / "f"
    path.write_bytes(b"1")
    quick()
    reader, columns = FileReader({"p": File}), {"p": pa.array([str(path)])}
    looks = reader.contents(columns).looks
    with opened_files() as opened:
        assert reader.changed(columns, looks) == {}
    assert opened == []


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """What looks different before and after reading has no digest."""
    (tmp_path / "f").write_bytes(b"1")
    (entry,) = digests.look(str(tmp_path / "f"), "file").entries
    (tmp_path / "f").write_bytes(b"22")
    with pytest.raises(InputError, match="changed while it was read"):
        digests.read_digest(entry)


def test_a_single_call_agrees_with_a_batch(tmp_path: Path) -> None:
    """What a pod stored is found by a single call for another path with that content, and the other way round."""
    for name, content in {"a": b"1", "b": b"1", "c": b"2", "d": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    bench = Bench(lambda p: len(p.read_bytes()))
    bench.run(tmp_path / "a")
    single = CachedPacketFunction(bench.function, bench.database, match="version")
    single.cache = ResultCache(bench.database, ("r",))

    def call(name: str) -> Packet:
        found = single.call(Packet({"p": tmp_path / name}, {"p": Path}))
        assert found is not None
        return found

    assert (call("b")["n"], call("b").get_meta_value("computed")) == (1, False)
    assert call("c").get_meta_value("computed") is True
    report, _ = bench.run(tmp_path / "d")
    assert (report.computed, report.cached) == (0, 1)
    stored = pa.concat_tables(bench.database._tables["r",])["__input_packet_hash"].to_pylist()
    own = [Packet({"p": tmp_path / name}, {"p": File}).content_hash().digest for name in "ac"]
    assert stored == own


def test_a_single_call_refuses_missing_and_changing_files(tmp_path: Path) -> None:
    """A single call says that a file is missing; one whose file changes under it raises and stores nothing."""
    path = tmp_path / "f"

    def read(p: Path) -> int:
        p.write_bytes(p.read_bytes() + b"!")
        return 1

    database = InMemoryArrowDatabase()
    function = PythonPacketFunction(read, "n", "f", input_schema={"p": File}, output_schema={"n": int})
    single = CachedPacketFunction(function, database)
    packet = Packet({"p": path}, {"p": File})
    with pytest.raises(InputError, match=r"column 'p': .*does not exist"):
        single.call(packet)
    path.write_bytes(b"1")
    with pytest.raises(InputError, match="changed after it was hashed"):
        single.call(packet)
    assert single.get_all_cached_outputs() is None


def test_packets_in_flight_come_back_in_any_order() -> None:
    """Whatever runs of packets come back, across batches and out of order, get their own paths, and nothing is kept."""
    flight = PathsInFlight()
    for start in (0, 4, 8):
        flight.send(start, {"p": pa.array([str(i) for i in range(start, start + 4)])})
    for start, length in ((6, 4), (0, 1), (1, 5), (10, 2)):
        assert flight.receive(start, length)["p"].to_pylist() == [str(i) for i in range(start, start + length)]
    assert not flight._batches


def test_looks_keep_their_rows() -> None:
    """Looks of consecutive batches, put together and taken by row, stay those of their rows."""
    states = [pa.array([bytes([i]) * 16 for i in rows], pa.binary(16)) for rows in (range(3), range(3, 5))]
    looks = Looks.concat([Looks(states[0], {1: b"one"}), Looks(states[1], {0: b"three"})])
    taken = looks.take(pa.array([3, 0, 1]))
    assert [state[0] for state in taken.states.to_pylist()] == [3, 0, 1]
    assert taken.racy == {0: b"three", 2: b"one"}


def test_relative_paths_are_those_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means another file in another working directory, also to the memory."""
    memory = FileMemory(InMemoryArrowDatabase())
    found: list[bytes] = []
    for name in "ab":
        plant(tmp_path / name, {b"f": name.encode()})
        monkeypatch.chdir(tmp_path / name)
        found.append(digest(Path("f"), File, memory))
    assert found[0] != found[1]
