"""The Ray executor: the conformance suite, and workers that know neither this package nor the user's project."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from campaigns import long_param
from failing import computed, pod_of
from ray_clusters import small_cluster

from orcapod_dagster import Blob
from orcapod_dagster.core.blobs.keeper import Keeper, keeping
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.errors import ExecutorError, MissingExtraError, PacketTimeoutError, WorkerDeathError
from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.batch_rows import with_rows
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.generator_rows import as_list
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.core.rate_limit import RateLimit
from orcapod_dagster.core.skip import SkipPacket
from orcapod_dagster.testing.executors import ExecutorConformance, double, gather, make_batches

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = pytest.mark.ray

# Hides packages from a worker, wherever on its path they lie.
_HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"orcapod_dagster", "ownproject"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""

_PROJECT = {
    "__init__.py": "",
    "shapes.py": """
        from dataclasses import dataclass
        from enum import Enum
        class Kind(Enum):
            ROUND = "round"
            FLAT = "flat"
        @dataclass
        class Shape:
            kind: Kind
            size: int
        class ShapeError(ValueError):
            pass
    """,
    "scales.py": "SCALE = 10\ndef scaled(size):\n    return size * SCALE\n",
    "values.py": """
        from orcapod_dagster import Blob, output_directory
        def doubled(blob: Blob) -> Blob:
            path = output_directory() / "doubled.txt"
            path.write_bytes(2 * blob.read())
            return path
        async def wrapped(blob: Blob) -> Blob:
            import orcapod_dagster
            return orcapod_dagster.Blob(blob.read(), "text/css")
        def same(blob: Blob) -> Blob:
            return blob
    """,
    "models.py": """
        from ownproject import scales
        def load():
            model = {"factor": scales.scaled(1)}
            yield model
        def apply(size, *, model):
            return model["factor"] * size
    """,
    "sight.py": """
        import importlib
        def check_blind():
            # Of this package there are stand-ins for what functions name.
            for name in ("ownproject", "ownproject.scales", "orcapod_dagster.core.pod"):
                try:
                    importlib.import_module(name)
                except ImportError:
                    continue
                raise AssertionError(name + " can be imported here")
    """,
    "forms.py": """
        import asyncio
        import time
        from orcapod_dagster import SkipPacket
        from ownproject import scales, sight
        def scaled(x):
            sight.check_blind()
            if x == 2:
                raise SkipPacket("two")
            return scales.scaled(x)
        async def scaled_async(x):
            await asyncio.sleep(0.01)
            return scaled(x)
        def scaled_rows(x):
            yield scaled(x)
        def scaled_batch(x):
            sight.check_blind()
            return [SkipPacket("two") if one == 2 else scales.scaled(one) for one in x]
        def late(x):
            if x == 2:
                time.sleep(30)
            return scaled(x)
        async def late_async(x):
            if x == 2:
                await asyncio.sleep(30)
            return scaled(x)
        def state():
            sight.check_blind()
            return scales.scaled
        def by_state(x, *, state):
            scaled(x)
            return state(x)
        async def by_state_async(x, *, state):
            await scaled_async(x)
            return state(x)
    """,
    "work.py": """
        from orcapod_dagster import SkipPacket
        from ownproject import scales
        from ownproject.shapes import Kind, Shape, ShapeError
        def grow(shape):
            if shape.kind is Kind.FLAT:
                raise SkipPacket("flat")
            if shape.size == 2:
                raise ShapeError("two")
            return Shape(shape.kind, scales.scaled(shape.size))
        def visible(name):
            import importlib.util
            import orcapod_dagster
            module = orcapod_dagster if name == "orcapod_dagster" else None
            return module.__doc__ if module else importlib.util.find_spec(name) is not None
    """,
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One local cluster for this module; tests/test_ray.py has its own, and a process can have one at a time."""
    with small_cluster():
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's package `ownproject`, importable in the driver alone."""
    folder = tmp_path / "ownproject"
    folder.mkdir()
    for name, text in _PROJECT.items():
        lines = text.splitlines()
        (folder / name).write_text("\n".join(line.removeprefix("        ") for line in lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("ownproject.work")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownproject"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> RayExecutor:
    """An executor whose workers can import neither this package nor `ownproject`."""
    folder = tmp_path_factory.mktemp("blind")
    (folder / "sitecustomize.py").write_text(_HIDE)
    return RayExecutor(runtime_env={"env_vars": {"PYTHONPATH": str(folder)}})


class TestRay(ExecutorConformance):
    start_seconds = 60.0
    workers = 2

    def make_executor(self) -> RayExecutor:
        return RayExecutor()


def test_workers_need_neither_package_nor_project(blind: RayExecutor, project: ModuleType) -> None:
    """A function with helpers, classes and SkipPacket from several modules runs where none of them can be imported."""
    shapes = sys.modules["ownproject.shapes"]
    rows = [shapes.Shape(shapes.Kind.ROUND, size) for size in range(4)] + [shapes.Shape(shapes.Kind.FLAT, 9)]
    outputs, slices = gather(blind.run_rows(project.grow, make_batches(rows)), 5)
    expected = [shapes.Shape(shapes.Kind.ROUND, 10 * size) for size in range(4)]
    assert outputs == [*expected[:2], None, expected[3], None]
    assert type(outputs[0]) is shapes.Shape
    failures = {f.row: f for result in slices.values() for f in result.failures}
    assert {row: f.skipped for row, f in failures.items()} == {2: False, 4: True}
    assert type(failures[2].error) is shapes.ShapeError
    assert type(failures[4].error) is SkipPacket


FORMS: dict[str, CallOptions] = {
    "scaled": CallOptions(time_limit=30.0),
    "scaled_async": CallOptions(max_concurrency=4),
    "scaled_rows": CallOptions(),
    "scaled_batch": CallOptions(batch_size=2),
    "late": CallOptions(time_limit=1.0),
    "late_async": CallOptions(time_limit=1.0, max_concurrency=4),
    "by_state": CallOptions(),
    "by_state_async": CallOptions(max_concurrency=4),
}


@pytest.mark.parametrize(
    "form", [one if one in ("scaled", "scaled_async", "late", "by_state") else long_param(one, id=one) for one in FORMS]
)
def test_every_form_of_function_needs_neither_package_nor_project(
    blind: RayExecutor, project: ModuleType, form: str
) -> None:
    """Each form runs with helpers of other modules and SkipPacket in workers that, when they try, can import none of them."""
    forms, options = importlib.import_module(f"{project.__package__}.forms"), FORMS[form]
    function, is_late = getattr(forms, form), form.startswith("late")
    if form.startswith("by_state"):
        options = replace(options, state={"state": forms.state})
    called = {"scaled_rows": as_list, "scaled_batch": lambda one: with_rows(one, ["y"], "scaled_batch")}
    if form in called:
        function = called[form](function)
    outputs, slices = gather(blind.run_rows(function, make_batches(range(5)), call_options=options), 5)
    wrapped = [[one] if form == "scaled_rows" else one for one in (0, 10, 20, 30, 40)]
    failures = {failure.row: failure for result in slices.values() for failure in result.failures}
    assert set(failures) == {2}, failures
    failure = failures[2]
    assert failure.skipped == (not is_late)
    assert type(failure.error) is (PacketTimeoutError if is_late else SkipPacket)
    assert outputs == [*wrapped[:2], None, *wrapped[3:]]


def test_a_stream_is_read_ahead_boundedly() -> None:
    """Of a million packets, Ray has no more than the tasks under way hold, also while whoever takes the results takes none."""
    rows, read, done, ahead, used = 50, 0, 0, 0, 0.0
    reference_counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    of_before, most_references = len(reference_counts()), 0

    def batches() -> Iterator[RowBatch]:
        nonlocal read
        for start in range(0, 1_000_000, rows):
            read += rows
            yield RowBatch(([bytes(20_000)] * rows,), {}, start, rows)

    def larger(x: bytes) -> bytes:
        return x + os.urandom(20_000)

    results = RayExecutor().run_rows(larger, batches())
    for number, result in enumerate(results):
        if number == 20:
            time.sleep(2.0)  # whoever stores results is slow; the cluster's numbers are a second old
            used = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
        done += result.length
        ahead = max(ahead, read - done)
        most_references = max(most_references, len(reference_counts()) - of_before)
        if done >= 5_000:
            break
    del results  # which closes it
    tasks = 2 * int(ray.cluster_resources()["CPU"])
    assert ahead <= (tasks + 1) * rows
    assert most_references <= 2 * tasks + 2
    # Each task has at most 1 MB of rows and 2 MB of results; in all 250 MB went through.
    assert 0 < used <= 4_000_000 * tasks


def test_worker_state_needs_neither_package_nor_project(blind: RayExecutor, project: ModuleType) -> None:
    """A factory with a helper in another module builds state in an actor where none of them can be imported."""
    models = importlib.import_module(f"{project.__package__}.models")
    options = CallOptions(state={"model": models.load})
    assert gather(blind.run_rows(models.apply, make_batches([1, 2, 3]), call_options=options), 3)[0] == [10, 20, 30]


def test_the_blind_workers_are_blind(blind: RayExecutor, project: ModuleType) -> None:
    """The test above means something: such a worker sees a stand-in of this package, and no project."""
    rows = make_batches(["orcapod_dagster", "ownproject"])
    outputs, _ = gather(blind.run_rows(project.visible, rows), 2)
    assert outputs[0].startswith("Stands in for orcapod_dagster")
    assert outputs[1] is False


def test_pickling_by_value_is_undone(project: ModuleType) -> None:
    """After a run, no module is registered with cloudpickle that was not before."""
    ray.cloudpickle.register_pickle_by_value(sys.modules["ownproject.scales"])
    try:
        before = set(ray.cloudpickle.list_registry_pickle_by_value())
        list(RayExecutor().run_rows(project.visible, make_batches(["json"])))
        assert set(ray.cloudpickle.list_registry_pickle_by_value()) == before == {"ownproject.scales"}
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules["ownproject.scales"])


def test_a_function_is_loaded_once_per_worker() -> None:
    """What a function keeps in its module's globals lives on from task to task of the same worker."""
    loads: dict[int, int] = {}

    def count(x: int) -> tuple[int, int]:
        loads[os.getpid()] = loads.get(os.getpid(), 0) + 1
        return os.getpid(), loads[os.getpid()]

    outputs, slices = gather(RayExecutor().run_rows(count, make_batches(range(2000))), 2000)
    assert len({result.start for result in slices.values()}) > 2
    for worker in {pid for pid, _ in outputs}:
        counts = sorted(n for pid, n in outputs if pid == worker)
        assert counts == list(range(1, len(counts) + 1))


def test_slow_rows_use_every_slot() -> None:
    """Slow rows of one batch are spread over the workers, not chained behind one another."""

    def when(x: int) -> tuple[float, float]:
        began = time.time()
        time.sleep(0.4)
        return began, time.time()

    options = CallOptions(slice_seconds=0.5)
    gather(RayExecutor().run_rows(when, make_batches(range(8)), call_options=options), 8)  # both workers have started
    spans, _ = gather(RayExecutor().run_rows(when, make_batches(range(20)), call_options=options), 20)
    at_once = [sum(began <= moment < ended for began, ended in spans) for moment, _ in spans]
    assert max(at_once) == 2
    assert (
        at_once.count(2) >= 8
    )  # all of the second worker's begin while the first one is at a row, but for the last ones


def test_an_output_that_cannot_be_pickled_is_its_rows_failure() -> None:
    """The other rows of its task keep their values."""

    def give(x: int) -> Any:
        return (i for i in range(3)) if x == 1 else x

    outputs, slices = gather(RayExecutor().run_rows(give, make_batches([0, 1, 2])), 3)
    assert outputs == [0, None, 2]
    assert [f.error_type for f in slices[1].failures] == ["TypeError"]


def test_a_lost_worker_is_tried_again(tmp_path: Path) -> None:
    """A worker that dies once costs nothing but time."""
    marker = tmp_path / "died"

    def die_once(x: int) -> int:
        if x == 1 and not marker.exists():
            marker.touch()
            os._exit(1)
        return x

    assert gather(RayExecutor().run_rows(die_once, make_batches([0, 1, 2])), 3)[0] == [0, 1, 2]


def test_packets_that_kill_their_worker_fail_alone() -> None:
    """Of many packets in large tasks, only those at which their worker dies fail; all others have their value."""
    guilty = {150, 2999}

    def work(x: int) -> int:
        if x in guilty:
            ctypes.string_at(0) if x == 150 else os._exit(3)
        return 2 * x

    outputs, slices = gather(RayExecutor().run_rows(work, make_batches(range(5000))), 5000)
    assert outputs == [None if x in guilty else 2 * x for x in range(5000)]
    failures = {failure.row: failure for result in slices.values() for failure in result.failures}
    assert set(failures) == guilty
    assert all(isinstance(f.error, WorkerDeathError) for f in failures.values())
    assert {f.error_type for f in failures.values()} == {"WorkerDeathError"}


def test_a_function_at_whose_loading_workers_die_is_no_packets_failure() -> None:
    """Workers that end before their first row end the run with an error that is not a packet's."""

    class Deadly:
        def __reduce__(self) -> Any:
            return os._exit, (5,)

    deadly = Deadly()
    with pytest.raises(ExecutorError, match="a worker ended before its first row"):
        list(RayExecutor().run_rows(lambda x: x if deadly else 0, make_batches([0, 1])))


def test_a_function_that_cannot_be_unpickled_is_an_executor_error() -> None:
    """The message carries the worker's reason."""

    class Unloadable:
        def __reduce__(self) -> Any:
            return (int, ("no number",))

        def __call__(self, x: int) -> int:
            return x

    with pytest.raises(ExecutorError, match="no number"):
        list(RayExecutor().run_rows(Unloadable(), make_batches([0])))


def test_large_values_travel_to_blind_workers(blind: RayExecutor, project: ModuleType, tmp_path: Path) -> None:
    """Workers without this package open values of a local lake by path, and move what they write into it; async, too."""
    values = importlib.import_module("ownproject.values")
    store = BlobStore(str(tmp_path / "lake"))
    text = b"0123456789" * 10_000
    rows = list(make_batches([store.keeper.keep(text, "x"), store.keeper.keep(b"abc", "x")]))
    outputs, _ = gather(blind.run_rows(keeping(values.doubled, store.keeper, {None: "y"}, is_async=False), rows), 2)
    assert [type(one) for one in outputs] == [Blob, Blob]
    assert [one.read() for one in outputs] == [2 * text, b"abcabc"]
    assert outputs[0].media_type == "text/plain"
    assert (outputs[0].data, outputs[1].data) == (None, b"abcabc")
    assert len(store.listing()) == 2
    assert not len(store.leftovers())
    outputs, _ = gather(blind.run_rows(keeping(values.wrapped, store.keeper, {None: "y"}, is_async=True), rows), 2)
    assert [one.media_type for one in outputs] == ["text/css"] * 2
    assert len(store.listing()) == 2
    outputs, _ = gather(blind.run_rows(keeping(values.same, Keeper(), {None: "y"}, is_async=False), rows), 2)
    assert [one.place is None for one in outputs] == [True, True]


@pytest.mark.parametrize("state", [{}, {"factor": int}])
def test_errors_of_ray_hold_no_secret(state: dict[str, Any]) -> None:
    """An environment that cannot be built is told without the values that Ray's error quotes, by tasks and by actors."""
    executor = RayExecutor(
        runtime_env={"env_vars": {"TOKEN": "s3cret-1"}, "conda": {"dependencies": ["https://me:s3cret-2@host/x"]}}
    )
    with pytest.raises(ExecutorError) as raised:
        list(executor.run_rows(lambda x, factor=1: x, make_batches([1]), call_options=CallOptions(state=state)))
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))


