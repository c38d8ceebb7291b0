"""Failures of packet assets: tried again, stopped at, kept from, told of, and read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from orcapod_dagster import (
    PacketRetry,
    SkipPacket,
    build_failure_checks,
    packet_asset,
    packet_resources,
    read_failures,
)
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
        ({"packet_retry": True}, "packet_retry=True"),
        ({"packet_retry": {"attempts": "3"}}, "attempts='3'"),
        ({"retry_failed": "never"}, "retry_failed='never'"),
        *(({"time_limit": value}, "time_limit=") for value in ("5", True, 0, -1, math.nan, math.inf)),
        *(({"capture": value}, "capture=") for value in ("100", None, 2.5, math.nan, -1)),
        *(({"max_failures": value}, "max_failures=") for value in ("3", True, -1, math.nan, math.inf)),
        *(({"max_concurrency": value}, "max_concurrency=") for value in ("3", True, False, 0, 1.5, math.nan)),
        *(({"rate_limit": value}, "rate_limit=") for value in (10, True, "10", "9" * 400 + "/s")),
        *(({option: 3}, f"{option}=3") for option in ("params", "rename", "executor_options", "match", "on_error")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_options_that_cannot_be_right(options: dict[str, Any], says: str) -> None:
    """An option that is none is refused when the asset is defined, by its name and that of the asset."""

    async def failing(x: int) -> int:
        return x

    with pytest.raises(DefinitionError, match=says) as found:
        asset_of(failing, **options)
    assert re.match("packet asset .*'failing'", str(found.value))


@pytest.mark.parametrize("options", [{"batch": "no"}, {"batch": True, "batch_size": True}, {"batch": True, "batch_size": "3"}, {"batch": True, "batch_size": 2.5}, {"version": 1}])  # fmt: skip
def test_options_of_the_function_that_cannot_be_right(options: dict[str, Any]) -> None:
    """An option that is one of the packet function is refused by its name and that of the function."""

    def failing(x: list[int]) -> list[int]:
        return x

    with pytest.raises(DefinitionError, match=f"function 'failing': {[*options][-1]}="):
        asset_of(failing, **options)


def test_one_column_may_be_carried_as_it_is() -> None:
    """`carry` takes one name, as `tag_columns` does."""

    def one(x: int) -> int:
        return x

    asset = packet_asset(one, inputs="rows", tag_columns="subject", output_keys="y", carry="site")
    assert (asset.packet_asset_spec.tag_columns, asset.packet_asset_spec.carry) == (("subject",), ("site",))


@dg.asset(name="numbers")
def many_numbers() -> pa.Table:
    return pa.table({"subject": [f"s{x}" for x in range(500)], "x": list(range(500))})


def test_a_run_that_stops(tmp_path: Path) -> None:
    """A run whose first packets all fail alike stops, with `on_error="continue"` too; the error has tags and the line for the desk."""

    def hopeless(x: int) -> int:
        raise PermissionError("no key")

    asset = asset_of(hopeless, many_numbers, on_error="continue", max_failures=30)
    with pytest.raises(
        TooManyFailuresError,
        match=r"(?s)[0-9]+ of the [0-9]+ packets that were called failed.*'s0'.*no key.*Traceback.*call .*failing",
    ) as found:
        run(tmp_path, asset, many_numbers)
    assert not (tmp_path / "failing").exists()
    assert str(found.value).count("Traceback") == 3


FAILURES_NOW = """
WITH latest AS (
  SELECT *, row_number() OVER (PARTITION BY __input_packet_hash, __pf_var_function_content_hash ORDER BY __pod_ts DESC) AS n
  FROM outcomes
)
SELECT tag['subject'] AS subject, error_type, message, attempts, __pf_exec_extra_info['run_id'] AS run_id
FROM latest LEFT ANTI JOIN results
  ON latest.__input_packet_hash = results.__input_packet_hash
  AND latest.__pf_var_function_content_hash = results.__pf_var_function_content_hash
