"""What the code is: parts with names, the same in every process, place and Python; and what cannot be seen is named."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from edits import EDITS, write_project
from test_edit_matrix import hash_all

from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.identity import (
    EnvironmentVariable,
    UnhashableDependencyWarning,
    changed_parts,
    code_parts,
    function_code,
    function_content_hash,
    function_signature_hash,
)

PROJECT = {
    "main.py": '''
import os
import math
from PKG import tools
from PKG.tools import scale as stretch
from PKG.deep.inner import depth

SECRET = "hunter2"


def work(x: float, y: float = 1.0, *, label: str = f"{1:>{2}}") -> float:
    """Docstring."""
    return stretch(x) + tools.shift(y) + below(x) + depth(x) + Shape().area() + len(SECRET) + math.pi


def below(x):
    return x + 1


class Shape(tools.Base):
    def area(self):
        return self.side ** 2
''',
    "tools.py": "LIMIT = 3\n\n\ndef scale(x):\n    return min(x, LIMIT)\n\n\ndef shift(y):\n    return y + 1\n\n\nclass Base:\n    side = 2\n",
    "deep/__init__.py": "",
    "deep/inner.py": "from PKG.tools import scale\n\n\ndef depth(x):\n    return scale(x) * 3\n",
}


def project_parts(folder: Path, layout: str) -> dict[str, Any]:
    write_project(folder, PROJECT, layout)
    return hash_all([{"folder": str(folder), "layout": layout}])[0]


# ---------------------------------------------------------------------------- parts


def test_parts_are_named_and_hold_the_source_of_code_alone(tmp_path: Path) -> None:
    """Each part has kind and qualified name; code comes with its lines, constants with their digest alone."""
    found = project_parts(tmp_path, "package")
    assert set(found["parts"]) == {
        "body",
        "default y",
        "default label",
        "helper project.tools.scale",
        "helper project.tools.shift",
        "helper project.deep.inner.depth",
        "helper project.main.below",
        "class project.main.Shape",
        "class project.tools.Base",
        "constant project.main.SECRET",
        "constant project.tools.LIMIT",
        "import project.main.math",
    }
    assert found["sources"]["helper project.main.below"] == "def below(x):\n    return x + 1\n"
    assert found["sources"]["constant project.main.SECRET"] is None
    assert "hunter2" not in json.dumps(found)


def test_changed_parts_names_what_differs() -> None:
    """Two versions differ by parts that changed, came or went."""
    before, after = (
        {"body": "1", "helper m.f": "2", "constant m.K": "3"},
        {"body": "1", "helper m.f": "4", "default x": "5"},
    )
    assert changed_parts(before, after) == {"constant m.K": "removed", "default x": "added", "helper m.f": "changed"}


def test_closures_defaults_and_lambdas_count() -> None:
    """Closure cells and defaults count by value; a lambda hashes by its own code."""

    def make(n: int):
        def add(x: int) -> int:
            return x + n

        return add

    assert function_content_hash(make(1)) == function_content_hash(make(1)) != function_content_hash(make(2))
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    assert function_content_hash(first) != function_content_hash(second)


def test_paths_hash_alike_on_every_python() -> None:
    """A Path as annotation, default and closure value hashes without a warning, and as on every other Python version."""
    root = Path("data")

    def locate(name: Path = Path("a")) -> list[Path]:
        return [root / name]

    locate.__annotations__ = {"name": Path, "return": list[Path]}  # types, not their names
    assert function_signature_hash(locate) == GOLDEN_PATH_SIGNATURE
    function_content_hash(locate)


GOLDEN_PATH_SIGNATURE = "python.signature.v1:ade06de67b59623941c2760bd3ba3350ec9c3c3d3346719d4b7b832901160120"


def test_signature_hash_covers_names_kinds_annotations_and_defaults() -> None:
    """Each part of a signature changes its hash; the body does not."""

    def f(a: int, b: str = "x") -> float:
        return 1.0

    def body(a: int, b: str = "x") -> float:
        return 2.0

    def default(a: int, b: str = "y") -> float:
        return 1.0

    def kind(a: int, *, b: str = "x") -> float:
        return 1.0

    def annotation(a: float, b: str = "x") -> float:
        return 1.0

    assert function_signature_hash(f) == function_signature_hash(body)
    assert len({function_signature_hash(g) for g in (f, default, kind, annotation)}) == 4


def test_values_count_by_content() -> None:
    """Plain values of the standard library, arrays and instances count by what they hold, wherever they lie."""
    numpy = pytest.importorskip("numpy")
    import datetime as dt
    import decimal
    import re
    import uuid
    from collections import OrderedDict, deque

    def make(value: Any):
        def work(x: int) -> Any:
            return value

        return work

    for one, other in [
        (dt.date(2020, 1, 1), dt.date(2020, 1, 2)),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        (re.compile("a"), re.compile("b")),
        (uuid.UUID(int=1), uuid.UUID(int=2)),
        (OrderedDict(a=1), OrderedDict(a=2)),
        (deque([1]), deque([2])),
        ({1, 2}, {1, 3}),
        (numpy.arange(3), numpy.arange(3.0)),
        (numpy.float64(1), 1.0),
        (True, 1),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (range(3), range(4)),
        (Path("a"), Path("b")),
        (list[int], list[str]),
    ]:
        assert function_content_hash(make(one)) == function_content_hash(make(one))
        assert function_content_hash(make(one)) != function_content_hash(make(other)), (one, other)


def test_a_value_that_contains_itself_is_hashed() -> None:
    """A list that holds itself comes to an end."""
    table: list[Any] = [1]
    table.append(table)

    def work(x: int) -> Any:
        return table[x]

    assert function_content_hash(work) == function_content_hash(work)


# ---------------------------------------------------------------------------- the same everywhere


def other_python() -> str:
    """Return the newest other Python that is installed here."""
    places = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    for minor in (14, 13, 12, 11):
        if minor == sys.version_info.minor:
            continue
        for place in places:
            for found in sorted(place.glob(f"3.{minor}.*/bin/python")):
                return str(found)
    pytest.skip("no other supported Python is installed here")


@pytest.mark.parametrize("layout", ["modules", "package", "notebook"])
def test_every_edit_hashes_alike_on_another_python(tmp_path: Path, layout: str) -> None:
    """Every project of the matrix has the same content and signature hash on another version of Python."""
    jobs = []
    # Without a module, a NamedTuple shows only as Python made it.
    left_out = {"default of a NamedTuple"} if layout == "notebook" else set()
    for number, edit in enumerate(e for e in EDITS if layout in e.layouts and e.name not in left_out):
        write_project(tmp_path / str(number), edit.files, layout)
        jobs.append({"folder": str(tmp_path / str(number)), "layout": layout})
    here, there = hash_all(jobs), hash_all(jobs, other_python(), seed="7")
    for one, other, job in zip(here, there, jobs, strict=True):
        assert one["parts"] == other["parts"], job
        assert one["signature"] == other["signature"], job


@pytest.mark.parametrize("layout", ["modules", "package"])
def test_another_directory_and_a_zipped_module_hash_alike(tmp_path: Path, layout: str) -> None:
    """A project hashes alike in another directory, and from an archive on the path."""
    source = project_parts(tmp_path / "one", layout)
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for file in sorted((tmp_path / "one").rglob("*.py")):
            written.write(file, file.relative_to(tmp_path / "one"))
    assert project_parts(tmp_path / "two", layout)["parts"] == source["parts"]
    assert hash_all([{"folder": str(archive), "layout": layout}])[0]["parts"] == source["parts"]


@pytest.mark.parametrize("layout", ["modules", "package"])
def test_an_installed_wheel_hashes_like_the_source_tree(tmp_path: Path, layout: str) -> None:
    """A wheel installed into another environment hashes like the checkout, loose modules as well as a package."""
    source = project_parts(tmp_path / "source", layout)
    wheel = _wheel(tmp_path / "source", tmp_path)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    # A module of another distribution beside it is not own code.
    (site / "stranger.py").write_text("def f(): ...\n")
    (tmp_path / "source").rename(tmp_path / "gone")
    found = hash_all([{"folder": str(site), "layout": layout}], str(environment / "bin" / "python"))[0]
    assert found["parts"] == source["parts"]


@pytest.mark.parametrize("layout", ["modules", "package"])
def test_every_edit_hashes_alike_zipped_and_installed_on_another_python(tmp_path: Path, layout: str) -> None:
    """Every project of the matrix has the parts of its source tree from an archive and from a wheel, on another Python."""
    sources, archives, sites = [], [], []
    for number, edit in enumerate(e for e in EDITS if layout in e.layouts):
        folder = tmp_path / str(number)
        write_project(folder / "source", edit.files, layout)
        wheel, site = _wheel(folder / "source", folder), folder / "lib" / "site-packages"
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(site)
        sources.append({"folder": str(folder / "source"), "layout": layout})
        # Without entries for folders, an archive has no namespace packages.
        archives.append({"folder": str(site if edit.name == "namespace package" else wheel), "layout": layout})
        sites.append({"folder": str(site), "layout": layout})
    here = hash_all(sources)
    for job in sources:
        Path(job["folder"]).rename(f"{job['folder']} gone")
    found = hash_all([*archives, *sites], other_python(), seed="7")
    for one, archived, installed in zip(here, found[: len(here)], found[len(here) :], strict=True):
        assert archived["parts"] == one["parts"]
        assert installed["parts"] == one["parts"]
        assert one["signature"] == archived["signature"] == installed["signature"]


def _wheel(source: Path, folder: Path) -> Path:
    wheel, info = folder / "project-1.0-py3-none-any.whl", "project-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as written:
        for file in sorted(source.rglob("*.py")):
            written.write(file, file.relative_to(source))
        written.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: project\nVersion: 1.0\n")
        written.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        record = "".join(f"{name},,\n" for name in [*written.namelist(), f"{info}/RECORD"])
        written.writestr(f"{info}/RECORD", record)
    return wheel


SEND = """
import pickle, sys
sys.path.insert(0, {tests!r})
import identity_worker
identity = identity_worker.load_identity()
work = pickle.load(open({file!r}, "rb"))
print(identity.function_content_hash(work))
"""


@pytest.mark.parametrize("layout", ["notebook", "exec", "modules"])
def test_a_function_sent_to_another_process_hashes_alike(tmp_path: Path, layout: str) -> None:
    """Functions and lambdas of notebooks and modules hash alike where they arrive by value, without their source."""
    cloudpickle = pytest.importorskip("cloudpickle")
    jobs = [
        e
        for e in EDITS
        if layout in e.layouts and e.name in ("helper", "closure", "one of two lambdas on a line", "enum value")
    ]
    assert len(jobs) == 4
    for number, edit in enumerate(jobs):
        folder, file = tmp_path / str(number), tmp_path / f"{number}.pickle"
        write_project(folder, edit.files, layout)
        script = (
            f"import sys, pickle; sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(folder)!r}]\n"
            "import identity_worker, cloudpickle\n"
            f"identity = identity_worker.load_identity()\nwork = identity_worker.load_work({str(folder)!r}, {layout!r})\n"
            "print(identity.function_content_hash(work))\n"
            "if work.__module__ != '__main__': cloudpickle.register_pickle_by_value(sys.modules[work.__module__])\n"
            f"open({str(file)!r}, 'wb').write(cloudpickle.dumps(work))\n"
        )
        sent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert sent.returncode == 0, sent.stderr
        folder.rename(tmp_path / f"gone {number}")
        receive = SEND.format(tests=str(Path(__file__).parents[1]), file=str(file))
        arrived = subprocess.run(
            [sys.executable, "-c", receive], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert arrived.returncode == 0, arrived.stderr
        assert arrived.stdout == sent.stdout, edit.name
    del cloudpickle


CALLABLES = """
from functools import partial, wraps

