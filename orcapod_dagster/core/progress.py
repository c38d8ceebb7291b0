"""Progress: how far a computation is, how fast, and how long it will still take, for whoever asks while it goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from orcapod_dagster.core.readable import readable_seconds

_WINDOW_SECONDS: Final = 60.0
_WINDOW_PACKETS: Final = 20
"""The rate is that of the last minute; where fewer packets than these finished in it, that of so many."""
_SAMPLE_SECONDS: Final = 1.0


class Progress:
    """Counts packets as they finish. One thread adds, any other may ask.

    Args:
        to_compute: packets that the run computes. cached: rows whose result was there before.
        clock: seconds that only grow.

    Attributes:
        computed, failed, skipped: packets that are finished, well or not; those that are not yet durable among them.
        tried_again: further attempts of packets that had failed.
        under_way: packets that workers have now, some of which may wait there.
    """

    def __init__(self, to_compute: int, cached: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.to_compute = to_compute
        self.cached = cached
        self.computed = self.failed = self.skipped = self.tried_again = self.under_way = 0
        self._clock = clock
        self._began = clock()
        # When so many were done, about once a second; the first of them is where the window begins.
        self._samples: deque[tuple[float, int]] = deque([(self._began, 0)])

    @property
    def done(self) -> int:
        """Packets that are finished, well or not."""
        return self.computed + self.failed + self.skipped

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    def add(self, computed: int, failed: int, skipped: int) -> None:
        """Count packets that finished just now."""
        self.computed += computed
        self.failed += failed
        self.skipped += skipped
        now = self._clock()
        if len(self._samples) > 1 and self._samples[-1][0] - self._samples[-2][0] < _SAMPLE_SECONDS:
            self._samples.pop()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._is_enough(now, *self._samples[1]):
            self._samples.popleft()

    def workers_have(self, packets: int) -> None:
        """Say how many packets workers have now; executors call it (`CallOptions.under_way`)."""
        self.under_way = packets

    def _is_enough(self, now: float, at: float, done: int) -> bool:
        return now - at >= _WINDOW_SECONDS and self.done - done >= _WINDOW_PACKETS

    def rate(self) -> tuple[float, float | None]:
        """Return packets per second, of late, and the seconds that are left; `None` where no packet has finished yet.

        While slow packets run, nothing is known of them until they finish: they are expected as long after the last ones as those
        came after the ones before, and later only when that time is over.
        """
        samples = list(self._samples)
        (start, before), (latest, done) = samples[0], samples[-1]
        finished, now = done - before, self._clock()
        if not finished:
            return 0.0, None
        between = (latest - start) / (len(samples) - 1)
        waited = now - latest
        seconds = max((latest if waited <= between else now - between) - start, 1e-9)
        left = (self.to_compute - done) * seconds / finished
        return finished / seconds, max(0.0, left - min(waited, between))

    def line(self) -> str:
        """Return where it stands, in one line."""
        part = f"{100 * self.done // max(1, self.to_compute)} %"
        rate, left = self.rate()
        ahead = "no packet has finished yet" if left is None else f"{_rate(rate)}, about {readable_seconds(left)} left"
        return f"{self.done:,} of {self.to_compute:,} packets done ({part}): {self._counts()}, {self.under_way:,} under way; {ahead}."

    def summary(self) -> str:
        """Return how it ended, in one line."""
        seconds = self.seconds
        speed = _rate(self.done / max(seconds, 1e-9))
        return f"{self.done:,} of {self.to_compute:,} packets done in {readable_seconds(seconds)}: {self._counts()}; {speed}."

    def _counts(self) -> str:
        again = f", {self.tried_again:,} tried again" if self.tried_again else ""
        return f"{self.computed:,} computed, {self.failed:,} failed, {self.skipped:,} skipped, {self.cached:,} cached{again}"


def _rate(per_second: float) -> str:
    """Return a rate for people, in the unit in which it is a number."""
    for unit, seconds in (("s", 1), ("minute", 60), ("hour", 3600)):
        if per_second * seconds >= 1 or unit == "hour":
            value = per_second * seconds
            return f"{value:,.0f} packets/{unit}" if value >= 100 else f"{value:,.2g} packets/{unit}"
    raise AssertionError
