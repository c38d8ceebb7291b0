"""Worker state of packet functions: how it is declared, what of it counts, and where it is built."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dagster as dg
import pyarrow as pa
import pytest
from failing import computed, pod_of

import orcapod_dagster
from orcapod_dagster import (
    LocalExecutorResource,
    packet_asset,
    packet_function,
    packet_function_of,
    packet_resources,
    per_worker,
)
from orcapod_dagster.core import (
    CachedPacketFunction,
    InMemoryArrowDatabase,
    Packet,
    PythonPacketFunction,
)
from orcapod_dagster.core.errors import DefinitionError, WorkerStateError
from orcapod_dagster.desk import audit, packet_row


class Model:
    """Scales, and notes in a list what becomes of it."""

    def __init__(self, factor: int = 2, notes: list[str] | None = None) -> None:
        self.factor = factor
        self.notes = [] if notes is None else notes
        self.notes.append("up")

    def apply(self, x: int) -> int:
        return self.factor * x

    def close(self) -> None:
        self.notes.append("down")


NOTES: list[str] = []


def load(factor: int = 2) -> Model:
    return Model(scaled(factor), NOTES)


def scaled(factor: int) -> int:
    return factor


def apply(x: int, *, model: Model) -> int:
    return model.apply(x)


def apply_between(a: int, model: Model = per_worker(load, identity="v1"), b: int = 3) -> int:
    return model.apply(a) + b


def values_of(packet: Packet | None) -> dict[str, Any]:
    assert packet is not None
    return packet.as_dict()


@pytest.fixture(autouse=True)
def notes() -> list[str]:
    NOTES.clear()
    return NOTES


def make(factory: Any = load, identity: Any = "v1", function: Any = apply, **options: Any) -> PythonPacketFunction:
    """Return `apply` with a model per worker."""
    return PythonPacketFunction(
        function, "y", worker_state={"model": per_worker(factory, identity=identity)}, **options
    )


# ---------------------------------------------------------------------------- declaring


def test_state_is_no_column() -> None:
    """Neither a parameter with a per_worker default nor one that is given so is in the input schema."""
    assert list(make().input_packet_schema) == ["x"]
    assert list(packet_function("y")(apply_between).input_packet_schema) == ["a", "b"]


def test_identity_must_be_given() -> None:
    """Leaving it out is refused when the function is defined, with what can be given."""
    with pytest.raises(DefinitionError, match=r"per_worker\(load\) has no identity.*None where nothing"):
        per_worker(load)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: make(Model()), "takes a function that makes the value.*Model"),
        (lambda: make(lambda path: path), r"needs \['path'\].*functools.partial"),
        (lambda: PythonPacketFunction(apply, "y", worker_state={"other": per_worker(load, identity=None)}), r"\['other'\] is no parameter"),
        (lambda: PythonPacketFunction(apply, "y", worker_state={"model": load}), "is no per_worker"),
        (lambda: PythonPacketFunction(apply, "y"), "'model'"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(declare: Any, says: str) -> None:
    """A value instead of a factory, a factory that needs arguments, an unknown parameter, a missing state."""
    with pytest.raises(DefinitionError, match=says):
        declare()


def test_state_before_a_column(notes: list[str]) -> None:
    """A parameter between columns gets its state, and the one behind it its own column."""
    function = packet_function("y")(apply_between)
    assert values_of(function.call(Packet({"a": 5, "b": 1}))) == {"y": 11}
    assert values_of(function.call(Packet({"a": 5}))) == {"y": 13}
    assert notes == ["up", "down"] * 2


# ---------------------------------------------------------------------------- what counts


def hash_of(factory: Any = load, identity: Any = "v1", **options: Any) -> str:
    return make(factory, identity, **options).get_function_content_hash()


def test_identity_counts_by_its_value(tmp_path: Path) -> None:
    """Texts, numbers, files and what a callable gives count by value; None is a value of its own."""
    file = tmp_path / "model.bin"
    file.write_bytes(b"one")
    first = [hash_of(identity=i) for i in ("v1", "v2", 3, None, file, lambda: "from a registry")]
    assert len(set(first)) == len(first)
    assert hash_of(identity=lambda: "v1") == hash_of(identity="v1")
    file.write_bytes(b"two")
    assert hash_of(identity=file) != first[4]
    (tmp_path / "copy.bin").write_bytes(b"one")
    assert hash_of(identity=tmp_path / "copy.bin") == first[4]


def test_a_callable_identity_is_called_once(notes: list[str]) -> None:
    """It is called when the hash is first asked for, not before, and not again."""
    function = make(identity=lambda: notes.append("asked") or "v1")
    assert notes == []
    assert function.get_function_content_hash() == function.get_function_content_hash()
    function.get_function_variation_data()
    assert notes == ["asked"]


def test_an_identity_that_says_nothing_is_refused(tmp_path: Path) -> None:
    """An object that cannot be seen through, and a file that is not there, are errors that name the parameter."""
    with pytest.raises(DefinitionError, match=r"identity of worker state 'model'.*cannot be seen through"):
        hash_of(identity=lambda: memoryview(b""))
    with pytest.raises(DefinitionError, match=r"identity of 'model' names the file .*gone"):
        hash_of(identity=tmp_path / "gone")


def test_arguments_of_the_factory_do_not_count() -> None:
    """Neither what a partial gives, nor the object of a method, nor that of a callable object; their code does."""

    class Loader:
        def __init__(self, path: str) -> None:
            self.path = path

        def load(self) -> Model:
            return Model()

        def __call__(self) -> Model:
            return Model()

    assert hash_of(partial(load, 2)) == hash_of(partial(load, 3)) == hash_of(load)
    assert hash_of(Loader("a").load) == hash_of(Loader("b").load)
    assert hash_of(Loader("a")) == hash_of(Loader("b"))
    assert len({hash_of(load), hash_of(Loader("a").load), hash_of(Loader("a")), hash_of(Model)}) == 4


_PROJECT = """
from functools import partial
from orcapod_dagster import packet_function, per_worker
from tools import read

