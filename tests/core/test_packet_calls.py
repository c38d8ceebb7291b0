"""One packet at a time: what a packet function and its cache give back, by value and by provenance."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from orcapod_dagster.core import CachedPacketFunction, InMemoryArrowDatabase, Packet, PythonPacketFunction
from orcapod_dagster.core.columns import ColumnConfig
from orcapod_dagster.core.errors import ConversionError, InputError

KEPT: list[float] = []


def stretch(values: list[float], factor: float = 2.0, note: str | None = None) -> tuple[list[float], str | None]:
    values.append(0.0)
    KEPT[:] = [value * factor for value in values]
    return KEPT, note


def cached() -> CachedPacketFunction:
    function = PythonPacketFunction(stretch, output_keys=["stretched", "note"])
    return CachedPacketFunction(function, InMemoryArrowDatabase())


def test_a_hit_is_the_fresh_result() -> None:
    """A stored output equals the fresh one in values, schema, record id and sources; `__computed` tells them apart."""
    function = cached()
    packet = Packet({"values": [1.0], "note": None, "unused": 7})
    fresh = function.call(packet)
    hit = function.call(packet)
    assert fresh is not None
    assert hit is not None
    assert (fresh.get_meta_value("computed"), hit.get_meta_value("computed")) == (True, False)
    assert hit == fresh
    assert hit.schema() == fresh.schema() == {"stretched": list[float], "note": str | None}
    assert hit.as_dict() == fresh.as_dict() == {"stretched": [2.0, 0.0], "note": None}
    assert hit.datagram_id == fresh.datagram_id
    start = f"{':'.join(function.uri)}::{fresh.datagram_id}::"
    assert hit.source_info() == fresh.source_info() == {"stretched": start + "stretched", "note": start + "note"}


def test_a_hit_says_what_made_it() -> None:
    """Meta columns of a hit have their stored types, the empty maps included."""
    function = cached()
    packet = Packet({"values": []}, {"values": list[float]})
    function.call(packet)
    hit = function.call(packet)
    assert hit is not None
    assert hit.get_meta_value("pf_exec_extra_info") == {}
    assert isinstance(hit.get_meta_value("pod_ts"), dt.datetime)
    kept = hit.with_meta_columns(note="n").drop_meta_columns("note").arrow_schema(columns=ColumnConfig.all())
    assert kept.field("__pf_exec_extra_info").type == pa.map_(
        pa.string(), pa.field("value", pa.string(), nullable=False)
    )


def test_arguments_and_results_are_not_shared() -> None:
    """What the function does to its arguments, and later to what it returned, changes neither packet."""
    function = PythonPacketFunction(stretch, output_keys=["stretched", "note"])
    packet = Packet({"values": [1.0]})
    output = function.call(packet)
    KEPT.append(99.0)
    assert output is not None
    assert packet.as_dict() == {"values": [1.0]}
    assert output["stretched"] == [2.0, 0.0]


def test_dict_and_table_packets_are_one_input() -> None:
    """A packet from a wider or narrower table hits the result of the equal dict."""
    function = cached()
    function.call(Packet({"values": [1.0, 2.0], "factor": 3.0}))
    table = pa.table(
        {"factor": pa.array([3], pa.int8()), "values": pa.array([[1.0, 2.0]], pa.large_list(pa.float32()))}
    )
    hit = function.call(Packet(table))
    assert hit is not None
    assert hit.get_meta_value("computed") is False


def test_null_is_refused_by_name() -> None:
    """A null for a parameter that takes none is the input's fault, cached or not."""
    function = cached()
    for call in (function.call, function.packet_function.call):
        with pytest.raises(InputError, match="function 'stretch': column 'values' is null"):
            call(Packet({"values": None}, {"values": list[float] | None}))


def test_an_output_that_does_not_fit_names_function_and_column() -> None:
    """A return value of another type is refused, with the function's name."""

    def wrong(x: int) -> int:
        return str(x)  # type: ignore[return-value]

    with pytest.raises(ConversionError, match="function 'wrong': column 'y'"):
        PythonPacketFunction(wrong, output_keys="y").call(Packet({"x": 1}))


def test_a_function_without_outputs_is_cached() -> None:
    """A record without output columns is a record."""

    def check(x: int) -> None:
        assert x

    function = CachedPacketFunction(PythonPacketFunction(check), InMemoryArrowDatabase())
    assert function.call(Packet({"x": 1})) == Packet({})
    hit = function.call(Packet({"x": 1}))
    assert hit is not None
    assert (hit.as_dict(), hit.get_meta_value("computed")) == ({}, False)
