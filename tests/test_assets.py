"""Packet assets on a real Dagster instance and real Delta tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from orcapod_dagster import SkipPacket, packet_asset, packet_function, packet_function_of, packet_resources
from orcapod_dagster.core.columns import DESCRIPTIONS
from orcapod_dagster.core.errors import DefinitionError, InputError, PacketFailuresError
from orcapod_dagster.core.pod import FunctionPod

ROWS = pa.table(
    {"reading_id": pa.array([1, 2, 3], pa.int32()), "fahrenheit": [32.0, 212.0, None], "site": ["a", "b", "b"]}
)


def make_upstream(table: Callable[[], Any], name: str = "readings", **options: Any) -> dg.AssetsDefinition:
    @dg.asset(name=name, **options)
    def upstream() -> Any:
        return table()

    return upstream


class Lake:
    """A temporary lake with a Dagster instance, and a shorthand to materialize."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = packet_resources(root_uri=str(root))

    def run(
        self, *assets: dg.AssetsDefinition, config: dict[str, Any] | None = None, raises: bool = True, **options: Any
    ) -> dg.ExecuteInProcessResult:
        run_config = {
            "ops": {a.op.name: {"config": config} for a in assets if config and hasattr(a, "packet_asset_spec")}
        }
        return dg.materialize(
            list(assets),
            instance=self.instance,
            resources=self.resources,
            run_config=run_config,
            raise_on_error=raises,
            **options,
        )

    def table(self, name: str) -> pa.Table:
        return DeltaTable(str(self.root / name)).to_pyarrow_table()

    def metadata(self, result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
        (event,) = result.asset_materializations_for_node(name)
        return {key: value.value for key, value in event.metadata.items()}

    def counts(self, result: dg.ExecuteInProcessResult, name: str) -> tuple[int, int, int, int, int]:
        shown = self.metadata(result, name)
        return tuple(shown[f"orcapod/packets_{k}"] for k in ("total", "cached", "computed", "failed", "skipped"))  # type: ignore[return-value]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    one = Lake(tmp_path / "lake")
    yield one
    one.instance.dispose()


def to_celsius_asset(calls: list[float | None] | None = None, **options: Any) -> dg.AssetsDefinition:
    def to_celsius(fahrenheit: float | None) -> float | None:
        if calls is not None:
            calls.append(fahrenheit)
        return None if fahrenheit is None else (fahrenheit - 32) * 5 / 9

    settings: dict[str, Any] = {
        "inputs": "readings",
        "tag_columns": ["reading_id"],
        "output_keys": ["celsius"],
        "own_code": (),
        **options,
    }
    return packet_asset(to_celsius, **settings)


def test_first_run_computes_second_does_not(lake: Lake) -> None:
    """The first run computes every row; the second computes none, calls nothing and writes no new version."""
    readings, celsius = make_upstream(lambda: ROWS), to_celsius_asset()
    first = lake.run(readings, celsius)
    assert lake.counts(first, "to_celsius") == (3, 0, 3, 0, 0)
    assert lake.table("to_celsius").sort_by("reading_id")["celsius"].to_pylist() == [0.0, 100.0, None]
    version = DeltaTable(str(lake.root / "to_celsius")).version()
    second = lake.run(readings, celsius)
    assert lake.counts(second, "to_celsius") == (3, 3, 0, 0, 0)
    assert DeltaTable(str(lake.root / "to_celsius")).version() == version
    assert lake.metadata(second, "to_celsius")["orcapod/unchanged"] is True


@pytest.mark.parametrize("change", ["restored", "updated"])
def test_a_table_that_others_changed_is_written_anew(lake: Lake, change: str) -> None:
    """After another engine restored an older version or changed values, the next run has nothing to compute, and writes."""

    def make(by: int) -> dg.AssetsDefinition:
        def shifted(fahrenheit: float | None, by: int) -> float | None:
            return None if fahrenheit is None else fahrenheit + by

        return packet_asset(
            shifted, inputs="readings", tag_columns=["reading_id"], output_keys=["y"], params={"by": by}
        )

    readings = make_upstream(lambda: ROWS)
    for by in (1, 2):
        lake.run(readings, make(by))
    table = DeltaTable(str(lake.root / "shifted"))
    if change == "restored":
        table.restore(1)
    else:
        table.update(updates={"y": "y + 1"}, predicate="reading_id = 1")
    assert lake.table("shifted").sort_by("reading_id")["y"].to_pylist() != [34.0, 214.0, None]
    assert lake.counts(lake.run(readings, make(2)), "shifted") == (3, 3, 0, 0, 0)
    assert lake.table("shifted").sort_by("reading_id")["y"].to_pylist() == [34.0, 214.0, None]


def test_a_partition_that_a_run_of_several_wrote_since_is_written_anew(lake: Lake) -> None:
    """A partition keeps nothing of another code's results, though a run of several partitions brought them in between."""
    partitions = dg.StaticPartitionsDefinition(["a", "b"])
    options: dict[str, Any] = {"partitions_def": partitions, "metadata": {"partition_expr": "site"}}
    rows = pa.table({"site": ["a", "b"], "x": [1, 2]})

    @dg.asset(io_manager_key="packet_io_manager", backfill_policy=dg.BackfillPolicy.single_run(), **options)
    def sites(context) -> pa.Table:  # type: ignore[no-untyped-def]  # Dagster takes no string here
        return rows.slice(0, len(context.partition_keys))

    def one(x: int) -> int:
        return x + 100

    def other(x: int) -> int:
        return x + 200

    def run(function: Callable[[int], int], last: str) -> list[int]:
        asset = packet_asset(
            packet_function(output_keys=["y"], function_name="of_site")(function), name="of_site", inputs="sites",
            tag_columns=["site"], match="content", backfill_policy=dg.BackfillPolicy.single_run(), **options,
        )  # fmt: skip
        tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": last}
        lake.run(sites, asset, tags=tags)
        return lake.table("of_site").sort_by("site")["y"].to_pylist()

    run(one, "a")
    run(other, "b")
    run(one, "a")
    assert run(other, "b") == [201, 202]
    assert run(one, "a") == [101, 202]


def test_only_new_rows_are_computed_and_gone_rows_leave(lake: Lake) -> None:
    """A new row alone is computed; a row whose input is gone leaves the table; the input's order is kept."""
    current = [ROWS]
    readings, celsius = make_upstream(lambda: current[0]), to_celsius_asset()
    lake.run(readings, celsius)
    more = pa.table({"reading_id": pa.array([9], pa.int32()), "fahrenheit": [50.0], "site": ["c"]})
    current[0] = pa.concat_tables([more, ROWS.slice(1)])
    result = lake.run(readings, celsius)
    assert lake.counts(result, "to_celsius") == (3, 2, 1, 0, 0)
    assert lake.table("to_celsius")["reading_id"].to_pylist() == [9, 2, 3]


def test_table_columns_are_those_of_the_specification(lake: Lake) -> None:
    """The asset table has tags, outputs and the record columns, with both info columns as map<string,string>."""
    lake.run(make_upstream(lambda: ROWS), to_celsius_asset())
    table = DeltaTable(str(lake.root / "to_celsius"))
    schema = {field.name: field.type for field in table.schema().fields}
    for name in ("__pf_exec_executor_info", "__pf_exec_extra_info"):
        assert schema[name].type == "map"
        assert (schema[name].key_type.type, schema[name].value_type.type) == ("string", "string")
    assert set(schema) == {
        "reading_id", "celsius", "__record_id", "__input_packet_hash", "__pod_ts", "__pod_duration", "_context_key",
        "__pf_var_function_name", "__pf_var_function_signature_hash", "__pf_var_function_content_hash", "__pf_var_git_hash",
        "__pf_exec_executor_type", "__pf_exec_executor_info", "__pf_exec_python_version", "__pf_exec_extra_info",
    }  # fmt: skip


def test_record_columns_are_described_in_the_ui(lake: Lake) -> None:
    """Each column that this package adds to an asset table says what it holds, and each that is described is there."""
    result = lake.run(make_upstream(lambda: ROWS), to_celsius_asset())
    shown = lake.metadata(result, "to_celsius")["dagster/column_schema"].columns
    described = {column.name for column in shown if column.description}
    assert described == set(lake.table("to_celsius").column_names) - {"reading_id", "celsius"} == set(DESCRIPTIONS)


def test_map_entries_are_read_by_three_engines(lake: Lake) -> None:
    """pyarrow, polars and SQL each read an entry of the extra info."""
    result = lake.run(make_upstream(lambda: ROWS), to_celsius_asset())
    table = DeltaTable(str(lake.root / "to_celsius"))
    by_arrow = pa.compute.map_lookup(table.to_pyarrow_table()["__pf_exec_extra_info"], "run_id", "first").to_pylist()
    sql = "SELECT __pf_exec_extra_info['run_id'] AS run_id, count(*) AS n FROM t GROUP BY 1"
    by_sql = pa.table(QueryBuilder().register("t", table).execute(sql).read_all()).to_pylist()
    by_polars = dict(pl.scan_delta(table).collect().to_arrow()["__pf_exec_extra_info"][0].as_py())
    assert by_arrow == [result.run_id] * 3
    assert by_sql == [{"run_id": result.run_id, "n": 3}]
    assert by_polars["run_id"] == result.run_id


def test_calling_the_asset_runs_the_plain_function() -> None:
    """A packet asset's name is callable as the plain function."""
    celsius = to_celsius_asset()
    assert celsius(212.0) == 100.0
    assert packet_function_of(celsius).canonical_function_name == "to_celsius"


def test_a_failing_row_fails_the_step_and_keeps_the_rest(lake: Lake) -> None:
    """With on_error="raise" the rest is stored, the table stays as it was, the error names tag and traceback; the next run computes only the failed row."""
    broken = [True]

    def invert(x: int) -> float:
        if x == 0 and not broken[0]:
            return 0.0
        return 1 / x

    upstream = make_upstream(lambda: pa.table({"id": [1, 2, 3], "x": [1, 0, 4]}), "numbers")
    asset = packet_asset(invert, inputs="numbers", tag_columns=["id"], output_keys=["y"], match="version")
    with pytest.raises(PacketFailuresError, match="ZeroDivisionError") as caught:
        lake.run(upstream, asset)
    assert "'id': 2" in str(caught.value)
    assert not (lake.root / "invert").exists()
    broken[0] = False
    repaired = lake.run(upstream, asset)
    assert lake.counts(repaired, "invert") == (3, 2, 1, 0, 0)
    assert lake.metadata(repaired, "invert")["orcapod/computed_because"] == {"an earlier failure": 1}


def test_continue_materializes_the_rest(lake: Lake) -> None:
    """With on_error="continue" the rows that succeeded are materialized and the failures shown."""

    def invert(x: int) -> float:
        return 1 / x

    upstream = make_upstream(lambda: pa.table({"id": [1, 2, 3], "x": [1, 0, 4]}), "numbers")
    asset = packet_asset(invert, inputs="numbers", tag_columns=["id"], output_keys=["y"], on_error="continue")
    result = lake.run(upstream, asset)
    assert lake.counts(result, "invert") == (3, 0, 2, 1, 0)
    assert lake.table("invert")["id"].to_pylist() == [1, 3]


def test_skips_are_remembered(lake: Lake) -> None:
    """A row that raises SkipPacket is left out, counted, and not called again."""
    calls: list[int] = []

    def keep_odd(x: int) -> int:
        calls.append(x)
        if x % 2 == 0:
            raise SkipPacket("even")
        return x

    upstream = make_upstream(lambda: pa.table({"id": [1, 2, 3], "x": [1, 2, 3]}), "numbers")
    asset = packet_asset(keep_odd, inputs="numbers", tag_columns=["id"], output_keys=["y"], match="version")
    assert lake.counts(lake.run(upstream, asset), "keep_odd") == (3, 0, 2, 0, 1)
    assert lake.counts(lake.run(upstream, asset), "keep_odd") == (3, 2, 0, 0, 1)
    assert calls == [1, 2, 3]


def test_null_where_none_is_taken_fails_that_packet(lake: Lake) -> None:
    """A null in a column whose parameter takes none fails that packet alone and names the column."""

    def half(fahrenheit: float) -> float:
        return fahrenheit / 2

    asset = packet_asset(half, inputs="readings", tag_columns=["reading_id"], output_keys=["h"], on_error="continue")
    result = lake.run(make_upstream(lambda: ROWS), asset)
    assert lake.counts(result, "half") == (3, 0, 2, 1, 0)


def test_equal_packets_are_computed_once(lake: Lake) -> None:
    """Rows with equal packets but different tags share one computation."""
    calls: list[str] = []

    def upper(site: str) -> str:
        calls.append(site)
        return site.upper()

    asset = packet_asset(upper, inputs="readings", tag_columns=["reading_id"], output_keys=["name"])
    lake.run(make_upstream(lambda: ROWS), asset)
    assert sorted(calls) == ["a", "b"]
    assert lake.table("upper")["name"].to_pylist() == ["A", "B", "B"]


def test_join_on_shared_tags_with_rename_carry_and_params(lake: Lake) -> None:
    """Two inputs are joined on their shared tag; rename, carry and params reach the function and the table."""
    sites = pa.table({"site": ["b", "a", "z"], "height": [100, 10, 0]})

    def correct(fahrenheit: float | None, metres: int, per_metre: float) -> float | None:
        return None if fahrenheit is None else fahrenheit - metres * per_metre

    asset = packet_asset(
        correct, inputs=["readings", "sites"], tag_columns=["reading_id", "site"], output_keys=["corrected"],
        rename={"height": "metres"}, carry=["metres"], params={"per_metre": 0.5},
    )  # fmt: skip
    result = lake.run(make_upstream(lambda: ROWS), make_upstream(lambda: sites, "sites"), asset)
    table = lake.table("correct")
    assert table.select(["reading_id", "site", "metres", "corrected"]).to_pydict() == {
        "reading_id": [1, 2, 3], "site": ["a", "b", "b"], "metres": [10, 100, 100], "corrected": [27.0, 162.0, None],
    }  # fmt: skip
    assert lake.metadata(result, "correct")["orcapod/rows_without_partner"] == {"readings": 0, "sites": 1}


def test_chain_inherits_tags(lake: Lake) -> None:
    """A packet asset of a packet asset inherits its tag columns."""
    celsius = to_celsius_asset()

    def to_kelvin(celsius: float | None) -> float | None:
        return None if celsius is None else celsius + 273.15

    kelvin = packet_asset(to_kelvin, inputs=celsius, output_keys=["kelvin"])
    lake.run(make_upstream(lambda: ROWS), celsius, kelvin)
    assert lake.table("to_kelvin").select(["reading_id", "kelvin"]).to_pydict() == {
        "reading_id": [1, 2, 3],
        "kelvin": [273.15, 373.15, None],
    }


def test_limit_keeps_results_and_leaves_the_table(lake: Lake) -> None:
    """`limit` computes so many packets, keeps them, and writes no table; the next run computes the rest."""
    readings, celsius = make_upstream(lambda: ROWS), to_celsius_asset()
    tried = lake.run(readings, celsius, config={"limit": 2})
    assert tried.asset_materializations_for_node("to_celsius") == []
    assert not (lake.root / "to_celsius").exists()
    assert lake.counts(lake.run(readings, celsius), "to_celsius") == (3, 2, 1, 0, 0)


def test_rows_narrows_and_force_recomputes(lake: Lake) -> None:
    """`rows` with `force` computes just the packets whose tags fulfil the condition again."""
    calls: list[float | None] = []
    readings, celsius = make_upstream(lambda: ROWS), to_celsius_asset(calls, match="version")
    lake.run(readings, celsius)
    calls.clear()
    lake.run(readings, celsius, config={"rows": "reading_id >= 2 AND reading_id < 3", "force": True})
    assert calls == [212.0]
    with pytest.raises(InputError, match="no SQL condition"):
        lake.run(readings, celsius, config={"rows": "no_such > 1"})


def test_data_version_depends_on_tags_and_values_alone(lake: Lake) -> None:
    """Order of the input and forced recomputation leave the data version; a changed value changes it."""
    current = [ROWS]
    readings, celsius = make_upstream(lambda: current[0]), to_celsius_asset()

    def version(**options: Any) -> str:
        (event,) = lake.run(readings, celsius, **options).asset_materializations_for_node("to_celsius")
        return event.tags["dagster/data_version"]

    first = version()
    current[0] = ROWS.take([2, 0, 1])
    assert version() == first
    assert version(config={"force": True}) == first
    current[0] = ROWS.slice(0, 2)
    assert version() != first


def test_a_static_partition_replaces_exactly_its_part(lake: Lake) -> None:
    """Each partition's write replaces its own rows and no others; the column is inherited from the upstream."""
    partitions = dg.StaticPartitionsDefinition(["a", "b"])
    current = [ROWS]

    @dg.asset(
        name="readings",
        partitions_def=partitions,
        metadata={"partition_expr": "site"},
        io_manager_key="packet_io_manager",
    )
    def readings(context) -> pa.Table:
        return current[0].filter(pa.compute.equal(current[0]["site"], context.partition_key))

    celsius = to_celsius_asset(tag_columns=["reading_id", "site"], partitions_def=partitions)
    for key in ("a", "b"):
        assert lake.run(readings, celsius, partition_key=key).success
    assert sorted(lake.table("to_celsius")["reading_id"].to_pylist()) == [1, 2, 3]
    current[0] = ROWS.slice(0, 2)
    lake.run(readings, celsius, partition_key="b")
    assert sorted(lake.table("to_celsius")["reading_id"].to_pylist()) == [1, 2]


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (pa.table({"reading_id": [1, 1], "fahrenheit": [1.0, 2.0]}), "more than one row"),
        (pa.table({"reading_id": [1, None], "fahrenheit": [1.0, 2.0]}), "is null"),
        (pa.table({"fahrenheit": [1.0, 2.0]}), "none of the tag columns"),
        (pa.table({"reading_id": [1]}), "parameter 'fahrenheit' has no column"),
        (pa.table({"reading_id": [1], "fahrenheit": ["x"]}), "column 'fahrenheit' has type string"),
    ],
)
def test_bad_input_is_refused_by_name(lake: Lake, table: pa.Table, match: str) -> None:
    """Repeated, null or missing tags, a missing column and a wrong type are refused before anything is computed."""
    with pytest.raises(InputError, match=match):
        lake.run(make_upstream(lambda: table), to_celsius_asset())
    assert not (lake.root / "to_celsius").exists()


