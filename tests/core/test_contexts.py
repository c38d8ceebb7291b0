"""Contexts: one row, as often as it is asked for."""

from __future__ import annotations

import pytest

from orcapod_dagster.core import Datagram, PythonPacketFunction
from orcapod_dagster.core.contexts import SLICE_ROWS, Context
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA


def double(x: int) -> int:
    return 2 * x


def test_a_context_has_as_many_equal_rows_as_are_asked_for() -> None:
    """Fewer or more than before, each is the one row, maps included; more than a slice are refused."""
    function = PythonPacketFunction(double, "y")
    execution = Datagram({**function.get_execution_data(), "extra_info": {"host": "a"}}, EXECUTION_DATA_SCHEMA)
    context = Context.of(Datagram(function.get_function_variation_data()), execution)
    (row,) = context.rows(1).to_pylist()
    assert row["__pf_exec_extra_info"] == [("host", "a")]
    for count in (3, 1, 20, 7, SLICE_ROWS, 0):
        assert context.rows(count).to_pylist() == [row] * count
    with pytest.raises(AssertionError):
        context.rows(SLICE_ROWS + 1)
