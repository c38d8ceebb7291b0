"""What a Ray cluster has to offer, and whether it is still there; asked by the process that sends it tasks."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError

_log = logging.getLogger(__name__)
_SLOTS_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 2.0
# The head of a cluster that keeps its state elsewhere may begin anew; after a minute without it, Ray ends this process.
_HEADLESS_SECONDS: Final = 30.0


class RayCluster:
    """The cluster that this process is connected to.

    Args:
        ray: the module, connected.
        options: of the tasks that will run there.
    """

    def __init__(self, ray: Any, options: Mapping[str, Any]) -> None:
        self._ray = ray
        self._wanted = _wanted(options)
        self._slots, self._until = 1, 0.0
        self._answered = time.monotonic()
        self._told = False
        self.is_gone = False
        self.is_by_client: bool = ray.util.client.ray.is_connected()
        """Whether it is spoken to through Ray Client, which knows no generators."""
        self._head = None if self.is_by_client else ray.get_runtime_context().gcs_address

    def slots(self) -> int:
        """Return how many tasks its nodes run at once; at least one. Looked up again now and then: clusters grow and shrink."""
        if time.monotonic() >= self._until and self._answers():  # else the question would hang
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            found = sum(slots_of(node, self._wanted) for node in nodes)
            if not found and not self._told:
                self._told = True
                _log.warning(
                    f"No node of the Ray cluster has what a task reserves ({_shown(self._wanted)}); rows wait until one does."
                )
            self._slots = max(1, found)
            self._until = time.monotonic() + _SLOTS_SECONDS
        return self._slots

    def look_again(self) -> None:
        """Have the nodes looked up at the next question: one was lost."""
        self._until, self._told = 0.0, False

    def refuse_gone(self, *, at_once: bool) -> None:
        """Raise where nobody leads the cluster any more; this process then disconnects, else Ray would end it after a minute.

        Args:
            at_once: whether something was lost already; else its head may be away for half a minute.

        Raises:
            ExecutorError: it is gone.
        """
        now = time.monotonic()
        if self._answers():
            self._answered = now
        elif at_once or now - self._answered > _HEADLESS_SECONDS:
            self.is_gone = True
            self._ray.shutdown()
            raise ExecutorError(
                "The Ray cluster is gone: its head does not answer. Everything finished before is kept; start it, and run again."
            )

    def _answers(self) -> bool:
        if self._head is None:
            return self._ray.is_initialized()
        host, _, port = self._head.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True


def slots_of(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return how many tasks that reserve so much a node runs at once."""
    return int(min((node.get(name, 0.0) / amount for name, amount in wanted.items()), default=node.get("CPU", 0.0)))


def _wanted(options: Mapping[str, Any]) -> dict[str, float]:
    named = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    return {name: amount for name, amount in named.items() if amount}


def _shown(wanted: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in wanted.items()) or "nothing"