def test_data_holds_no_secret() -> None:
    """Address credentials and the runtime environment never show; options show as JSON values."""
    environment = {"env_vars": {"TOKEN": "s3cret"}}
    executor = RayExecutor("ray://user:s3cret@head:10001?token=s3cret", environment, num_cpus=0.5, resources={"x": 1})
    executor = executor.with_options(scheduling_strategy=object(), runtime_env=environment)
    assert executor.get_executor_data() == {
        "executor_type": "ray.v0",
        "ray_address": "ray://head:10001",
        "remote_opts": {"num_cpus": 0.5, "resources": {"x": 1}, "scheduling_strategy": "object"},
        "runtime_env": True,
    }
    assert RayExecutor("user:s3cret@head:6379").get_executor_data()["ray_address"] == "head:6379"
    assert RayExecutor().get_executor_data()["ray_address"] == "auto"


def test_the_runtime_environment_is_copied() -> None:
    """Neither Ray nor a later change by the caller reaches the environment that the executor was given."""
    environment = {"env_vars": {"GREETING": "hello"}}
    executor = RayExecutor(runtime_env=environment)
    environment["env_vars"]["GREETING"] = "changed"
    batch = RowBatch((["GREETING"],), {}, 0, 1)
    for _ in range(2):
        (result,) = executor.run_rows(os.getenv, [batch])
        assert result.outputs == ["hello"]