K = 3


def helper(x):
    return x * K


def logged(function):
    @wraps(function)
    def outer(*values):
        return function(*values)

    return outer


class Model:
    def __init__(self, k):
        self.k = k

    def run(self, x):
        return helper(x) + self.k

    @logged
    def wrapped(self, x):
        return helper(x) + self.k

    def __call__(self, x):
        return helper(x) * self.k


def f(a, b, x):
    return helper(x) + a + b


inner = partial(f, 1)
ALL = [Model(1).run, Model(2).run, Model(1).wrapped, Model(2).wrapped, Model(1), Model(2), inner, partial(inner, 2), partial(Model(3).run)]
"""


def test_a_callable_sent_to_another_process_hashes_alike(tmp_path: Path) -> None:
    """Partials, bound methods and callable objects hash alike where they arrive by value, each as what it holds."""
    (tmp_path / "holders.py").write_text(CALLABLES)
    tests, file = str(Path(__file__).parents[1]), str(tmp_path / "all.pickle")
    head = f"import sys, pickle; sys.path[:0] = [{tests!r}]\nimport identity_worker\nidentity = identity_worker.load_identity()\n"
    script = (
        f"{head}import cloudpickle, holders\nhashes = [identity.function_content_hash(one) for one in holders.ALL]\n"
        "assert len(set(hashes)) == len(hashes)\ncloudpickle.register_pickle_by_value(holders)\n"
        f"open({file!r}, 'wb').write(cloudpickle.dumps(holders.ALL))\nprint(hashes)"
    )
    there = f"{head}print([identity.function_content_hash(one) for one in pickle.load(open({file!r}, 'rb'))])"
    printed: list[str] = []
    for text in (script, there):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
        (tmp_path / "holders.py").unlink(missing_ok=True)
    assert printed[0] == printed[1]


def test_a_partial_of_a_partial_is_one() -> None:
    """Whether Python joins a partial with the one inside it, which it does unless that has attributes, makes no difference."""

    def power(a: float, b: float) -> float:
        return a**b

    inner = functools.partial(power, 2.0)
    joined = function_content_hash(functools.partial(inner, 3.0))
    inner.note = "kept"  # pyright: ignore[reportAttributeAccessIssue]  # a partial takes attributes
    apart = functools.partial(inner, 3.0)
    assert apart.func is inner
    assert function_content_hash(apart) == joined


def test_the_hash_at_definition_is_the_hash_in_the_run(tmp_path: Path) -> None:
    """A decorator sees the same code as a later call, though helpers stand below and an import is circular."""
    files = {
        "main.py": "from PKG.tools import mark, f\n\n\n@mark\ndef work(x: float) -> float:\n    return f(x) + below(x) * K\n\n\n"
        "def below(x):\n    return x\n\n\nK = 2\n",
        "tools.py": "import orcapod_dagster.core.identity as identity\nfrom PKG import main\n\n\ndef mark(function):\n"
        "    function.at_definition = identity.function_content_hash(function)\n    return function\n\n\n"
        "def f(x):\n    return x * main.K\n",
    }
    write_project(tmp_path, files, "package")
    script = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(tmp_path)!r}]\n"
        "import identity_worker\nidentity = identity_worker.load_identity()\nfrom project.main import work\n"
        "assert work.at_definition == identity.function_content_hash(work)\nprint(sorted(identity.code_parts(work)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "helper project.main.below" in done.stdout
    assert "constant project.main.K" in done.stdout


def test_code_without_source_hashes_by_bytecode() -> None:
    """A function made by exec, without source, hashes by its bytecode, whatever its docstring and lines."""

    def make(text: str) -> Any:
        scope: dict[str, Any] = {}
        exec(text, scope)
        return scope["f"]

    one, same, other = (
        make(text)
        for text in (
            "def f(x):\n    return x + 1",
            "\n\ndef f(x):\n    'Doc.'\n    return x + 1",
            "def f(x):\n    return x + 2",
        )
    )
    assert function_content_hash(one) == function_content_hash(same) != function_content_hash(other)


def test_a_cache_that_fills_up_does_not_count() -> None:
    """In a namespace without source, state that the function itself changes leaves the hash as it was."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("CACHE = {}\n\ndef work(x):\n    CACHE[x] = x\n    return CACHE[x]\n", scope)
    before = function_content_hash(scope["work"])
    scope["work"](1)
    assert function_content_hash(scope["work"]) == before