def test_a_wrong_output_fails_its_packet_alone(lake: Lake) -> None:
    """A return value of the wrong type or count is that packet's failure; the others are stored."""

    def split(site: str) -> tuple[str, int]:
        return ("a", 1) if site == "a" else ("b", 1, 2)  # type: ignore[return-value]

    asset = packet_asset(split, inputs="readings", tag_columns=["reading_id"], output_keys=["l", "n"])
    with pytest.raises(PacketFailuresError, match="returned 3 values, but declares 2"):
        lake.run(make_upstream(lambda: ROWS), asset)


def test_definitions_that_cannot_be_right_are_refused() -> None:
    """Missing hints, variadics, reserved names and unknown params are refused at definition, by name."""

    def no_hint(x) -> float:  # type: ignore[no-untyped-def]
        return 1.0

    def variadic(*xs: float) -> float:
        return 1.0

    def bare(x: list) -> float:  # type: ignore[type-arg]
        return 1.0

    def fine(x: float) -> float:
        return x

    settings: dict[str, Any] = {"inputs": "readings", "tag_columns": ["id"], "output_keys": ["y"]}
    for function, text in (
        (no_hint, "'x' has no type hint"),
        (variadic, "takes any number"),
        (bare, "no element type"),
    ):
        with pytest.raises(DefinitionError, match=text):
            packet_asset(function, **settings)
    for change, text in (
        ({"output_keys": ["__y"]}, "reserved"),
        ({"tag_columns": ["_tag_x"]}, "reserved"),
        ({"params": {"z": 1}}, "no parameters"),
        ({"carry": ["y"]}, "twice"),
    ):
        with pytest.raises(DefinitionError, match=text):
            packet_asset(fine, **{**settings, **change})