def test_options_per_run_leave_the_executor_as_it_is() -> None:
    """`executor_options` hold for one run and show in its slices' data alone."""
    executor = RayExecutor(num_cpus=1)
    (result,) = executor.run_rows(double, make_batches([1]), executor_options={"num_cpus": 2})
    assert result.execution_data["remote_opts"] == {"num_cpus": 2}
    assert executor.get_executor_data()["remote_opts"] == {"num_cpus": 1}


def test_the_rate_is_kept(tmp_path: Path) -> None:
    """In no span begin more packets than the rate allows, but for those that were sent before there was a worker for them."""

    def work(x: int) -> int:
        (tmp_path / str(x)).write_text(str(time.time()))
        return x

    pod = pod_of(work, executor=RayExecutor(), ignore=["time.time"], rate_limit=RateLimit(10.0))
    assert computed(pod, 30).computed == 30
    found = sorted(float(file.read_text()) for file in tmp_path.iterdir())
    sent = 2 * int(ray.cluster_resources()["CPU"])
    for i, first in enumerate(found):
        assert all(j - i <= 10 * (found[j] - first) + sent + 0.5 for j in range(i + 1, len(found)))
    assert found[-1] - found[0] >= (30 - 1 - sent) / 10


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ray the executor can be made, and its first run tells what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'orcapod-dagster\[ray\]'"):
        RayExecutor().run_rows(double, [])


def test_what_workers_print_is_shown_here(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Streams of rows are written to this process's own, and records go to its handlers, at its levels."""

    def work(x: int) -> int:
        print("row", x)
        print("trouble", x, file=sys.stderr)
        logging.getLogger("mine.on.workers").info("record %d", x)
        return x

    with caplog.at_level(logging.INFO, "mine.on.workers"):
        list(RayExecutor().run_rows(work, make_batches(range(3)), call_options=CallOptions(capture=1000)))
    shown = capsys.readouterr()
    assert sorted(shown.out.splitlines()) == [f"row {x}" for x in range(3)]
    assert sorted(shown.err.splitlines()) == [f"trouble {x}" for x in range(3)]
    assert sorted(r.getMessage() for r in caplog.records if r.name == "mine.on.workers") == [
        f"record {x}" for x in range(3)
    ]
