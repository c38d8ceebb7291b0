"""Campaign: runs on each executor are ended at random moments, by Ctrl-C, SIGTERM, Dagster's cancel, and SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from campaigns import long_param, rounds

from faults.harness import check_results, check_squares, say, table_of

pytestmark = pytest.mark.slow

ROWS = 200
SCRIPT = Path(__file__).with_name("cancelled.py")
STORED_SECONDS = 10.0
"""Within so long, what is computed is stored."""
LEAVE_SECONDS = 10.0
"""Within so long, the process is gone; one to two seconds are the interpreter's own end."""


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A cluster of its own, which outlives the runs; in a folder of its own, for Ray notes there which is this machine's."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    folder = Path("/tmp") / f"orcapod-cancel-{os.getpid()}"  # a short path, for sockets lie in it
    program = (
        "import sys, ray; c = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, "
        "configure_logging=False); print('at', c.address_info['gcs_address'], flush=True); sys.stdin.read()"
    )
    # Its token would be known to the processes that it starts alone.
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        yield next(line.split()[1] for line in head.stdout if line.startswith("at "))
        head.communicate()
    shutil.rmtree(folder, ignore_errors=True)


EXECUTORS = ["local", "pool", "ray"]
BY_SIGNAL = [signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
SHORT = [("local", signal.SIGTERM), ("pool", signal.SIGINT)]


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What says where the packets run, on the executor that the test names."""
    found = {"CANCELLED_ON": request.param, "CANCELLED_ROWS": str(ROWS), "PYTHONPATH": os.pathsep.join(sys.path)}
    if request.param == "ray":
        found["RAY_AUTH_MODE"] = "disabled"
        found["CANCELLED_RAY"] = request.getfixturevalue("ray_address")
    return found


def calls(root: Path, what: str) -> list[tuple[int, int]]:
    """Return process and packet of what packets noted."""
    path = root / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        (int(line.split()[0]), int(line.split()[2])) for line in lines if len(line.split()) == 3 and f" {what} " in line
    ]


def stored(root: Path) -> int:
    """Return how many results were reported durable."""
    path = root / "acknowledged"
    return sum(line.count(",") + 1 for line in path.read_text().splitlines()) if path.exists() else 0


def running(pids: set[int]) -> set[int]:
    """Return which of these processes are there, and no zombies; one may go while it is looked at."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(pid)
    return found


def run(root: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run in a process."""
    root.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, **environment, "CANCELLED_ROOT": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=(root / "errors").open("ab"),
    )


def wait_for_some(
    root: Path, process: subprocess.Popen[bytes] | None, pick: random.Random, *, before: int = ROWS
) -> None:
    """Wait until a random number of packets was begun, and some milliseconds more; or until it is over."""
    begun = pick.randrange(1, before)
    first = len(calls(root, "begins"))
    deadline = time.monotonic() + 120
    while len(calls(root, "begins")) - first < begun:
        if process is not None and process.poll() is not None:
            return
        assert time.monotonic() < deadline, "no packet begins"
        time.sleep(0.01)
    time.sleep(pick.uniform(0, 0.05))


def check_stored(root: Path, since: float) -> None:
    """Hold the last results against when they had to be stored; `since` is of `time.time`."""
    path = root / "acknowledged"
    assert not path.exists() or path.stat().st_mtime - since < STORED_SECONDS


def may_lose(environment: dict[str, str]) -> int:
    """Return how many finished packets may have no result after an interrupt."""
    # In the run's own process, one that had said that it ends and had not returned; of each of two workers, on a machine too busy for an
    # answer within two seconds, a slice of rows.
    return 1 if environment["CANCELLED_ON"] == "local" else 120


def check_left(root: Path, at_most: int) -> int:
    """Hold what is left against what was promised; return how many finished packets have no result."""
    pids = {pid for pid, _ in calls(root, "begins")}
    deadline = time.monotonic() + LEAVE_SECONDS
    while running(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(pids), "a worker goes on"
    check_results([root / "acknowledged"], one_writer=True)
    lost = len({x for _, x in calls(root, "ends")}) - stored(root)
    assert lost <= at_most, f"{lost} finished packets have no result"
    return lost


def complete(root: Path, environment: dict[str, str], *, by: signal.Signals = signal.SIGTERM) -> None:
    """Run without an interruption: it ends as if there had been none, and nothing that was durable is computed again."""
    assert run(root, environment).wait(300) == 0, (root / "errors").read_text()[-3000:]
    check_results([root / "acknowledged"], one_writer=True)
    (results,) = (root / "lake" / ".orcapod" / "results").glob("square/*/*/*")
    assert table_of(results).num_rows == ROWS
    # Who is killed between a commit and its note has made durable what nobody was told of.
    assert stored(root) <= ROWS if by == signal.SIGKILL else stored(root) == ROWS
    check_squares(root, ROWS)


@pytest.mark.parametrize(
    ("environment", "by"),
    [
        (pytest.param if (on, by) in SHORT else long_param)(on, by, id=f"{on}-{by.name}")
        for on in EXECUTORS
        for by in BY_SIGNAL
    ],
    indirect=["environment"],
)
def test_signals(tmp_path: Path, environment: dict[str, str], by: signal.Signals) -> None:
    """What is finished is stored within 10 s, no process is left, and no durable result is computed again."""
    pick = random.Random(by)
    lost, seconds = [], []
    interrupted = 0
    for number in range(rounds(1, 20)):
        root = tmp_path / str(number // 4)
        process = run(root, environment)
        wait_for_some(root, process, pick)
        began, since = time.monotonic(), time.time()
        process.send_signal(by)
        interrupted += process.wait(60) != 0
        seconds.append(time.monotonic() - began)
        check_stored(root, since)
        assert seconds[-1] < LEAVE_SECONDS
        lost.append(check_left(root, ROWS if by == signal.SIGKILL else may_lose(environment)))
        if number % 4 == 3 or number == rounds(1, 20) - 1:
            complete(root, environment, by=by)
    assert interrupted, "each run was over before it was ended"
    say(
        f"{environment['CANCELLED_ON']}, {by.name}: {len(lost)} times, gone after {max(seconds):.1f} s at most; finished and not stored: "
        f"{max(lost)} packets at most, {sum(lost)} in all"
    )


LAUNCH = """
mutation Launch($location: String!) { launchRun(executionParams: {runConfigData: {}, mode: "default", selector: {
  repositoryLocationName: $location, repositoryName: "__repository__", jobName: "__ASSET_JOB"}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
TERMINATE = """
mutation Terminate($run: String!) { terminateRun(runId: $run) {
    __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }
"""
STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
ENDED = {"CANCELED", "FAILURE", "SUCCESS"}
# By default runs wait in a queue for Dagster's daemon.
DAGSTER_YAML = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""


class Webserver:
    """The server of the Dagster UI; the UI does what is done here."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        root.mkdir()
        (root / "dagster.yaml").write_text(DAGSTER_YAML)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        program = [
            sys.executable,
            "-m",
            "dagster_webserver",
            "-f",
            str(SCRIPT),
            "-h",
            "127.0.0.1",
            "-p",
            str(self._port),
        ]
        self._process = subprocess.Popen(
            program,
            env={**os.environ, **environment, "CANCELLED_ROOT": str(root), "DAGSTER_HOME": str(root)},
            stdout=(root / "server").open("wb"),
            stderr=subprocess.STDOUT,
            cwd=root,
        )

    def ask(self, query: str, **variables: str) -> dict[str, Any]:
        """Return the one answer to a query; waits for the server to be there."""
        data = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", data, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    (found,) = json.load(answer)["data"].values()
                    return found
            except urllib.error.HTTPError as error:
                raise AssertionError(error.read().decode()) from error
            except urllib.error.URLError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)


def cancelled_after(server: Webserver, root: Path, pick: random.Random) -> float:
    """Launch a run and terminate it at a random moment; return after how many seconds it counts as cancelled."""
    launched = server.ask(LAUNCH, location=SCRIPT.name)
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    wait_for_some(root, None, pick, before=ROWS // 2)  # it must not be over when the request comes
    began, since = time.monotonic(), time.time()
    ended = server.ask(TERMINATE, run=run_id)
    assert ended["__typename"] == "TerminateRunSuccess", ended
    while (status := server.ask(STATUS, run=run_id)["status"]) not in ENDED and time.monotonic() - began < 60:
        time.sleep(0.1)
    assert status == "CANCELED"
    seconds = time.monotonic() - began
    assert seconds < LEAVE_SECONDS
    check_stored(root, since)
    return seconds


@pytest.mark.parametrize("environment", [long_param(on, id=on) for on in EXECUTORS], indirect=True)
def test_dagsters_cancel(tmp_path: Path, environment: dict[str, str]) -> None:
    """A run that is terminated as the UI does it is cancelled, with the same promises."""
    pick = random.Random(4)
    lost, seconds = [], []
    root = tmp_path / "home"
    with Webserver(root, environment) as server:
        for _ in range(rounds(1, 20)):
            seconds.append(cancelled_after(server, root, pick))
            lost.append(check_left(root, may_lose(environment)))
            complete(root, environment)
            for name in ("lake", "calls", "acknowledged"):
                path = root / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    say(
        f"{environment['CANCELLED_ON']}, Dagster's cancel: {len(lost)} times, over after {max(seconds):.1f} s at most; finished and not "
        f"stored: {max(lost)} packets at most, {sum(lost)} in all"
    )