def test_other_io_managers_keep_working(tmp_path: Path) -> None:
    """A project whose own assets return dicts and None keeps its io manager when a packet asset is added."""

    @dg.asset
    def settings() -> dict[str, int]:
        return {"a": 1}

    @dg.asset
    def side_effect(settings: dict[str, int]) -> None:
        assert settings == {"a": 1}

    @dg.asset
    def readings() -> list[dict[str, Any]]:
        return ROWS.to_pylist()

    resources = {
        **packet_resources(root_uri=str(tmp_path / "lake")),
        "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "fs")),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(
            [settings, side_effect, readings, to_celsius_asset()], resources=resources, instance=instance
        ).success


logging.getLogger("dagster").setLevel(logging.CRITICAL)


# ---------------------------------------------------------------------------- tables that others changed


def test_a_table_that_another_engine_changed_is_written_again(lake: Lake) -> None:
    """Tags and records are those that were written, but values are not: the next run writes the stored results again."""
    readings = make_upstream(lambda: pa.table({"id": [1, 2], "x": [3, 4]}))

    @packet_asset(inputs=readings, tag_columns=["id"], output_keys=["double"])
    def doubled(x: int) -> int:
        return 2 * x

    lake.run(readings, doubled)
    before = lake.table("doubled")
    DeltaTable(str(lake.root / "doubled")).update(updates={"double": "0"})
    assert lake.counts(lake.run(readings, doubled), "doubled") == (2, 2, 0, 0, 0)
    assert lake.table("doubled").equals(before)
    DeltaTable(str(lake.root / "doubled")).optimize.compact()
    again = lake.run(readings, doubled)
    assert lake.metadata(again, "doubled")["orcapod/unchanged"]


