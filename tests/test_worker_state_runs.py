"""Worker state in runs of assets, in workers of the pool and of Ray: how often it is built, and what does not travel."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import time
import uuid
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_param
from deltalake import DeltaTable
from ray_clusters import small_cluster

from orcapod_dagster import (
    LocalExecutorResource,
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    packet_asset,
    packet_resources,
    per_worker,
)
from orcapod_dagster.core.errors import DefinitionError, WorkerStateError
from orcapod_dagster.core.executors import late_imports, process_pool, ray_payload
from orcapod_dagster.desk import packet_row

# The notes of these tests tell processes apart by their ids, which the warning names; once in a process, in whatever test comes first.
pytestmark = pytest.mark.filterwarnings("ignore::orcapod_dagster.core.identity.UnhashableDependencyWarning")

PACKETS = int(os.environ.get("ORCAPOD_STATE_PACKETS", "10000"))
SET_UP_SECONDS = float(os.environ.get("ORCAPOD_STATE_SECONDS", "0.3"))
"""The long form: 2 seconds."""
SECRET = f"s3cr3t-{uuid.uuid4().hex}"
VARIABLE = "ORCAPOD_TEST_API_KEY"


@pytest.fixture(scope="module", autouse=True)
def secret() -> Iterator[None]:
    """The environment of this process, and so of all workers that it starts, has the secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, SECRET)
        yield


@pytest.fixture(scope="module")
def cluster(secret: None) -> Iterator[None]:  # the workers inherit it
    with small_cluster(3):
        yield


@pytest.fixture(params=["pool", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PacketExecutorResource:
    if request.param == "pool":
        # Steps of other tests, which may run at the same time, take no worker from those of these.
        request.getfixturevalue("monkeypatch").setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("own")))
        return ProcessPoolExecutorResource(max_workers=3)
    request.getfixturevalue("cluster")
    return RayExecutorResource(num_cpus=1)


def materialize(asset: Any, lake: Path, executor: PacketExecutorResource, rows: int, **options: Any) -> dict[str, Any]:
    """Run `numbers` and the asset, and return what the materialization of the asset shows."""

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    resources = {**packet_resources(str(lake), executor), **options.pop("resources", {})}
    result = dg.materialize([numbers, asset], resources=resources, **options)
    (event,) = result.asset_materializations_for_node(asset.op.name)
    return {name: value.value for name, value in event.metadata.items()}


def note(folder: str, what: str) -> None:
    """Note that something happened in this process."""
    (Path(folder) / f"{what}.{os.getpid()}.{uuid.uuid4().hex}").touch()


def noted(folder: Path, what: str) -> list[str]:
    """Return the processes in which it happened, one entry each time."""
    return sorted(path.name.split(".")[1] for path in folder.glob(f"{what}.*"))


# ---------------------------------------------------------------------------- how often


def test_one_set_up_per_worker(executor: PacketExecutorResource, tmp_path: Path) -> None:
    """10,000 packets on 3 workers take 3 set-ups and 3 tear-downs; the second run, with everything cached, takes none."""
    notes = tmp_path / "notes"
    notes.mkdir()
    folder, seconds = str(notes), SET_UP_SECONDS

    def load() -> Generator[int, None, None]:
        time.sleep(seconds)
        note(folder, "up")
        yield 3
        note(folder, "down")

    def triple(x: int, *, model: int) -> int:
        time.sleep(0.001)
        return model * x

    asset = packet_asset(
        triple, inputs="numbers", tag_columns=["id"], output_keys=["y"],
        params={"model": per_worker(load, identity="v3")},
    )  # fmt: skip
    shown = materialize(asset, tmp_path / "lake", executor, PACKETS)
    assert shown["orcapod/packets_computed"] == PACKETS
    up = noted(notes, "up")
    assert len(up) == len(set(up)) == 3
    assert noted(notes, "down") == up
    table = DeltaTable(str(tmp_path / "lake" / "triple")).to_pyarrow_table()
    assert table["y"].to_pylist() == [3 * x for x in table["id"].to_pylist()]
    assert "model" not in table.column_names
    shown = materialize(asset, tmp_path / "lake", executor, PACKETS)
    assert shown["orcapod/packets_cached"] == PACKETS
    assert noted(notes, "up") == up
    assert noted(notes, "down") == up


