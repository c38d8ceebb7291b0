"""Rows of a function with worker state on Ray: by actors, one per slot, each of which builds the state once.

A step holds no more actors than its share of the cluster, as `RayShare` tells it; one that is over it is let go when its rows are
done. An actor that waits for a place gets its first rows at once, but they are taken back where others have nothing left to do.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors import ray_worker
from orcapod_dagster.core.executors.base import BatchResult, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.ray_run import RayRun
from orcapod_dagster.core.executors.ray_shares import RayShare
from orcapod_dagster.core.executors.set_ups import CANCEL_SECONDS, TEAR_DOWN_SECONDS, tell_tear_downs
from orcapod_dagster.core.executors.tasks import Partial, Piece

_DEPTH: Final = 2
"""Tasks that an actor has at a time, so that it need not wait for the next; one, as soon as a packet has ended a worker."""
_PATIENCE_SECONDS: Final = 3.0
"""How long the rows of an actor without a place wait for it where others have nothing to do."""
_LOOK_SECONDS: Final = 0.5
_CLUSTER_SECONDS: Final = 5.0
_INTERRUPT_SECONDS: Final = 3.0
_OF_TASKS: Final = frozenset({"max_retries", "retry_exceptions", "num_returns", "max_calls", "name"})
"""Options of Ray that a task takes and an actor does not, or that only one actor could have."""


class _Actor:
    """One actor, with the tasks that it was sent and that are not collected.

    Attributes:
        place: its node and process, once it has a place. is_set_up: whether its state is built, or could not be.
        leaves: whether it gets no more tasks.
        since: when it began with the first of its tasks, about, by `time.monotonic`.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.began = self.since = time.monotonic()
        self.place: tuple[str, int] | None = None
        self.is_set_up = self.leaves = False
        self.tasks: deque[Any] = deque()
        self.placed = handle.place.remote()
        self.set_up = handle.set_up.remote()


