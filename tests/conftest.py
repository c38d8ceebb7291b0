"""Settings of all tests."""

import pytest
from hypothesis import settings

# How long one example takes says something about the machine and its load, nothing about the code.
settings.register_profile("orcapod", deadline=None)
settings.load_profile("orcapod")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of slow tests: whatever is long and comes last, comes alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