# ---------------------------------------------------------------------------- what cannot be seen


def reports_of(function: Any, **options: Any) -> dict[str, str]:
    return dict(function_code(function, **options).reports)


def project_reports(folder: Path, text: str, **options: Any) -> dict[str, Any]:
    write_project(folder, {"main.py": text}, "modules")
    return hash_all([{"folder": str(folder), "layout": "modules", "options": options}])[0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import os\n\nMODE = os.environ.get('MODE')\n\n\ndef work(x):\n    return MODE\n", "MODE"),
        ("import os\n\n\ndef work(x):\n    return os.getenv('MODE')\n", "MODE"),
        ("from os import environ\n\n\ndef work(x):\n    return environ[x]\n", "os.environ"),
        ("import os\n\nN = os.cpu_count()\n\n\ndef work(x):\n    return N\n", "os.cpu_count"),
        ("import platform\n\n\ndef work(x):\n    return platform.node()\n", "platform"),
        ("import time\n\n\ndef work(x):\n    return time.time()\n", "time.time"),
        ("from datetime import datetime as d\n\n\ndef work(x):\n    return d.now()\n", "datetime.datetime.now"),
        ("import socket\n\nH = socket.gethostname()\n\n\ndef work(x):\n    return H\n", "socket.gethostname"),
        ("from pathlib import Path\n\nP = Path(__file__)\n\n\ndef work(x):\n    return P\n", "__file__"),
        ("def work(x):\n    return globals()['y']\n", "globals()"),
        ("def work(x):\n    return eval('y')\n", "eval()"),
        ("import sys\n\n\ndef work(x):\n    return getattr(sys.modules[__name__], x)\n", "getattr()"),
        ("import importlib\n\n\ndef work(x):\n    return importlib.import_module(x)\n", "import_module()"),
        ("N = 0\n\n\ndef work(x):\n    global N\n    N += 1\n    return N\n", "main.N"),
        ("S = {'n': 0}\n\n\ndef work(x):\n    S['n'] += 1\n    return S['n']\n", "main.S"),
        ("def make(f):\n    def work(x):\n        return f\n    return work\n\n\nwork = make(open('/dev/null'))\n", "closure f"),
    ],
)  # fmt: skip
def test_what_does_not_count_is_reported_by_name(tmp_path: Path, text: str, name: str) -> None:
    """Values of environment, machine and clock, look-ups by computed names, open handles and changing state are named."""
    found = project_reports(tmp_path, text)
    assert name in found["reports"]
    assert project_reports(tmp_path / "ignored", text, ignore=sorted(found["reports"]))["reports"] == {}


