"""What the code is: an edit that decides the result changes the hash, any other does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orcapod_dagster.core.identity import components, function_content_hash, function_signature_hash

BASE = {
    "project/__init__.py": "",
    "project/main.py": '''
import math
from project import tools
from project.tools import scale as stretch
from .deep import inner as nested

FACTOR = 2
TABLE = {"a": [1, 2]}


def work(x: float, y: float = 1.0) -> float:
    """Docstring."""
    from project.late import late
    return stretch(x) * FACTOR + tools.shift(y) + below(x) + nested.depth(x) + late(x) + Shape().area() + TABLE["a"][0] + math.pi


def below(x):
    return x + 1


class Base:
    def side(self):
        return 2


class Shape(Base):
    def area(self):
        return self.side() ** 2


def unused(x):
    return x
''',
    "project/tools.py": "LIMIT = 3\n\n\ndef scale(x):\n    return min(x, LIMIT)\n\n\ndef shift(y):\n    return y + 1\n\n\ndef other(y):\n    return y\n",
    "project/late.py": "def late(x):\n    return x\n",
    "project/deep/__init__.py": "",
    "project/deep/inner.py": "def depth(x):\n    return x * 3\n",
}
SCRIPT = "from project.main import work\nfrom orcapod_dagster.core.identity import *\nprint(function_content_hash(work), function_signature_hash(work))"
ROOT = Path(__file__).resolve().parents[2]


def hashes(folder: Path, edits: dict[str, tuple[str, str]], seed: str = "0") -> tuple[str, str]:
    """Write the project with edits (file → old, new), and hash it in a fresh process."""
    for name, text in BASE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        old, new = edits.get(name, ("", ""))
        assert old in text
        path.write_text(text.replace(old, new) if old else text + new)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    content, signature = found.stdout.split()
    return content, signature


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return hashes(tmp_path_factory.mktemp("base"), {})


M, T, D, L = "project/main.py", "project/tools.py", "project/deep/inner.py", "project/late.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "differs"),
    [
        (M, '"""Docstring."""', '"""Another."""', False),
        (M, "    return stretch(x)", "    # a comment\n    return stretch( x )", False),
        (M, "import math\n", "import math\n\n\n\n", False),
        (M, "def unused(x):\n    return x", "def unused(x):\n    return x + 1", False),
        (T, "def other(y):\n    return y", "def other(y):\n    return y + 1", False),
        (M, "FACTOR = 2", "FACTOR = (2)", False),
        (M, "* FACTOR", "/ FACTOR", True),
        (M, "FACTOR = 2", "FACTOR = 3", True),
        (M, "FACTOR = 2", "FACTOR = 2.0", True),
        (M, "[1, 2]", "[1, 3]", True),
        (M, "y: float = 1.0", "y: float = 2.0", True),
        (M, "return x + 1\n\n\nclass", "return x + 2\n\n\nclass", True),
        (M, "return 2\n", "return 3\n", True),
        (M, "** 2", "** 3", True),
        (T, "min(x, LIMIT)", "max(x, LIMIT)", True),
        (T, "LIMIT = 3", "LIMIT = 4", True),
        (T, "return y + 1", "return y + 2", True),
        (D, "x * 3", "x * 4", True),
        (L, "return x", "return -x", True),
        (M, "[1, 2]}", "[1, 2]}\nTABLE.update(b=3)", True),
        (M, "import math\n", "import cmath as math\n", True),
    ],
)  # fmt: skip
def test_edits(tmp_path: Path, base: tuple[str, str], file: str, old: str, new: str, *, differs: bool) -> None:
    """An edit of code or constants that the function reaches changes its content hash; any other edit does not."""
    assert (hashes(tmp_path, {file: (old, new)})[0] != base[0]) is differs


def test_another_process_place_and_hash_seed_agree(tmp_path: Path, base: tuple[str, str]) -> None:
    """Another directory and another PYTHONHASHSEED give the same hashes."""
    assert hashes(tmp_path, {}, seed="12345") == base


def test_closures_defaults_and_lambdas_count() -> None:
    """Closure cells and defaults count by value; a lambda hashes by its own code."""

    def make(n: int):
        def add(x: int) -> int:
            return x + n

        return add

    assert function_content_hash(make(1)) == function_content_hash(make(1)) != function_content_hash(make(2))
    first = lambda x: x + 1  # noqa: E731
    second = lambda x: x + 2  # noqa: E731
    assert function_content_hash(first) != function_content_hash(second)


def test_code_without_source_hashes_by_bytecode() -> None:
    """A function made by exec, without source, hashes by its bytecode."""

    def make(text: str):
        scope: dict[str, object] = {}
        exec(text, scope)
        return scope["f"]

    one, same, other = (make(f"def f(x):\n    return x + {n}") for n in (1, 1, 2))
    assert function_content_hash(one) == function_content_hash(same) != function_content_hash(other)


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


def test_components_name_what_counts(tmp_path: Path) -> None:
    """The components of a function are named, so that a change can be traced to one."""

    def helper(x: int) -> int:
        return x

    def work(x: int) -> int:
        return helper(x)

    assert sorted(components(work)) == ["", ".<closure>.helper"]


def test_paths_hash_alike_on_every_python() -> None:
    """A Path as annotation, default and closure value hashes without a warning, and as on every other Python version."""
    root = Path("data")

    def locate(name: Path = Path("a")) -> list[Path]:
        return [root / name]

    locate.__annotations__ = {
        "name": Path,
        "return": list[Path],
    }  # types, not their names, as without the __future__ import
    assert function_signature_hash(locate) == GOLDEN_PATH_SIGNATURE
    function_content_hash(locate)


GOLDEN_PATH_SIGNATURE = "python.signature.v1:ade06de67b59623941c2760bd3ba3350ec9c3c3d3346719d4b7b832901160120"
