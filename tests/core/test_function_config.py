"""Packet functions as JSON: what is told of them, and what they are when they are read again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orcapod_dagster.core import (
    CachedPacketFunction,
    InMemoryArrowDatabase,
    Packet,
    PacketFunctionProxy,
    PythonPacketFunction,
    ResultCache,
)
from orcapod_dagster.core.errors import DefinitionError, UnboundFunctionError
from orcapod_dagster.core.identity import EnvironmentVariable

TABLE = {"a": 1}


def helper(x: float) -> float:
    return x + 1


def work(x: float) -> float:
    return helper(x)


def unhinted(x):
    return x


def rebuilt(function: Callable[..., Any] = work, **options: Any) -> tuple[PythonPacketFunction, PythonPacketFunction]:
    """Return a packet function, and what comes back of its configuration through JSON."""
    made = PythonPacketFunction(function, "y", **options)
    return made, PythonPacketFunction.from_config(json.loads(json.dumps(made.to_config())))


@pytest.mark.parametrize(
    "options",
    [
        {"depends_on": {"model": Path(__file__), "MODE": EnvironmentVariable("MODE")}},
        {"depends_on": {"table": [1, 2.5, None, {"a": "b"}]}},
        {"depends_on": [helper, Path(__file__), EnvironmentVariable("MODE"), json, "text"]},
        {"ignore": ["helper"]},
        {"own_code": ["pytest", json]},
        {"formerly": ["before", "earlier"]},
    ],
    ids=lambda options: str(list(options)),
)
def test_declarations_are_carried(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is rebuilt from its configuration has the declarations, and so the hashes, of the first."""
    monkeypatch.setenv("MODE", "fast")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, again = rebuilt(**options)
        assert again.get_function_variation_data() == made.get_function_variation_data()
        assert again.formerly == made.formerly
        plain = PythonPacketFunction(work, "y").get_function_variation_data()
        assert (made.get_function_variation_data() == plain) is (
            "depends_on" not in options and "ignore" not in options
        )


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, float("nan"), 3 + 4j, lambda x: x, {"deep": [(1,)]}])
def test_what_json_does_not_carry_is_refused(value: Any) -> None:
    """A declaration that would come back as another value makes no other function: it is refused by name."""
    with pytest.raises(
        DefinitionError, match=r"'work': depends_on 'table' is a builtins\.\w+, which JSON does not carry"
    ):
        rebuilt(depends_on={"table": value})


def test_a_configuration_of_an_earlier_release_is_read() -> None:
    """A configuration that tells of no declarations is one without."""
    config = PythonPacketFunction(work, "y").to_config()
    for key in ("own_code", "depends_on", "ignore", "formerly"):
        del config[key]
    assert PythonPacketFunction.from_config(config).uri == tuple(config["uri"])


def test_another_output_type_is_refused() -> None:
    """Schemas that were given are not carried; a function that would have other columns without them is refused."""
    with pytest.raises(DefinitionError, match="its output types, or schemas that were given"):
        rebuilt(output_schema={"y": str})


def test_what_was_declared_and_is_gone_is_named() -> None:
    """A declared function that cannot be imported here is named."""
    config = PythonPacketFunction(work, "y", depends_on=[helper]).to_config()
    config["depends_on"][0]["qualname"] = "gone"
    with pytest.raises(DefinitionError, match=r"'work': depends_on\[0\] cannot be imported here"):
        PythonPacketFunction.from_config(config)


async def work_async(x: int) -> int:
    return x


def work_batch(x: list[int]) -> list[int]:
    return x


@pytest.mark.parametrize(
    ("function", "options"), [(work_async, {"max_concurrency": 7}), (work_batch, {"batch": True, "batch_size": 3})]
)
def test_the_kind_is_carried(function: Callable[..., Any], options: dict[str, Any]) -> None:
    """How many packets run at a time, and how many a call gets, come back as they were declared."""
    made, again = rebuilt(function, **options)
    assert (again.max_concurrency, again.batch_size, again.uri) == (made.max_concurrency, made.batch_size, made.uri)
    assert {again.max_concurrency, again.batch_size} & set(options.values())


class Reading(NamedTuple):
    celsius: float
    note: str | None


def read(path: str, scale: float = 1.0) -> Reading:
    return Reading(scale, path)


def test_a_proxy_reads_results_of_a_function_that_is_not_here() -> None:
    """Identity and schemas come from the configuration, results are found by them; what needs the code names it."""
    real = PythonPacketFunction(read, ["reading"], version="v2.1")
    proxy = PacketFunctionProxy(json.loads(json.dumps(real.to_config())) | {"module": "gone"})
    assert (proxy.uri, proxy.canonical_function_name, proxy.version) == (real.uri, "read", "v2.1")
    assert proxy.output_keys == ("reading",)
    assert dict(proxy.input_packet_schema) == {"path": str, "scale": float}
    assert proxy.input_packet_schema.optional == {"scale"}
    assert list(proxy.output_packet_schema) == ["reading"]
    assert (len(proxy.get_function_variation_data_schema()), len(proxy.get_execution_data_schema())) == (0, 0)
    database = InMemoryArrowDatabase()
    CachedPacketFunction(real, database).call(Packet({"path": "a", "scale": 2.0}))
    found = ResultCache(database, proxy.uri).get_all_records()
    assert found is not None
    assert found["reading"].to_pylist() == [{"celsius": 2.0, "note": "a"}]
    for use in (lambda: proxy("a"), lambda: proxy.call(Packet({"path": "a"})), lambda: proxy.executor):
        with pytest.raises(UnboundFunctionError, match=r"'read' is not bound here.*'gone'"):
            use()
    proxy.bind(real)
    assert proxy.input_packet_schema == real.input_packet_schema
    assert proxy("b", scale=3.0) == Reading(3.0, "b")


def test_a_proxy_names_what_its_configuration_lacks() -> None:
    """A configuration that says nothing of schemas is refused, by the name of the function and of what is missing."""
    config = PythonPacketFunction(work, "y").to_config()
    del config["output_schema"]
    with pytest.raises(DefinitionError, match="'work' has no output_schema"):
        PacketFunctionProxy(config)


def test_a_proxy_refuses_another_function() -> None:
    """A function of another identity is not bound."""
    proxy = PacketFunctionProxy(PythonPacketFunction(work, "y").to_config())
    with pytest.raises(DefinitionError, match="Bind the same one"):
        proxy.bind(PythonPacketFunction(work, "z"))