class ActorRun(RayRun):
    """The actors and tasks of one `run_rows`; an actor is made when there is a task for it; the arguments are those of `RayRun`."""

    def __init__(
        self,
        ray: Any,
        options: Mapping[str, Any],
        data: Mapping[str, Any],
        fn: Callable[..., Any],
        call_options: CallOptions,
    ) -> None:
        # Unlike a task, an actor without a number of CPUs would hold none while it runs.
        of_actors = {"num_cpus": 1, **{k: v for k, v in options.items() if k not in _OF_TASKS}, "max_restarts": 0}
        super().__init__(ray, of_actors, data, fn, call_options)
        self._share: RayShare | None = None
        self._actors: list[_Actor] = []
        self._closing: dict[Any, _Actor] = {}
        self._of_task: dict[Any, _Actor] = {}
        self._taken_back: set[Any] = set()
        self._next_look = 0.0
        # Ray Client knows no generators: there, what a task finishes comes at its end.
        self._streams = self._at_once > 1 and not self._cluster.is_by_client
        self._depth = 1 if self._streams else _DEPTH

    def results(self, batches: Iterable[RowBatch]) -> Iterator[BatchResult]:
        """Start with the first row that is asked for, and leave no actor behind."""
        with RayShare(self._cluster, self._options) as self._share:
            yield from super().results(batches)

    # ------------------------------------------------------------------ actors

    def _slots(self) -> int:
        assert self._share is not None
        bound = self._share.share()
        staying = [actor for actor in self._actors if not actor.leaves]
        # Those without a place first, then those with the least to do.
        for actor in sorted(staying, key=lambda one: (one.place is not None, len(one.tasks)))[
            : max(0, len(staying) - bound)
        ]:
            self._let_go(actor)
        staying = [actor for actor in self._actors if not actor.leaves]
        there = sum(self._depth if actor.place else 1 for actor in staying)
        leaving = len(self._of_task) - sum(len(actor.tasks) for actor in staying)
        return there + max(0, bound - len(staying)) + leaving

    def _submit(self, piece: Piece) -> Hashable:
        assert self._share is not None
        rows = self._payload.dumps(piece.values())
        staying = [actor for actor in self._actors if not actor.leaves]
        idle = next((actor for actor in staying if actor.place and not actor.tasks), None)
        if idle is not None:
            actor = idle
        elif len(staying) < self._share.share():
            actor = self._new_actor()
        else:
            actor = min(staying, key=lambda one: (one.place is None, len(one.tasks)))
        run = actor.handle.run
        if self._streams:
            run = actor.handle.run_at_once.options(num_returns="streaming")
        task = run.remote(rows, self._seconds)
        if not actor.tasks:
            actor.since = time.monotonic()
        actor.tasks.append(task)
        self._of_task[task] = actor
        return task

    def _new_actor(self) -> _Actor:
        actor = _Actor(_actor_class().options(**self._options).remote([self._payload.reference]))
        self._actors.append(actor)
        return actor

    def _let_go(self, actor: _Actor) -> None:
        """Have an actor leave when its tasks are done; one without a place at once."""
        actor.leaves = True
        if actor.place is None:
            self._take_back(actor)
        elif not actor.tasks:
            self._dismiss(actor)

    def _take_back(self, actor: _Actor) -> None:
        """End an actor that has no place; its rows run elsewhere."""
        self._taken_back |= set(actor.tasks)
        self._forget(actor)
        self._ray.kill(actor.handle)

    def _dismiss(self, actor: _Actor) -> None:
        self._closing[actor.handle.close.remote()] = actor  # first, for an interrupt may come before the other
        self._forget(actor)

    def _forget(self, actor: _Actor) -> None:
        self._actors = [one for one in self._actors if one is not actor]

    # ------------------------------------------------------------------ waiting

    def _finished(self, running: Mapping[Any, Piece], seconds: float) -> Any:
        until = time.monotonic() + seconds
        while True:
            back = next((task for task in running if task in self._taken_back), None)
            if back is not None:
                return back
            left = min(_LOOK_SECONDS, until - time.monotonic())
            if left <= 0:
                return None
            placing = {actor.placed: actor for actor in self._actors if actor.place is None}
            setting_up = {actor.set_up: actor for actor in self._actors if actor.place and not actor.is_set_up}
            # Set-ups first, for where a worker dies with its rows it counts how long they ran.
            ready, _ = self._ray.wait([*setting_up, *running, *placing, *self._closing], num_returns=1, timeout=left)
            for one in ready:
                if one in running:
                    return one
                if one in placing:
                    self._is_placed(placing[one], running)
                elif one in setting_up:
                    setting_up[one].is_set_up, setting_up[one].since = True, time.monotonic()
                else:
                    self._closed(one)
            self._take_back_late()
            if not ready and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _CLUSTER_SECONDS
                self._cluster.refuse_gone(at_once=False)

    def _is_placed(self, actor: _Actor, running: Mapping[Any, Piece]) -> None:
        try:
            actor.place = self._ray.get(actor.placed)
        except self._ray.exceptions.RuntimeEnvSetupError as error:
            raise ExecutorError(
                f"Ray could not make the runtime_env of a worker: {self._reason(error)}. Everything finished before is kept; mend it, "
                "and run again."
            ) from self._cause(error)
        except self._worker_died:
            actor.place, actor.leaves = ("", 0), True  # it is dead; its tasks tell so, one after the other
            if not any(task in running for task in actor.tasks):
                self._forget(actor)

    def _take_back_late(self) -> None:
        """Take back the rows of actors that got no place, where others have nothing to do."""
        if not any(actor.place and not actor.tasks for actor in self._actors):
            return
        late = time.monotonic() - _PATIENCE_SECONDS
        for actor in [one for one in self._actors if one.place is None and one.began < late]:
            self._take_back(actor)

    def _closed(self, report: Any) -> None:
        """Tell of a tear-down that came to its end."""
        actor = self._closing.pop(report)
        try:
            tell_tear_downs(self._ray.get(report))
        except self._worker_died:
            pass  # it died, and its state with it
        except self._ray.exceptions.RayError as error:
            tell_tear_downs([f"A Ray worker ({actor.place}) could not tear down: {self._reason(error)}"])
        self._ray.kill(actor.handle)

    # ------------------------------------------------------------------ results

    def _collect(self, task: Any, piece: Piece) -> Partial | Sequence[BatchResult | Piece]:
        actor = self._of_task[task]
        if task in self._taken_back:
            self._taken_back.discard(task)
            del self._of_task[task]
            return piece.left()
        try:
            answer = self._ray.get(next(task) if self._streams else task)
        except Exception as error:  # noqa: BLE001  # looked through below, and raised as one of ours
            return self._instead(actor, task, piece, error)
        if not self._streams or not answer:
            self._done(actor, task)
        if not answer:
            raise KeyboardInterrupt("a row in a Ray actor was interrupted")
        result, more = self._unpacked(answer, piece)
        self._losses.clear()
        if more:
            return Partial(result)
        if self._streams:
            self._done(actor, task)
        return [result]

    def _done(self, actor: _Actor, task: Any) -> None:
        """Note that an actor is at its next task, if it has one."""
        actor.since = time.monotonic()
        actor.tasks.remove(task)
        del self._of_task[task]
        if actor.leaves and not actor.tasks:
            self._dismiss(actor)

    def _instead(self, actor: _Actor, task: Any, piece: Piece, error: Exception) -> Sequence[BatchResult | Piece]:
        """Return what to do about rows of which Ray gives an error.

        Raises:
            ExecutorError: nothing can be done.
        """
        self._cluster.refuse_gone(at_once=True)
        if isinstance(error, self._node_died):
            self._done(actor, task)
            self._count_loss(0, "a node of the cluster was lost that had the result of rows", error)
            return piece.left()
        if not isinstance(error, self._worker_died):
            raise self._lost(piece, error)
        del self._of_task[task]
        ran = self._was_running(actor, task)
        self._forget(actor)
        actor.tasks.remove(task)
        if not ran:
            return piece.left()
        # What else it was sent had not begun.
        self._taken_back |= set(actor.tasks)
        if not self._succeeded(actor.set_up):
            self._count_loss(0, "a worker ended before its state was built", error)
            return piece.left()
        if actor.place is not None and not self._is_alive(actor.place[0]):
            self._count_loss(0, "a node of the cluster was lost", error)
            return piece.left()
        # What a worker finished just before its death may not have come back, so of two tasks nobody could tell which one it was.
        self._depth = 1
        return self._after_death(piece, error, actor.since)

    def _is_alive(self, node: str) -> bool:
        return any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())

    def _was_running(self, actor: _Actor, task: Any) -> bool:
        """Tell whether an actor that died was at this task: all that it was sent before are done."""
        before = list(actor.tasks)[: list(actor.tasks).index(task)]
        return all(self._succeeded(one) for one in before)

    def _succeeded(self, reference: Any) -> bool:
        try:
            self._ray.get(reference, timeout=_INTERRUPT_SECONDS)
        except self._ray.exceptions.RayError:
            return False
        return True

    # ------------------------------------------------------------------ the end

    def _cancel(self) -> None:
        """Let the actors tear down, all at once; those in which a row still runs are interrupted, and have less time."""
        if self._cluster.is_gone or not self._ray.is_initialized():
            return
        actors, closing = self._actors, list(self._closing.values())
        there = [actor for actor in actors if actor.place is not None or self._succeeded_now(actor)]
        busy = [actor for actor in there if actor.tasks]
        try:
            if busy:
                self._interrupt(busy)
            self._closing |= {actor.handle.close.remote(): actor for actor in there if actor not in closing}
            self._await_tear_downs(CANCEL_SECONDS if busy else TEAR_DOWN_SECONDS)
        finally:
            for actor in (*actors, *self._closing.values()):
                self._ray.kill(actor.handle)

    def _succeeded_now(self, actor: _Actor) -> bool:
        ready, _ = self._ray.wait([actor.placed], timeout=0)
        if ready:
            with contextlib.suppress(self._ray.exceptions.RayError):
                actor.place = self._ray.get(actor.placed)
        return actor.place is not None

    def _await_tear_downs(self, seconds: float) -> None:
        reports = list(self._closing)
        if not reports:
            return
        ready, late = self._ray.wait(reports, num_returns=len(reports), timeout=seconds)
        for report in ready:
            self._closed(report)
        tell_tear_downs(
            f"A Ray worker ({self._closing[one].place}) did not tear down in time, and is ended." for one in late
        )

    def _interrupt(self, actors: list[_Actor]) -> None:
        """Interrupt the rows that run; by a task on each node, for an actor hears nothing while it runs."""
        by_node = dict[str, list[int]]()
        for actor in actors:
            if actor.place is not None and actor.place[0]:
                by_node.setdefault(actor.place[0], []).append(actor.place[1])
        # Through Ray Client, "here" is where its server is, and on this machine the numbers are those of other processes.
        if not self._cluster.is_by_client:
            here = self._ray.get_runtime_context().get_node_id()
            ray_worker.make_interrupter()(by_node.pop(here, []))
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        sent = [
            _interrupter().options(scheduling_strategy=affinity(node, soft=False)).remote(processes)
            for node, processes in by_node.items()
        ]
        if sent:
            self._ray.wait(sent, num_returns=len(sent), timeout=_INTERRUPT_SECONDS)


@functools.cache
def _actor_class() -> Any:
    return _ray().remote(ray_worker.make_actor())


@functools.cache
def _interrupter() -> Any:
    return _ray().remote(num_cpus=0, max_retries=0)(ray_worker.make_interrupter())


def _ray() -> Any:
    import ray

    return ray
