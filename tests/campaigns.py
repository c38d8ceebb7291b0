"""The long form of the tests, for what takes long to happen or is only found by trying often: `make campaigns`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

FULL = os.environ.get("CAMPAIGNS") == "full"

long_form = pytest.mark.skipif(not FULL, reason="only in the long form, by make campaigns")
"""Marks tests that the short form leaves out: of most, a sister shows nearly the same; the others start whole clusters."""


def rounds(short: int, full: int) -> int:
    """Return how often, how many, or how many seconds: short with the tests, full in the long form."""
    return full if FULL else short


def long_param(*values: Any, id: str | None = None, marks: Sequence[pytest.MarkDecorator] = ()) -> Any:  # noqa: A002  # pytest's own word
    """Return a case of a parametrized test that the long form alone has."""
    return pytest.param(*values, id=id, marks=[long_form, *marks])