def test_a_failing_set_up_fails_the_step_alone(tmp_path: Path) -> None:
    """The step fails with its own error; no packet is on record as failed, and the next run computes them all."""
    broken = tmp_path / "broken"
    broken.touch()

    def load() -> int:
        if broken.exists():
            raise ConnectionError("the model server is away")
        return 3

    def triple(x: int, *, model: int) -> int:
        return model * x

    asset = packet_asset(
        triple, inputs="numbers", tag_columns=["id"], output_keys=["y"], params={"model": per_worker(load, identity=None)}
    )  # fmt: skip
    with pytest.raises(WorkerStateError, match="the model server is away"):
        materialize(asset, tmp_path / "lake", LocalExecutorResource(), 5)
    broken.unlink()
    shown = materialize(asset, tmp_path / "lake", LocalExecutorResource(), 5)
    assert shown["orcapod/packets_computed"] == 5
    assert dict(shown["orcapod/computed_because"]) == {"no earlier result": 5}


# ---------------------------------------------------------------------------- Dagster resources


class Token(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]  # gives itself
    value: str


class Client(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]
    api_key: str
    notes: str
    token: Token
    region: str = "eu"

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # as Dagster calls it
        note(self.notes, "up")

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        note(self.notes, "down")

    def digest(self, x: int) -> str:
        return hashlib.sha256(f"{self.api_key} {self.token.value} {self.region} {x}".encode()).hexdigest()


def sign(x: int, client: Client) -> str:
    return client.digest(x)


def sign_by_param(x: int, *, client: dg.ResourceParam[Client]) -> str:
    return client.digest(x)


def client_of(folder: Path, region: str = "eu") -> Client:
    folder.mkdir(exist_ok=True)
    key = dg.EnvVar(VARIABLE)
    return Client(api_key=key, notes=str(folder), token=Token(value=key), region=region)


def texts_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield all that the files of a folder hold, what databases hold compressed included."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield path, path.read_bytes()
        if path.suffix == ".db":
            with sqlite3.connect(path) as database:
                tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
                values = (
                    value for table in tables for row in database.execute(f'select * from "{table}"') for value in row
                )  # names of its own tables
                for value in values:
                    if isinstance(value, bytes):
                        yield path, zlib.decompress(value)


@pytest.mark.parametrize("function", [long_param(sign, id="sign"), sign_by_param])
def test_no_secret_travels(
    executor: PacketExecutorResource,
    function: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    capfd: Any,
) -> None:
    """A resource with a secret of the environment works in the worker; what is sent, stored and logged has its name alone."""
    sent: list[bytes] = []
    for module in (late_imports, process_pool, ray_payload):
        dumps = module.dumps
        monkeypatch.setattr(module, "dumps", lambda *given, dumps=dumps: sent.append(dumps(*given)) or sent[-1])
    notes = tmp_path / "notes"
    asset: Any = packet_asset(function, inputs="numbers", tag_columns=["id"], output_keys=["y"])
    assert "client" in asset.required_resource_keys
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        shown = materialize(
            asset, tmp_path / "lake", executor, 20, resources={"client": client_of(notes)}, instance=instance
        )
    table = DeltaTable(str(tmp_path / "lake" / function.__name__)).to_pyarrow_table()
    expected = {x: hashlib.sha256(f"{SECRET} {SECRET} eu {x}".encode()).hexdigest() for x in range(20)}
    assert dict(zip(table["id"].to_pylist(), table["y"].to_pylist(), strict=True)) == expected
    up = noted(notes, "up")
    assert up.count(str(os.getpid())) == 1  # Dagster's own, in the step
    assert set(up) - {str(os.getpid())}
    assert noted(notes, "down") == up
    out = "".join(capfd.readouterr()) + caplog.text + str(shown) + str(table.slice(0, 1).to_pylist())
    assert SECRET not in out
    assert sent
    assert any(VARIABLE.encode() in one for one in sent)
    assert not any(SECRET.encode() in one for one in sent)
    found = list(texts_of(tmp_path))
    assert any(path.name == "runs.db" for path, _ in found)
    assert [path for path, text in found if SECRET.encode() in text] == []