WHERE n = 1 AND state = 'FAILED'
ORDER BY subject
"""


def test_failures_are_read(tmp_path: Path) -> None:
    """Failures are read with their tags, by Python and by SQL; those that a result superseded are no longer current."""
    away = tmp_path / "away"
    away.touch()
    switch = str(away)

    def breaks(x: int) -> int:
        if x == 1 or (x == 2 and Path(switch).exists()):
            raise ConnectionError(f"no {x}")
        if x == 3:
            raise SkipPacket
        return x

    root, asset = (
        str(tmp_path / "lake"),
        asset_of(breaks, on_error="continue", packet_retry={"attempts": 2, "delay": 0}),
    )
    assert read_failures(asset, root).num_rows == 0
    first = run(Path(root), asset)
    found = read_failures(asset, root)
    assert sorted((dict(row["tag"])["subject"], row["message"], row["attempts"]) for row in found.to_pylist()) == [
        ("b", "no 1", 2),
        ("c", "no 2", 2),
    ]
    assert set(found["run_id"].to_pylist()) == {first.run_id}
    away.unlink()
    second = run(Path(root), asset)
    (row,) = read_failures(asset, root).to_pylist()
    assert (dict(row["tag"]), row["error_type"], row["run_id"]) == ({"subject": "b"}, "ConnectionError", second.run_id)
    assert "Traceback" in row["traceback"]
    assert {"OSError", "Exception"} < set(row["error_kinds"])
    every = read_failures(asset, root, current=False)
    assert every["current"].to_pylist() == [True, False, False]
    assert every["time"].to_pylist() == sorted(every["time"].to_pylist(), reverse=True)
    assert read_failures(asset, root, current=False, tag={"subject": "c"})["message"].to_pylist() == ["no 2"]
    assert read_failures(asset, root, current=False, run_id=first.run_id).num_rows == 2
    query = QueryBuilder()
    for name in ("outcomes", "results"):
        (log,) = Path(root, ".orcapod", name).rglob("_delta_log")
        query = query.register(name, DeltaTable(str(log.parent)))
    told = pa.table(query.execute(FAILURES_NOW).read_all()).to_pylist()
    assert told == [
        {
            "subject": "b",
            "error_type": "ConnectionError",
            "message": "no 1",
            "attempts": 2,
            "run_id": second.run_id,
        }
    ]
    assert FAILURES_NOW in (Path(__file__).parent.parent / "docs" / "failures.md").read_text()


def test_the_check_of_failures(tmp_path: Path) -> None:
    """The check tells the failed packets of the present input, and passes where there are none, also when the row is gone."""

    def breaks(x: int) -> int:
        if x == 1:
            raise ValueError("one")
        return x

    asset = asset_of(breaks, on_error="continue")
    checks = build_failure_checks(assets=[asset], severity=dg.AssetCheckSeverity.ERROR)
    resources = packet_resources(str(tmp_path), as_default=True)

    def evaluated(upstream: Any) -> Any:
        done = dg.materialize([upstream, asset, *checks], resources=resources)
        (found,) = done.get_asset_check_evaluations()
        return found

    failed = evaluated(numbers)
    assert (failed.passed, failed.severity, failed.description) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        "1 of 4 packets have failed.",
    )
    (record,) = failed.metadata["orcapod/failures"].records
    assert (record.data["tag"], record.data["error"], record.data["attempts"]) == ("subject=b", "ValueError: one", 1)
    assert failed.metadata["orcapod/failed_because"].value == {"ValueError": 1}

    @dg.asset(name="numbers")
    def fewer() -> pa.Table:
        return pa.table({"subject": ["a", "c"], "x": [0, 2]})

    passed = evaluated(fewer)
    assert (passed.passed, passed.description) == (True, "No packet has failed.")
    with pytest.raises(DefinitionError, match="no packet asset"):
        build_failure_checks(assets=[numbers])
