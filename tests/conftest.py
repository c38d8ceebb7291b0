"""Settings of all tests."""

import signal

import pytest
from hypothesis import settings
from quick_instances import read_migrations_once

# How long one example takes says something about the machine and its load, nothing about the code.
settings.register_profile("orcapod", deadline=None)
settings.load_profile("orcapod")

read_migrations_once()

# What a shell starts in the background, or `nohup`, ignores Ctrl-C, and so does every process that it starts: tests that send it would
# wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of slow tests: whatever is long and comes last, comes alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