PATH = {path!r}

def load(path):
    return read(path) + {offset}

@packet_function("y")
def apply(x: int, model: int = per_worker(partial(load, PATH), identity={identity!r})) -> int:
    return x + model

@packet_function("y", worker_state={{"model": per_worker(partial(load, PATH), identity={identity!r})}})
def given(x: int, model) -> int:
    return x + model

"""
_ASK = """
from main import apply, given
print(apply.get_function_content_hash(), given.get_function_content_hash())
print(sorted({*apply.get_function_code().parts, *given.get_function_code().parts}))
"""


def content_hashes(folder: Path, **values: Any) -> tuple[Sequence[str], str]:
    """Return the hashes of a project's functions, whose state is a default, or given, in a process of their own."""
    folder.mkdir(exist_ok=True)
    values = {"path": "/models/a", "offset": 1, "identity": "v1", "tools": "len(path)", **values}
    (folder / "tools.py").write_text(f"def read(path):\n    return {values['tools']}\n")
    (folder / "main.py").write_text(_PROJECT.format(**values))
    (folder / "ask.py").write_text(_ASK)
    environment = {**os.environ, "PYTHONPATH": str(Path(orcapod_dagster.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    hashes, parts = done.stdout.splitlines()
    return hashes.split(), parts


def test_the_code_of_the_factory_counts(tmp_path: Path) -> None:
    """An edit of the factory or of its helper changes the hash, and the identity; a path that is its argument does not."""
    first, parts = content_hashes(tmp_path / "p")
    assert "helper tools.read" in parts
    assert "helper main.load" in parts
    assert "PATH" not in parts
    assert content_hashes(tmp_path / "p", path="/models/b")[0] == first
    for changed in ({"offset": 2}, {"identity": "v2"}, {"tools": "len(path) + 1"}):
        other = content_hashes(tmp_path / "p", **changed)[0]
        assert not set(other) & set(first), changed


def test_a_default_does_not_travel() -> None:
    """A function that is sent by value takes neither this package along nor what an identity holds."""
    secret = "held by the identity"

    def work(x: int, model: int = per_worker(lambda: 3, identity=lambda: secret)) -> int:
        return model * x

    sent = cloudpickle.dumps(work)
    assert b"orcapod" not in sent
    assert secret.encode() not in sent
    assert pickle.loads(sent).__defaults__ == (None,)  # made just now


# ---------------------------------------------------------------------------- one packet


def test_one_call_builds_and_tears_down(notes: list[str]) -> None:
    """`call`, `async_call` and the direct forms build the state in process for one packet each."""
    function = make()
    packet = Packet({"x": 4})
    outputs = [function.call(packet), function.direct_call(packet)]
    outputs += [asyncio.run(function.async_call(packet)), asyncio.run(function.direct_async_call(packet))]
    assert [values_of(output) for output in outputs] == [{"y": 8}] * 4
    assert notes == ["up", "down"] * 4


def test_the_name_passes_what_the_caller_passes(notes: list[str]) -> None:
    """Called as the plain function, it takes a model of the caller's; without, it makes one for the call."""
    function = make()
    assert function(4, model=Model(10)) == 40
    assert notes == []
    assert function(4) == 8
    assert notes == ["up", "down"]
    assert packet_function("y")(apply_between)(1, Model(5), 2) == 7


def test_a_cached_packet_builds_nothing(notes: list[str]) -> None:
    """A hit of the cache needs no state, nor does an inactive function."""
    cached = CachedPacketFunction(make(), InMemoryArrowDatabase())
    packet = Packet({"x": 4})
    assert values_of(cached.call(packet)) == values_of(cached.call(packet)) == {"y": 8}
    assert notes == ["up", "down"]


def test_a_set_up_that_fails_in_a_call() -> None:
    """It is a WorkerStateError with the cause, not the function's own error."""

    def broken() -> Model:
        raise OSError("no disk")

    with pytest.raises(WorkerStateError, match=r"'model' failed: .*broken raised OSError: no disk") as caught:
        make(broken).call(Packet({"x": 1}))
    assert isinstance(caught.value.__cause__, OSError)


def test_async_function_and_async_state() -> None:
    """An async function gets what an async context manager gives, in the same loop, also by the plain name."""

    @contextlib.asynccontextmanager
    async def connect() -> AsyncGenerator[asyncio.AbstractEventLoop, None]:
        yield asyncio.get_running_loop()

    async def ask(x: int, *, loop: Any = per_worker(connect, identity=None)) -> bool:
        return loop is asyncio.get_running_loop()

    function = packet_function("same")(ask)
    assert values_of(function.call(Packet({"x": 1}))) == {"same": True}
    assert function(1) is True
    assert values_of(asyncio.run(function.async_call(Packet({"x": 1})))) == {"same": True}


# ---------------------------------------------------------------------------- assets


@dg.asset(io_manager_key="packet_io_manager")
def numbers() -> pa.Table:
    return pa.table({"id": [1, 2, 3], "x": [10, 20, 30]})


def test_an_asset_with_state(tmp_path: Path, notes: list[str]) -> None:
    """A run builds once and tears down; a cached run builds nothing; a new identity computes anew; audit and desk build, too."""

    def asset_of(identity: str) -> Any:
        params = {"model": per_worker(load, identity=identity)}
        return packet_asset(apply, inputs=numbers, tag_columns=["id"], output_keys=["y"], params=params)

    def run(asset: Any) -> dict[str, Any]:
        resources = packet_resources(str(tmp_path / "lake"), LocalExecutorResource())
        result = dg.materialize([numbers, asset], resources=resources)
        (event,) = result.asset_materializations_for_node("apply")
        return {name: value.value for name, value in event.metadata.items()}

    asset = asset_of("v1")
    assert asset(7, model=Model(3)) == 21
    assert list(packet_function_of(asset).input_packet_schema) == ["x"]
    assert run(asset)["orcapod/packets_computed"] == 3
    assert notes == ["up", "down"]
    assert run(asset)["orcapod/packets_cached"] == 3
    assert notes == ["up", "down"]
    shown = run(asset_of("v2"))
    assert shown["orcapod/packets_computed"] == 3
    assert "identity model" in str(shown["orcapod/code_changes"])
    assert notes == ["up", "down"] * 2
    row = packet_row(asset_of("v2"), tags={"id": 2}, root_uri=str(tmp_path / "lake"))
    assert row.arguments == {"x": 20}
    assert row.call() == 40
    assert audit(asset_of("v2"), root_uri=str(tmp_path / "lake")).equal == 3
    assert notes == ["up", "down"] * 4


STORE = InMemoryArrowDatabase()
STORED: list[int] = []


def count_stored_at_the_end() -> Generator[int, None, None]:
    yield 1
    source = STORE.source(("results",))
    STORED.append(0 if source is None else sum(batch.num_rows for batch in source.scan(source.schema.names)))


def interrupt_at_three(x: int, one: int = per_worker(count_stored_at_the_end, identity="one")) -> int:
    if x == 3:
        raise KeyboardInterrupt
    return x + one


def test_what_is_finished_is_stored_before_state_is_torn_down() -> None:
    """Where an interrupt ends a run, a tear-down that takes its time keeps nothing from being stored."""
    pod = pod_of(interrupt_at_three, STORE, ignore=["STORE", "STORED"])
    with pytest.raises(KeyboardInterrupt):
        computed(pod, 5)
    assert STORED == [3]
