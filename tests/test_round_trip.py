"""Generated nested types and values, all the way: Python → Arrow → Delta → Arrow → Python."""

from __future__ import annotations

import tempfile
import uuid
from typing import Any

import pyarrow as pa
import pytest
from campaigns import rounds
from hypothesis import HealthCheck, given, settings
from python_types import columns, same

from orcapod_dagster.core import converter, delta
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.sources import DeltaSource


@settings(max_examples=rounds(100, 1000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(columns())
def test_python_to_arrow_and_back(column: tuple[Any, list[Any]]) -> None:
    """Values of any nested type come back equal and of the same class, from the declared Arrow type; also in slices."""
    hint, values = column
    array = converter.to_array(values, hint, column="c")
    array.validate(full=True)
    field = converter.arrow_field("c", hint)
    assert array.type == field.type
    assert field.nullable == converter.split_optional(hint)[1]
    assert same(converter.to_python(array, hint), values)
    assert same(converter.to_python(array.slice(1), hint), values[1:])
    assert converter.misfits(array, hint) is None


@settings(max_examples=rounds(100, 1000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(columns())
def test_conform_changes_nothing_that_fits(column: tuple[Any, list[Any]]) -> None:
    """A column that was made of the parameter's own type conforms to it unchanged, with the same hashes, in any chunking."""
    hint, values = column
    array = converter.to_array(values, hint, column="c")
    conformed = converter.conform(array, hint, name="c")
    chunked = pa.chunked_array([array.slice(0, 1), array.slice(1)])
    assert same(converter.to_python(conformed, hint), values)
    if values:
        assert hash_rows({"c": conformed}).equals(hash_rows({"c": converter.conform(chunked, hint, name="c")}))


@pytest.fixture(scope="module")
def lake() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@settings(max_examples=rounds(30, 300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(columns())
def test_through_delta(lake: str, column: tuple[Any, list[Any]]) -> None:
    """Values of any nested type come back from a Delta table equal, with the hashes and the schema they went with."""
    hint, values = column
    array = converter.to_array(values, hint, column="c")
    table = pa.Table.from_arrays([array], schema=pa.schema([converter.arrow_field("c", hint)]))
    uri = f"{lake}/{uuid.uuid4().hex}"
    delta.replace(uri, table.to_reader, where=None)
    source = DeltaSource(delta.open_table(uri))
    assert source.written_schema == table.schema
    found = pa.Table.from_batches(source.scan(["c"]), schema=source.schema)["c"]
    assert same(converter.to_python(found, hint), values)
    if values:
        assert hash_rows({"c": found}).equals(hash_rows({"c": array}))