def test_nothing_is_reported_without_reason(tmp_path: Path) -> None:
    """No project of the matrix but the one that reads the environment reports anything."""
    jobs = []
    for number, edit in enumerate(EDITS):
        write_project(tmp_path / str(number), edit.files, "modules")
        jobs.append({"folder": str(tmp_path / str(number)), "layout": "modules"})
    named = {e.name: f["reports"] for e, f in zip(EDITS, hash_all(jobs), strict=True) if f["reports"]}
    assert list(named) == ["expression of the environment"]


def test_a_warning_names_it_once_and_says_what_to_do() -> None:
    """The warning names the function, the thing and both ways out, once in a process."""
    lock, handle = threading.Lock(), iter([1])

    def once(x: int) -> Any:
        return lock, handle

    with pytest.warns(
        UnhashableDependencyWarning, match=r"once: closure handle is a builtins.list_iterator.*depends_on=.*ignore="
    ) as seen:
        function_content_hash(once)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function_content_hash(once)


def test_code_beside_a_package_is_reported(tmp_path: Path) -> None:
    """A second package that is neither own code nor installed is named; own_code counts it."""
    write_project(tmp_path, {"main.py": "from beside import f\n\n\ndef work(x):\n    return f(x)\n"}, "package")
    (tmp_path / "beside.py").write_text("def f(x):\n    return x\n")
    job = {"folder": str(tmp_path), "layout": "package"}
    plain, counted = hash_all([job, {**job, "options": {"own_code": ["beside"]}}])
    assert list(plain["reports"]) == ["beside"]
    assert counted["reports"] == {}
    assert "helper beside.f" in counted["parts"]


