"""Every Arrow type through the IO manager and through the result cache: kept, or refused by name with nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from arrow_types import BY_VALUE, KEPT, REFUSED
from campaigns import FULL, rounds

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources
from orcapod_dagster.core import (
    Datagram,
    DeltaTableDatabase,
    InMemoryArrowDatabase,
    PythonPacketFunction,
    ResultCache,
    converter,
)
from orcapod_dagster.core.casting import recast, unencoded
from orcapod_dagster.core.contexts import Context
from orcapod_dagster.core.errors import ConversionError
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.storage_types import returned_type
from orcapod_dagster.core.streams import PacketStream, StreamInput

KEY = dg.AssetKey("typed")
ANY = dg.PythonObjectDagsterType(object)
ALL = {**KEPT, **BY_VALUE}
# Of all tests, for contexts make instances of their own, which costs more than the table.
INSTANCE = dg.DagsterInstance.ephemeral()
READ = dg.build_input_context(
    asset_key=KEY, upstream_output=dg.build_output_context(asset_key=KEY), dagster_type=ANY, instance=INSTANCE
)


def test_there_are_at_least_seventy() -> None:
    """The matrix is as wide as it says."""
    assert len({str(a.type) for a in ALL.values()}) >= 70


def through_io_manager(root: Path, table: pa.Table) -> pa.Table:
    manager = DeltaLakeIOManager(root_uri=str(root))
    manager.handle_output(dg.build_output_context(asset_key=KEY, instance=INSTANCE), table)
    return manager.load_input(READ)


def variants(array: pa.Array) -> Iterator[pa.Array]:
    """The values as they are, and a null alone; in the long form none of them, each null, and a slice, too."""
    nulls = [array.slice(row, 1) for row in range(len(array)) if not array[row].is_valid]
    yield array
    yield from nulls[: rounds(1, len(nulls))]
    if FULL or not nulls:
        yield array.slice(0, 0)
    if FULL:
        yield array.slice(1)


@pytest.mark.parametrize("name", ALL)
def test_an_asset_keeps_every_type(tmp_path: Path, name: str) -> None:
    """What was written is read back: the type (or its plain form), the values, the nulls, the metadata; also of no rows."""
    field = pa.field("c", ALL[name].type, metadata={"unit": "mV"})
    for number, array in enumerate(variants(ALL[name])):
        table = pa.Table.from_arrays([array], schema=pa.schema([field], metadata={"made by": "a test"}))
        found = through_io_manager(tmp_path / str(number), table)
        expected = pa.schema([field.with_type(returned_type(array.type))], metadata={"made by": "a test"})
        assert found.schema.equals(expected, check_metadata=True)
        assert_same(converter_free(found["c"]), converter_free(pa.chunked_array([array])))
        if name in KEPT:
            assert found.schema.field("c").type == array.type


def converter_free(column: pa.ChunkedArray) -> list[Any]:
    """Values as pyarrow itself gives them, extension types by their storage, nanoseconds as numbers."""
    values: list[Any] = []
    for chunk in column.chunks:
        plain = recast(chunk, unencoded(chunk.type))
        plain = plain.storage if isinstance(plain.type, pa.BaseExtensionType) else plain
        values += (plain.cast(pa.int64()) if str(plain.type) == "time64[ns]" else plain).to_pylist()
    return values


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("name", REFUSED)
def test_an_asset_refuses_what_would_be_lost(tmp_path: Path, name: str) -> None:
    """A type or a value that Delta cannot hold is refused with its column's name, and no table is made."""
    with pytest.raises(ConversionError, match="column 'c'"):
        through_io_manager(tmp_path, pa.Table.from_arrays([REFUSED[name]], names=["c"]))
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.rglob("*.parquet"))


def function_of(field: pa.Field, values: list[Any]) -> PythonPacketFunction:
    def give(row: int) -> Any:
        return values[row]

    return PythonPacketFunction(give, "c", function_name="give", output_schema=pa.schema([field]))


