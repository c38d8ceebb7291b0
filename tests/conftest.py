"""Settings of all tests."""

import signal

import pytest
from campaigns import long_form
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


LONG_ON_RAY = {
    "test_state_is_built_once_per_worker[Door]",
    "test_state_is_built_once_per_worker[open_machine]",
    "test_state_is_built_once_per_worker[generate]",
    "test_a_row_that_cannot_be_stopped_ends_its_process[ignore_async]",
    "test_async_state_lives_in_the_loop_of_the_rows[make_async]",
    "test_keyword_columns[only_keywords]",
}
"""Of the conformance suite, forms that start Ray's workers anew, each some seconds; the process pool runs them in the short form, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of slow tests: whatever is long and comes last, comes alone."""
    for item in items:
        if item.name in LONG_ON_RAY and "TestRay" in item.nodeid:
            item.add_marker(long_form)
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
