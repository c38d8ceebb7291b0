"""The forms of packet functions: what their definitions say, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster import Blob
from orcapod_dagster.core import Packet, PythonPacketFunction
from orcapod_dagster.core.errors import DefinitionError


def double(x: list[float], name: Sequence[str]) -> list[tuple[float, str]]:
    return [(2 * value, text) for value, text in zip(x, name, strict=True)]


def test_a_batch_function_is_one_of_packets() -> None:
    """`list[T]` is a column of T on both sides, and one packet is computed as a batch of one, sync and async."""
    function = PythonPacketFunction(double, ["y", "text"], batch=True)
    assert dict(function.input_packet_schema) == {"x": float, "name": str}
    assert dict(function.output_packet_schema) == {"y": float, "text": str}
    packet = Packet({"x": 1.5, "name": "a"})
    assert function.call(packet).as_dict() == {"y": 3.0, "text": "a"}  # pyright: ignore[reportOptionalMemberAccess]  # active
    assert asyncio.run(function.async_call(packet)).as_dict() == {"y": 3.0, "text": "a"}  # pyright: ignore[reportOptionalMemberAccess]


def test_a_batch_function_of_arrow() -> None:
    """Parameters and results that are Arrow have their types from schemas that are given."""

    def add(x: pa.Array, y: pa.Array) -> pa.Table:
        import pyarrow.compute as pc

        return pa.table({"total": pc.add(x, y), "both": pc.and_(pc.greater(x, 0), pc.greater(y, 0))})

    function = PythonPacketFunction(
        add,
        ["both", "total"],
        batch=True,
        input_schema=pa.schema([("x", pa.int64()), ("y", pa.int64())]),
        output_schema={"both": bool | None, "total": int | None},
    )
    assert function.call(Packet({"x": 1, "y": 2})).as_dict() == {"both": True, "total": 3}  # pyright: ignore[reportOptionalMemberAccess]


def refuse_plain(x: float) -> list[float]:
    return [x]


def refuse_default(x: list[float], y: float = 1.0) -> list[float]:
    return x


def refuse_arrow(x: pa.Array) -> list[float]:
    return x.to_pylist()


def refuse_result(x: list[float]) -> float:
    return x[0]


def refuse_blob(x: list[float]) -> list[Blob]:
    return []


async def wait(x: list[float]) -> list[float]:
    return x


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (refuse_plain, {"batch": True}, "'x' of a batch function is declared <class 'float'>"),
        (refuse_default, {"batch": True}, "'y' of a batch function has a default"),
        (refuse_arrow, {"batch": True}, "Arrow array, whose type is not known. Give it: input_schema"),
        (refuse_result, {"batch": True}, "the result of a batch function is declared"),
        (refuse_blob, {"batch": True}, "declared Blob"),
        (refuse_plain, {"batch_size": 3}, "Set batch=True"),
        (double, {"batch": True, "batch_size": 0}, "batch_size=0"),
        (refuse_plain, {"max_concurrency": 5}, "is for async functions"),
        (wait, {"max_concurrency": 0}, "max_concurrency=0"),
        (wait, {"batch": True, "max_concurrency": 5}, "takes batches"),
    ],
)
def test_what_is_refused(function: Any, options: dict[str, Any], said: str) -> None:
    """A definition that cannot be right is refused, and the error names what."""
    keys = ["y", "text"] if function is double else ["y"]
    with pytest.raises(DefinitionError, match=said):
        PythonPacketFunction(function, keys, **options)
