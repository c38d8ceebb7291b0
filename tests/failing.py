"""What tests of failures share: streams of numbers, a pod over them, what it stored, an executor as a user writes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import InMemoryArrowDatabase, PythonPacketFunction
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput
from orcapod_dagster.core.types import Schema


def stream_of(count: int) -> PacketStream:
    rows = pa.table({"tag": [f"t{x}" for x in range(count)], "x": pa.array(range(count), pa.int64())})
    return PacketStream.open([StreamInput("rows", MemorySource(rows), {})], ("tag",), {})


def pod_of(
    function: Callable[..., Any],
    database: ArrowDatabase | None = None,
    executor: Any = None,
    ignore: Sequence[str] = (),
    **options: Any,
) -> FunctionPod:
    store = database or InMemoryArrowDatabase()
    packets = PythonPacketFunction(function, "y", ignore=ignore)
    return FunctionPod(
        packets,
        ResultCache(store, ("results",)),
        OutcomeLog(store, ("outcomes",)),
        executor=executor or LocalPythonFunctionExecutor(),
        **options,
    )


def computed(pod: FunctionPod, count: int) -> PodReport:
    return pod.compute(pod.plan(stream_of(count)))


def records(pod: FunctionPod, path: str) -> list[dict[str, Any]]:
    source = pod.cache.database.source((path,))
    return [] if source is None else pa.Table.from_batches(source.scan(source.schema.names)).to_pylist()


class MyExecutor(PythonFunctionExecutorBase):
    """As a user would write one: it knows nothing of what it is not told to do."""

    executor_type_id = "mine"

    def __init__(self, slice_seconds: float = 1.0) -> None:
        self._calls = CallOptions(slice_seconds=slice_seconds)

    def get_executor_data(self) -> dict[str, Any]:
        return {"executor_type": self.executor_type_id}

    def get_executor_data_schema(self) -> Schema:
        return Schema({"executor_type": str})

    def run_rows(self, fn: Callable[..., Any], batches: Iterable[RowBatch], **options: Any) -> Iterator[BatchResult]:
        yield from LocalPythonFunctionExecutor().run_rows(fn, batches, call_options=self._calls)
