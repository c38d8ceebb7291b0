"""Failures of packet assets: tried again, stopped at, kept from, told of, and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import PacketRetry, packet_asset, packet_resources
from orcapod_dagster.core.errors import DefinitionError, PacketFailuresError, TooManyFailuresError
from orcapod_dagster.desk import why


@dg.asset
def numbers() -> pa.Table:
    return pa.table({"subject": ["a", "b", "c", "d"], "x": [0, 1, 2, 3]})


def asset_of(function: Callable[..., Any], upstream: Any = numbers, **options: Any) -> Any:
    return packet_asset(
        function, inputs=upstream, tag_columns=["subject"], output_keys=["y"], name="failing", **options
    )


def run(
    root: Path, asset: Any, upstream: Any = numbers, *, config: dict[str, Any] | None = None, **lake: Any
) -> dg.ExecuteInProcessResult:
    resources = packet_resources(str(root), as_default=True, **lake)
    ops = {"ops": {"failing": {"config": config}}} if config else None
    return dg.materialize([upstream, asset], resources=resources, run_config=ops)


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("failing")
    return {key: value.value for key, value in event.metadata.items()}


def test_retries_of_an_asset(tmp_path: Path) -> None:
    """`packet_retry` of an asset calls a packet again within the run; the materialization says how often."""
    calls: list[int] = []

    def flaky(x: int) -> int:
        calls.append(x)
        if x == 2 and calls.count(2) < 3:
            raise ConnectionError("not yet")
        return x

    told = shown(run(tmp_path, asset_of(flaky, packet_retry={"attempts": 3, "delay": 0.01})))
    assert (told["orcapod/packets_computed"], told["orcapod/packets_failed"]) == (4, 0)
    assert told["orcapod/packets_tried_again"] == 2
    assert calls.count(2) == 3


def test_failures_that_are_not_tried_again(tmp_path: Path) -> None:
    """A failure that stands fails the next step, too, with its stored error, and nothing is called; a dry run and `why` say so."""
    called = str(tmp_path / "called")

    def breaks(x: int) -> int:
        if x == 1:
            with Path(called).open("a") as file:
                file.write("x")
            raise ValueError("broken for good")
        return x

    broken = asset_of(breaks)
    for _ in range(2):
        with pytest.raises(PacketFailuresError, match=r"(?s)subject.*'b'.*broken for good.*Traceback"):
            run(tmp_path, broken, retry_failed="changed")
    assert Path(called).read_text() == "x"
    dry = run(tmp_path, broken, config={"dry_run": True}, retry_failed="changed")
    (event,) = dry.asset_observations_for_node("failing")
    assert event.metadata["orcapod/packets_not_tried_again"].value == 1
    assert event.metadata["orcapod/would_compute"].value == 0
    resources = packet_resources(str(tmp_path), as_default=True, retry_failed="changed")
    definitions = dg.Definitions(assets=[numbers, broken], resources=resources)
    assert "not tried again" in why(definitions, "failing", tags={"subject": "b"}).next_run
    with pytest.raises(PacketFailuresError):
        run(tmp_path, asset_of(breaks, retry_failed="all"), retry_failed="changed")
    assert Path(called).read_text() == "xx"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"packet_retry": {"tries": 3}}, "tries"),
        ({"packet_retry": PacketRetry, "retry_failed": "all"}, "packet_retry"),
        ({"retry_failed": "never"}, "retry_failed='never'"),
    ],
    ids=["unknown", "class", "never"],
)
def test_options_that_cannot_be_right(options: dict[str, Any], says: str) -> None:
    """An option that is none is refused when the asset is defined, by its name."""

    def one(x: int) -> int:
        return x

    with pytest.raises(DefinitionError, match=says):
        asset_of(one, **options)


@dg.asset(name="numbers")
def many_numbers() -> pa.Table:
    return pa.table({"subject": [f"s{x}" for x in range(500)], "x": list(range(500))})


def test_a_run_that_stops(tmp_path: Path) -> None:
    """A run whose first packets all fail alike stops, with `on_error="continue"` too; the error has tags and the line for the desk."""

    def hopeless(x: int) -> int:
        raise PermissionError("no key")

    asset = asset_of(hopeless, many_numbers, on_error="continue", max_failures=30)
    with pytest.raises(
        TooManyFailuresError, match=r"(?s)500 of the 500 .*'s0'.*no key.*Traceback.*call .*failing"
    ) as found:
        run(tmp_path, asset, many_numbers)
    assert not (tmp_path / "failing").exists()
    assert str(found.value).count("Traceback") == 3