# ---------------------------------------------------------------------------- declared


def test_declared_functions_values_files_and_variables_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of a declared function, value, file, directory or environment variable changes the hash."""
    file = tmp_path / "folder" / "model.bin"
    file.parent.mkdir()

    def work(x: int) -> int:
        return x

    def hash_with(thing: Any) -> str:
        return function_content_hash(work, depends_on=[thing])

    assert hash_with(1) != hash_with(2)
    assert hash_with(changed_parts) != hash_with(lambda x: x)
    seen: set[str] = set()
    for content in ("a", "b"):
        file.write_text(content)
        monkeypatch.setenv("MODE", content)
        seen |= {hash_with(file), hash_with(file.parent), hash_with(EnvironmentVariable("MODE"))}
    monkeypatch.delenv("MODE")
    assert len(seen | {hash_with(EnvironmentVariable("MODE"))}) == 7
    monkeypatch.setenv("MODE", "1")
    variables: list[Any] = [EnvironmentVariable("MODE"), dg.EnvVar("MODE"), dg.EnvVar.int("MODE")]
    assert len({hash_with(one) for one in variables} - seen) == 1
    with pytest.raises(DefinitionError, match=r"work.*depends_on names the file .*missing"):
        hash_with(tmp_path / "missing")


def test_a_declared_name_stands_for_what_was_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping declares what a warning named, which then is no warning any more."""
    handle = iter([1])

    def work(x: int) -> Any:
        return handle, os.environ["MODE"]

    monkeypatch.setenv("MODE", "a")
    assert set(reports_of(work)) == {"closure handle", "MODE"}
    assert reports_of(work, depends_on={"closure handle": "v1", "MODE": EnvironmentVariable("MODE")}) == {}
    assert set(reports_of(work, depends_on=[EnvironmentVariable("MODE")])) == {"closure handle"}
    with pytest.raises(DefinitionError, match=r"depends_on 'it' is a builtins.list_iterator"):
        function_code(work, depends_on={"it": handle})


def test_ignored_code_does_not_count_and_unknown_names_are_refused(tmp_path: Path) -> None:
    """An ignored helper may change; a name that the code does not refer to is refused with those it does."""
    text = "def helper(x):\n    return x\n\n\ndef work(x):\n    return helper(x)\n"
    before = project_reports(tmp_path / "a", text, ignore=["helper"])
    after = project_reports(tmp_path / "b", text.replace("return x\n", "return -x\n", 1), ignore=["main.helper"])
    assert before["hash"] == after["hash"]

    def work(x: int) -> int:
        return x

    with pytest.raises(DefinitionError, match=r"ignore names \['helper'\]"):
        function_content_hash(work, ignore=["helper"])


def test_code_parts_takes_what_the_hash_takes() -> None:
    """The parts of a function include what was declared."""

    def helper(x: int) -> int:
        return x

    def work(x: int) -> int:
        return helper(x)

    assert sorted(code_parts(work, depends_on={"model": 1})) == [
        "body",
        "closure helper",
        "declared model",
        "helper closure helper",
    ]
