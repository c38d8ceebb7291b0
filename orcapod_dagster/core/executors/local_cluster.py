"""The local Ray cluster that steps share: the first process that wants one has it started, the others connect to it.

It belongs to none of them, so it stays when the first one ends, and its keeper ends it when all have ended, however they did.
Workers see environment, folder and Python of who had it started; so only processes that have the same share one.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.members import Members

_START_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.1
_LOG_CHARACTERS: Final = 1_000
_OF_SHELLS: Final = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES"})
"""Shells set these for each command anew."""
_BY_DEFAULT: Final = ("RAY_AUTH_MODE", "token")
"""Ray sets it where nobody says anything else, so whoever runs below a process that has used Ray has it."""


class _Own:
    """What this process is a member of: folder of a cluster → membership, until the process ends."""

    lock: Final = threading.Lock()
    memberships: Final = dict[Path, Members]()


class SharedCluster(NamedTuple):
    """Where a cluster is, and what it asks of who connects to it: `RAY_AUTH_MODE`, or None for nothing."""

    address: str
    auth_mode: str | None


def join_local_cluster(ray_version: str) -> SharedCluster:
    """Return the local cluster that this process shares, started where there is none; it is a member until it ends.

    Raises:
        ExecutorError: it cannot be started; shows what Ray said. Or others could say where it is.
    """
    folder = cluster_folder(ray_version)
    try:
        for one in (folder.parent, folder):
            _make_own(one)
        with _Own.lock, _door(folder):
            if folder not in _Own.memberships:
                members = Members(folder / "members")
                members.enter()
                _Own.memberships[folder] = members
            return _standing(folder) or _started(folder)
    except OSError as error:
        raise ExecutorError(
            f"{folder}, by which processes share a local Ray cluster, cannot be used: {error.strerror}. Remove it, make room, or name "
            "another folder for temporary files (TMPDIR); or give ray_address."
        ) from error


@functools.cache
def cluster_folder(ray_version: str) -> Path:
    """Return what stands for the cluster of processes like this one, of this user; the same however this one changes."""
    environment = sorted(one for one in os.environ.items() if one[0] not in _OF_SHELLS and one != _BY_DEFAULT)
    alike = [ray_version, sys.executable, sys.version, str(Path.cwd()), environment]
    digest = hashlib.blake2b(json.dumps(alike).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"orcapod-ray-{os.getuid()}" / digest


def _make_own(folder: Path) -> None:
    """Make a folder that this user alone can write to, where there is none yet: who writes there says to which cluster code is sent.

    Raises:
        ExecutorError: the one that is there is another's, is open to others, or is none.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    wrong = {
        "is no folder but leads elsewhere, or is a file": not stat.S_ISDIR(found.st_mode),
        f"belongs to user {found.st_uid}, not to {os.geteuid()}": found.st_uid != os.geteuid(),
        f"may be written to by others (mode {stat.S_IMODE(found.st_mode):o})": found.st_mode & 0o022,
    }
    if why := next((text for text, is_so in wrong.items() if is_so), ""):
        raise ExecutorError(
            f"{folder}, by which processes of this user share a local Ray cluster, {why}: somebody else could name another cluster there. "
            "Remove it, or name another folder for temporary files (TMPDIR); or give ray_address."
        )


@contextmanager
def _door(folder: Path) -> Generator[None, None, None]:
    """Hold the lock under which a cluster is joined, started and closed."""
    with (folder / "door").open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def _standing(folder: Path) -> SharedCluster | None:
    """Return the cluster, where its keeper lives."""
    with (folder / "keeper").open("a") as keeper:
        try:
            fcntl.flock(keeper, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            with suppress(FileNotFoundError):
                return SharedCluster(**json.loads((folder / "address").read_text()))
    return None


def _started(folder: Path) -> SharedCluster:
    address = folder / "address"
    address.unlink(missing_ok=True)  # of a keeper that was killed
    with (folder / "log").open("w") as log:
        keeper = subprocess.Popen(  # noqa: S603  # this interpreter, with our own script
            # Without the script's folder, in which there is a module `ray` that is not Ray.
            [sys.executable, "-P", str(Path(__file__).with_name("ray_keeper.py")), str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + _START_SECONDS
    while keeper.poll() is None and time.monotonic() < until:
        if address.exists():
            return SharedCluster(**json.loads(address.read_text()))
        time.sleep(_LOOK_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(keeper.pid, signal.SIGKILL)
    said = (folder / "log").read_text(errors="replace")[-_LOG_CHARACTERS:]
    raise ExecutorError(
        f"A local Ray cluster could not be started within {_START_SECONDS:.0f} s. Ray said, at the end:\n{said}\nMend that, or start one "
        "(`ray start --head`) and give its address as ray_address."
    )
