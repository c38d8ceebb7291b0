"""RayShare: steps that run at once on a Ray cluster know of one another, so that none holds all of it for hours."""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final, Self

from orcapod_dagster.core.executors.ray_cluster import RayCluster

_NAMESPACE: Final = "orcapod_dagster"
_PREFIX: Final = "step:"
_BEAT_SECONDS: Final = 2.0
_GONE_SECONDS: Final = 15.0
"""A step whose mark stays the same for so long is taken for gone."""


class RayShare:
    """A member of the steps that run at once on a cluster; tells how many workers it may hold now.

    Each member renews a mark in the key-value store of the cluster; what is not renewed is of a process that is gone. So there is no
    process of ours on the cluster, and nothing to clean up. A step that only sends tasks is a member so that others count it. The
    store is asked in a thread: questions to a cluster whose head is gone would hang.

    Args:
        cluster: what it has to offer. options: of one task or actor.
    """

    def __init__(self, cluster: RayCluster, options: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._wants = _scarce(options)
        self._key = f"{_PREFIX}{uuid.uuid4().hex}"
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._left = threading.Event()
        self._looked = threading.Event()
        self._members = 1
        self._beats = 0
        self._store: Any = importlib.import_module("ray.experimental.internal_kv")
        threading.Thread(target=self._renew, name="orcapod-ray-share", daemon=True).start()

    def share(self) -> int:
        """Return how many workers this member may hold, as of some seconds ago; at least one."""
        self._looked.wait(_BEAT_SECONDS)
        return max(1, self._cluster.slots() // self._members)

    def close(self) -> None:
        """Leave; the others get this member's share."""
        self._left.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _renew(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # of a cluster that is gone, whoever runs tasks there tells
                self._beat()
                self._members = self._count()
            self._looked.set()
            if self._left.wait(_BEAT_SECONDS):
                break
        with contextlib.suppress(Exception):
            self._store._internal_kv_del(self._key, namespace=_NAMESPACE)  # Ray has no public name for it

    def _beat(self) -> None:
        self._beats += 1
        mark = json.dumps({"wants": sorted(self._wants), "beat": self._beats})
        self._store._internal_kv_put(self._key, mark, namespace=_NAMESPACE)

    def _count(self) -> int:
        """Return how many members want what this one wants, itself among them."""
        now, count = time.monotonic(), 1
        for raw in self._store._internal_kv_list(_PREFIX, namespace=_NAMESPACE):
            key = raw.decode()
            mark = self._store._internal_kv_get(key, namespace=_NAMESPACE)
            if key == self._key or mark is None:
                continue
            # By the clock of this process alone: those of machines differ.
            if self._seen.get(key, (b"", 0.0))[0] != mark:
                self._seen[key] = (mark, now)
            if now - self._seen[key][1] > _GONE_SECONDS:
                self._store._internal_kv_del(key, namespace=_NAMESPACE)
            else:
                count += not self._wants.isdisjoint(json.loads(mark)["wants"])
        return count


def _scarce(options: Mapping[str, Any]) -> frozenset[str]:
    """Return the resources that decide how many workers find a place: GPUs and the user's own, where some are asked for, else CPUs."""
    own = {name for name, amount in (options.get("resources") or {}).items() if amount}
    return frozenset(own | ({"GPU"} if options.get("num_gpus") else set()) or {"CPU"})