def test_the_data_version_of_a_range_is_of_the_rows_that_stand_after_a_run_of_one_partition(lake: Lake) -> None:
    """A range is materialized, then one partition of it with other rows: the range's former data version is not told again."""
    partitions = dg.StaticPartitionsDefinition(["a", "b"])
    many = {"partitions_def": partitions, "backfill_policy": dg.BackfillPolicy.single_run()}
    values = {"a": 1, "b": 1}

    @dg.asset(metadata={"partition_expr": "site"}, io_manager_key="packet_io_manager", **many)  # type: ignore[arg-type]
    def readings(context) -> pa.Table:
        keys = list(context.partition_keys)
        return pa.table({"site": keys, "x": [values[key] for key in keys]})

    @packet_asset(inputs=readings, tag_columns=["site"], output_keys=["double"], **many)  # type: ignore[arg-type]
    def doubled(x: int) -> int:
        return 2 * x

    def versions(first: str, last: str, a: int) -> set[str]:
        values["a"] = a
        span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        result = lake.run(readings, doubled, tags=span)
        events = result.asset_materializations_for_node("doubled")
        return {(event.tags or {})["dagster/data_version"] for event in events}

    of_two, of_one = versions("a", "b", 2), versions("a", "b", 1)
    versions("a", "a", 2)
    assert versions("a", "b", 2) == of_two != of_one


@pytest.mark.parametrize("when", ["plan", "assemble"])
def test_what_another_run_stores_meanwhile_is_not_overlooked(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A forced run that stores a result while another run brings its table together: the next run brings it to the table."""
    value = [1]

    def current(x: int) -> int:
        return value[0]

    asset = packet_asset(current, inputs="readings", tag_columns=["reading_id"], output_keys=["y"], match="version")

    def rows(count: int) -> dg.AssetsDefinition:
        return make_upstream(lambda: pa.table({"reading_id": list("abc"[:count]), "x": list(range(count))}))

    lake.run(rows(3), asset)
    step = getattr(FunctionPod, when)

    def late(pod: FunctionPod, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(FunctionPod, when, step)
        found = step(pod, *arguments, **options)
        value[0] = 2
        lake.run(rows(2), asset, config={"force": True, "rows": "reading_id = 'a'"})
        return found

    monkeypatch.setattr(FunctionPod, when, late)
    lake.run(rows(2), asset)
    assert lake.table("current")["y"].to_pylist() == [1, 1]
    lake.run(rows(2), asset)
    assert sorted(lake.table("current")["y"].to_pylist()) == [1, 2]