def test_the_configuration_of_a_resource_counts(tmp_path: Path) -> None:
    """Other configured values compute anew, and the report names which; `ignore` leaves one out; a secret's value is none."""
    notes, lake = tmp_path / "notes", tmp_path / "lake"

    def run(asset: Any, client: Client) -> dict[str, Any]:
        return materialize(asset, lake, LocalExecutorResource(), 3, resources={"client": client})

    def asset_of(**options: Any) -> Any:
        return packet_asset(sign, inputs="numbers", tag_columns=["id"], output_keys=["y"], **options)

    asset = asset_of(ignore=["client.notes"])
    assert run(asset, client_of(notes))["orcapod/packets_computed"] == 3
    assert run(asset, client_of(tmp_path / "elsewhere"))["orcapod/packets_cached"] == 3
    shown = run(asset, client_of(notes, "us"))
    assert shown["orcapod/packets_computed"] == 3
    assert "configuration client.region" in str(shown["orcapod/code_changes"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "another")
        assert run(asset, client_of(notes, "us"))["orcapod/packets_cached"] == 3


def test_run_config_completes_a_resource(tmp_path: Path) -> None:
    """What is configured at launch reaches the worker, and counts."""
    notes = tmp_path / "notes"
    notes.mkdir()
    asset = packet_asset(sign, inputs="numbers", tag_columns=["id"], output_keys=["y"])
    late = Client.configure_at_launch(notes=str(notes), token=Token(value="t"))  # no secret
    computed: list[int] = []
    for region in ("eu", "us", "us"):
        config = {"resources": {"client": {"config": {"api_key": {"env": VARIABLE}, "region": region}}}}
        shown = materialize(
            asset, tmp_path / "lake", ProcessPoolExecutorResource(max_workers=1), 2,
            resources={"client": late}, run_config=config,
        )  # fmt: skip
        computed.append(shown["orcapod/packets_computed"])
    assert computed == [2, 2, 0]
    table = DeltaTable(str(tmp_path / "lake" / "sign")).to_pyarrow_table()
    assert table["y"][0].as_py() == hashlib.sha256(f"{SECRET} t us {table['id'][0]}".encode()).hexdigest()


class Fake:
    """Stands in for a client in tests of a user."""

    def digest(self, x: int) -> str:
        return f"fake {x}"


def test_a_resource_that_cannot_travel(tmp_path: Path) -> None:
    """A plain object serves where it is, in this process, and at the desk; to send it to a worker is refused with a way out."""
    asset = packet_asset(sign_by_param, inputs="numbers", tag_columns=["id"], output_keys=["y"])
    materialize(asset, tmp_path / "lake", LocalExecutorResource(), 2, resources={"client": Fake()})
    table = DeltaTable(str(tmp_path / "lake" / "sign_by_param")).to_pyarrow_table()
    assert sorted(table["y"].to_pylist()) == ["fake 0", "fake 1"]
    assert asset(5, client=Fake()) == "fake 5"  # type: ignore[arg-type]  # as a test does
    row = packet_row(asset, tags={"id": 1}, root_uri=str(tmp_path / "lake"), resources={"client": Fake()})
    assert row.call() == "fake 1"
    with pytest.raises(DefinitionError, match=r"'client' is no ConfigurableResource.*per_worker"):
        materialize(asset, tmp_path / "other", ProcessPoolExecutorResource(), 2, resources={"client": Fake()})


def test_a_missing_resource_is_told_by_dagster(tmp_path: Path) -> None:
    """The asset requires the key that its parameter is called."""
    asset = packet_asset(sign, inputs="numbers", tag_columns=["id"], output_keys=["y"])
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="client"):
        materialize(asset, tmp_path / "lake", LocalExecutorResource(), 2)
