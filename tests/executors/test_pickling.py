"""What a function's own modules hold travels to workers, also what no pickler takes by itself."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor

FILES = {
    "__init__.py": "",
    "work.py": """
import functools
import threading
import weakref
from contextvars import ContextVar

import alibrary
import travelling.deep.tools
import travelling.plain.tools
from travelling import plain

DEPTH, UNIT, COUNT = ContextVar("depth"), ContextVar("unit", default="mV"), ContextVar("count")
LOCK, AGAIN = threading.Lock(), threading.RLock()
SEEN = weakref.WeakValueDictionary()
FACTOR = 2


@functools.singledispatch
def show(x):
    return "other"


@show.register
def _(x: int):
    return "int"


def by_dotted_name(x):
    return travelling.deep.tools.scale(x)


def by_package_without_init(x):
    return x + plain.tools.PLUS


def by_lock(x):
    with LOCK, AGAIN:
        return x + 1


def by_dispatch(x):
    return show(x)


@functools.lru_cache(maxsize=None)
def factorial(x):
    return x * factorial(x - 1) if x else FACTOR // 2


class Shop:
    @functools.cache
    def price(self, x):
        return x + FACTOR


def by_cached_function(x):
    assert factorial.cache_parameters() == {"maxsize": None, "typed": False}
    assert (factorial(x), factorial(x)) == (6, 6)
    return factorial.__name__, factorial.cache_info().hits > 0


def by_cached_method(x):
    return Shop().price(x)


def by_context_variable(x):
    DEPTH.set(x)
    return DEPTH.get(), UNIT.get(), COUNT.get(None)


LEVEL = alibrary.LEVEL


def by_variable_of_a_library(x):
    LEVEL.set(x)
    return alibrary.level()


def by_weak_table(x):
    return len(SEEN)
""",
    "deep/__init__.py": "",
    "plain/tools.py": "PLUS = 1\n",
    "deep/tools.py": "import travelling.work\n\n\ndef scale(x):\n    return x * travelling.work.FACTOR\n",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("by_dotted_name", 6),
        ("by_package_without_init", 4),
        ("by_lock", 4),
        ("by_cached_function", ("factorial", True)),
        ("by_cached_method", 5),
        ("by_context_variable", (3, "mV", None)),
        ("by_variable_of_a_library", 3),
        ("by_dispatch", "int"),
        ("by_weak_table", 0),
    ],
)
def test_modules_locks_and_weak_tables_travel(tmp_path: Path, monkeypatch, name: str, expected: object) -> None:
    """Modules that import one another, and packages without `__init__.py`, go by value; locks arrive free, caches, context variables and weak tables empty, dispatching functions whole."""
    for file, text in FILES.items():
        path = tmp_path / "travelling" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    library = tmp_path / "site-packages" / "alibrary.py"
    library.parent.mkdir()
    library.write_text(
        "from contextvars import ContextVar\nLEVEL = ContextVar('level')\ndef level():\n    return LEVEL.get()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(library.parent)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    work = importlib.import_module("travelling.work")
    work.LOCK.acquire()
    work.SEEN["a"] = work.FACTOR_OBJECT = type("Thing", (), {})()
    (tmp_path / "travelling").rename(tmp_path / "gone")
    (result,) = ProcessPoolExecutor(max_workers=1).run_rows(getattr(work, name), [RowBatch(([3],), {}, 0, 1)])
    assert result.failures == ()
    assert result.outputs == [expected]
