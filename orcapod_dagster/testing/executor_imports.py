"""The part of the conformance suite about modules that a function imports when it runs."""

from __future__ import annotations

import importlib
import sys
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol, RowBatch

_PROJECT = {
    "__init__.py": "from .named import named\n\nPLUS = 4\n",
    "named.py": "ONE = 1\n\n\ndef named(x):\n    return x + ONE\n",
    "counts.py": "ONE = 1\n\n\ndef begin_at(x):\n    global ONE\n    ONE = x\n\n\ndef more(x):\n    return x + ONE\n",
    "kinds.py": "from enum import Enum\n\n\nclass Kind(Enum):\n    A = 1\n",
    "tools.py": "import threading\n\nFACTOR = 2\nLOCAL = threading.local()\n\n\ndef scale(x):\n    return x * FACTOR\n",
    "heavy/__init__.py": "raise RuntimeError('this needs what workers lack')\n",
    "heavy/late.py": "from ..kinds import Kind\nfrom .deep import plus\n\n\ndef is_a(x):\n    return x is Kind.A\n\n\ndef fail(x):\n    return 1 / x\n",
    "heavy/deep.py": "def plus(x):\n    from latework import tools\n    return tools.scale(x) + {version}\n",
    "work.py": """
import importlib
from importlib import import_module
from logging import getLogger

from latework import counts
from latework.kinds import Kind


def rebound_at_top(x):
    counts.begin_at(0)
    assert counts.ONE == 0
    counts.ONE = x
    return counts.more(1) + counts.ONE


def absolute(x):
    from latework.heavy.late import plus
    return plus(x)


def relative(x):
    from .heavy import deep as nothing_of_this_name_is_loaded
    return nothing_of_this_name_is_loaded.plus(x)


def whole(x):
    import latework.heavy.late as late
    return late.plus(x)


def by_name(x):
    assert getLogger("latework").name == "latework"
    return import_module("latework.heavy.late").plus(x)


def by_relative_name(x):
    return importlib.import_module(".late", package="latework.heavy").plus(x)


def loaded(x):
    from .tools import scale
    return scale(x)


def same_class(x):
    from .heavy.late import is_a
    from .kinds import Kind as Again
    return is_a(Kind.A) and is_a(x) and Again is Kind


def unpicklable(x):
    from .tools import LOCAL, scale
    LOCAL.value = scale(x)
    return LOCAL.value + 1


def rebound(x):
    import latework.counts as module
    module.begin_at(x)
    return module.ONE + module.more(1)


def resource(x):
    from importlib.resources import files
    from .tools import scale
    return files("latework").joinpath("named.py").read_text().count("another version") + scale(x)


def of_package(x):
    from latework import named
    from latework.named import ONE
    return named(x) + ONE + 2


def of_parent(x):
    import latework.heavy.deep
    return latework.heavy.deep.plus(x) + latework.PLUS - 4


def fail(x):
    from .heavy.late import fail
    return fail(x)
""",
}


class ExecutorImportsConformance:
    """Modules of the user's own that are imported when the function runs are those of the process that sends rows."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    @pytest.fixture
    def latework(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A user's package that lies elsewhere once an executor that sends functions has them."""
        executor = self.make_executor()
        if executor.get_executor_data()["executor_type"] == "local":
            pytest.skip("functions run where modules are found")
        monkeypatch.syspath_prepend(tmp_path)

        def run(name: str, value: Callable[[Any], Any], version: int = 1, *, replaced: bool = False) -> Any:
            monkeypatch.setattr(sys, "modules", {n: m for n, m in sys.modules.items() if not n.startswith("latework")})
            folder = tmp_path / "latework"
            for file, text in _PROJECT.items():
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.replace("{version}", str(version)))
            importlib.invalidate_caches()
            work = importlib.import_module("latework.work")
            for loaded in ("latework.tools", "latework.counts"):
                importlib.import_module(loaded)
            results = executor.run_rows(getattr(work, name), [RowBatch(([value(work)],), {}, 0, 1)])
            folder.rename(tmp_path / f"gone{name}{version}")
            if replaced:
                for file in _PROJECT:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_text("raise RuntimeError('another version')\n")
            (result,) = results
            return result

        return run

    @pytest.mark.parametrize(
        "name",
        [
            "absolute",
            "whole",
            "by_name",
            "by_relative_name",
            "loaded",
            "unpicklable",
            "of_package",
            "of_parent",
            "same_class",
            "rebound",
            "rebound_at_top",
        ],
    )
    def test_late_imports(self, latework: Any, name: str) -> None:
        """Absolute and relative imports in the body, or by `import_module`, find what this process has, loaded or not, without the `__init__` of their packages; classes are those of values, and what is rebound in a module is seen by all of it."""
        result = latework(name, (lambda work: work.Kind.A) if name == "same_class" else (lambda _: 3))
        assert [failure.traceback for failure in result.failures] == []
        assert result.outputs == [{"loaded": 6, "same_class": True}.get(name, 7)]

    def test_a_late_package_itself_is_executed(self, latework: Any) -> None:
        """Where a name of a package is imported, its `__init__` is executed, as everywhere, and its error is the packet's."""
        result = latework("relative", lambda _: 3)
        assert [str(failure.error) for failure in result.failures] == ["this needs what workers lack"]

    def test_each_version_of_a_late_module_is_its_functions(self, latework: Any) -> None:
        """Functions that run one after the other have each the late modules of its own time."""
        assert [latework("absolute", lambda _: 3, version).outputs for version in (1, 2, 3)] == [[7], [8], [9]]

    @pytest.mark.parametrize("name", ["absolute", "whole", "loaded", "unpicklable", "resource"])
    def test_late_modules_that_workers_find_are_not_used(self, latework: Any, name: str) -> None:
        """Where the files are others by now, or in a worker, functions have those of the time at which they were sent; data is read where it lies."""
        assert latework(name, lambda _: 3, replaced=True).outputs == [6 if name == "loaded" else 7]

    def test_a_traceback_leads_through_a_late_module(self, latework: Any) -> None:
        """Its frames have file, line and text, also where another file lies there."""
        (failure,) = latework("fail", lambda _: 0, replaced=True).failures
        assert 'latework/heavy/late.py", line 10, in fail\n    return 1 / x' in failure.traceback