@pytest.mark.parametrize("database", ["delta", "memory"])
@pytest.mark.parametrize("name", ALL)
def test_a_result_keeps_every_type(tmp_path: Path, name: str, database: str) -> None:
    """A result of any type that has a Python counterpart is found again as it was computed."""
    array = ALL[name]
    records = DeltaTableDatabase(str(tmp_path)) if database == "delta" else InMemoryArrowDatabase()
    field = pa.field("c", array.type)
    values = converter.to_python(array, field)
    function = function_of(field, values)
    pod = FunctionPod(
        function,
        ResultCache(records, function.uri),
        OutcomeLog(records, ["outcomes", *function.uri]),
        executor=LocalPythonFunctionExecutor(),
    )
    rows = MemorySource(pa.table({"row": range(len(values))}))
    stream = PacketStream.open([StreamInput("rows", rows)], ["row"])
    report = pod.compute(pod.plan(stream))
    assert not report.failures
    assert report.computed == len(values)
    plan = pod.plan(stream)
    assert not len(plan.to_compute)
    found = ResultCache(records, function.uri).get_all_records()
    assert found.schema.field("c").type == unencoded(array.type)
    assert_same(converter_free(found["c"]), converter_free(pa.chunked_array([array])))
    assert_same(converter.to_python(found["c"], field), values)


@pytest.mark.parametrize("name", REFUSED)
def test_a_result_that_would_be_lost_is_refused(tmp_path: Path, name: str) -> None:
    """Results that Delta cannot hold are refused with their column's name, and nothing is stored."""
    array = REFUSED[name]
    function = function_of(pa.field("c", pa.int64()), [1])
    variation = Datagram(function.get_function_variation_data())
    context = Context.of(variation, Datagram(function.get_execution_data(), EXECUTION_DATA_SCHEMA))
    cache = ResultCache(DeltaTableDatabase(str(tmp_path)), function.uri)
    with pytest.raises(ConversionError, match="column 'c'"):
        cache.store_batch(
            hash_rows({"row": pa.array(range(len(array)))}),
            pa.RecordBatch.from_arrays([array], names=["c"]),
            context,
            [0.0] * len(array),
        )
    assert cache.get_all_records() is None
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_table_of_all_types_at_once(tmp_path: Path) -> None:
    """All types beside each other in one asset, written and read through a real Dagster run."""
    table = pa.table({name: array.slice(0, 2) for name, array in KEPT.items()})

    @dg.asset(io_manager_key="lake")
    def typed() -> pa.Table:
        return table

    seen: list[pa.Table] = []

    @dg.asset(io_manager_key="lake", deps=[])
    def reader(typed: pa.Table) -> pa.Table:
        seen.append(typed)
        return typed

    dg.materialize([typed, reader], resources={"lake": DeltaLakeIOManager(root_uri=str(tmp_path))})
    assert seen[0].schema == table.schema
    for name in table.column_names:
        assert_same(converter_free(seen[0][name]), converter_free(table[name]))


def test_an_upstream_that_changes_widths_causes_no_miss(tmp_path: Path) -> None:
    """int32 → int64, string → large_string or dictionary, nullable → not, other order of columns: nothing is computed again."""
    n, name, values = pa.array([1, 2], pa.int32()), pa.array(["a", "b"]), pa.array([[1.5], []], pa.list_(pa.float32()))
    required = pa.schema(
        [
            ("values", pa.list_(pa.float64())),
            pa.field("id", pa.int64(), nullable=False),
            ("name", pa.large_string()),
            pa.field("n", pa.int64(), nullable=False),
        ]
    )
    first = pa.table({"id": n, "n": n, "name": name, "values": values})
    versions = [
        first,
        first.set_column(1, "n", n.cast(pa.int64())),
        first.set_column(2, "name", name.cast(pa.large_string())),
        first.set_column(2, "name", name.dictionary_encode()),
        first.select(["values", "name", "n", "id"]),
        pa.table([values.cast(pa.list_(pa.float64())), n.cast(pa.int64()), name.cast(pa.large_string()), n.cast(pa.int64())], schema=required),
    ]  # fmt: skip
    current: list[pa.Table] = []

    @dg.asset(metadata={"orcapod/schema_evolution": "overwrite"}, io_manager_key="packet_io_manager")
    def upstream() -> pa.Table:
        return current[-1]

    def describe(n: int, name: str, values: list[float]) -> str:
        return f"{n}{name}{values}"

    described = packet_asset(
        describe,
        inputs="upstream",
        tag_columns=["id"],
        output_keys="text",
        metadata={"orcapod/schema_evolution": "overwrite"},
    )
    computed: list[Any] = []
    with dg.DagsterInstance.ephemeral() as instance:
        for table in versions:
            current.append(table)
            result = dg.materialize(
                [upstream, described], instance=instance, resources=packet_resources(root_uri=str(tmp_path))
            )
            (event,) = result.asset_materializations_for_node("describe")
            computed.append(event.metadata["orcapod/packets_computed"].value)
    assert computed == [2, 0, 0, 0, 0, 0]
