"""Rates and times left, by a clock of the test's own."""

from __future__ import annotations

import pytest

from orcapod_dagster.core.progress import Progress


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_before_anything_has_finished(clock: Clock) -> None:
    """Without a finished packet there is no rate to speak of, and the line says so."""
    progress = Progress(20, cached=5, clock=clock)
    progress.workers_have(2)
    clock.now += 300
    assert progress.rate() == (0.0, None)
    assert progress.line() == (
        "0 of 20 packets done (0 %): 0 computed, 0 failed, 0 skipped, 5 cached, 2 under way; no packet has finished yet."
    )


def test_slow_packets_are_expected_when_the_last_ones_would_be(clock: Clock) -> None:
    """Two workers, 600 s a packet: the time left shrinks while nothing finishes, and grows once a packet is overdue."""
    progress = Progress(20, clock=clock)
    for _ in range(2):
        clock.now += 600
        progress.add(2, 0, 0)
    assert progress.rate() == pytest.approx((1 / 300, 16 * 300))
    clock.now += 300
    assert progress.rate() == pytest.approx((1 / 300, 16 * 300 - 300))
    assert progress.line().endswith("12 packets/hour, about 75 minutes left.")
    clock.now += 300
    assert progress.rate()[1] == pytest.approx(16 * 300 - 600)
    clock.now += 3_000
    rate, left = progress.rate()
    assert rate == pytest.approx(4 / 4_200)
    assert left == pytest.approx(16 * 1_050 - 600)


def test_the_rate_is_that_of_the_last_minute(clock: Clock) -> None:
    """After a quick beginning, say of packets whose files were small, the rate is soon that of now."""
    progress = Progress(100_000, clock=clock)
    for _ in range(100):
        clock.now += 0.1
        progress.add(400, 0, 0)
    assert progress.rate()[0] == pytest.approx(4_000, rel=0.02)
    for _ in range(90):
        clock.now += 1
        progress.add(9, 1, 0)
    rate, left = progress.rate()
    assert rate == pytest.approx(10, rel=0.02)
    assert left == pytest.approx((100_000 - 40_900) / 10, rel=0.02)
    assert progress.line() == (
        "40,900 of 100,000 packets done (40 %): 40,810 computed, 90 failed, 0 skipped, 0 cached, 0 under way; 10 packets/s, about "
        "1.6 hours left."
    )


def test_memory_does_not_grow_with_the_packets(clock: Clock) -> None:
    """However many times packets finish, about one sample a second of the window is kept."""
    progress = Progress(10_000_000, clock=clock)
    for _ in range(20_000):
        clock.now += 0.01
        progress.add(5, 0, 0)
    assert len(progress._samples) < 80  # pyright: ignore[reportPrivateUsage]  # how much it keeps shows nowhere else
    assert progress.rate()[0] == pytest.approx(500, rel=0.02)
    assert progress.summary() == (
        "100,000 of 10,000,000 packets done in 3.3 minutes: 100,000 computed, 0 failed, 0 skipped, 0 cached; 500 packets/s."
    )
