"""The keeper of a local Ray cluster: starts it, waits until nobody shares it any more, and ends it.

It is run as a script, by its path and without this package, for to import that takes longer than to start the cluster. Ray's
processes end with it, also when it is killed.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

IDLE_SECONDS: Final = 10.0
"""For so long a cluster without members goes on: the next step of a run often begins when the one before has ended."""
_LOOK_SECONDS: Final = 0.5


def keep(folder: Path, members: Any) -> None:
    """Keep a cluster for the processes that share a folder.

    Args:
        folder: `address` stands there while the cluster is to be had, as JSON; whoever holds the lock of `door` may come or close it.
        members: those who share it, `Members`.
    """
    with (folder / "keeper").open("a") as own:
        fcntl.flock(own, fcntl.LOCK_EX)  # the one before may be about to give it back
        ray: Any = importlib.import_module("ray")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
        address = folder / "address"
        unnamed = folder / ".address"
        # A cluster that Ray starts by itself asks for a token by default, as Ray then says in the environment.
        said = {"address": ray.get_runtime_context().gcs_address, "auth_mode": os.environ.get("RAY_AUTH_MODE")}
        unnamed.write_text(json.dumps(said))
        unnamed.rename(address)
        while not _closed(folder, members):
            _until_nobody_is_left(members)
    ray.shutdown()


def _until_nobody_is_left(members: Any) -> None:
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_SECONDS:
        time.sleep(_LOOK_SECONDS)
        if members.count():
            idle_since = time.monotonic()


def _closed(folder: Path, members: Any) -> bool:
    """Take the address away where nobody has come meanwhile."""
    with (folder / "door").open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        if members.count():
            return False
        (folder / "address").unlink(missing_ok=True)  # whoever cleans up temporary files may have been first
        return True


def _main(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("members", Path(__file__).with_name("members.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    keep(folder, module.Members(folder / "members"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
