"""The edits of the matrix: small projects before and after one edit, and whether results made before still count.

In the sources `PKG` stands for the package: `from PKG.tools import f` is `from .tools import f` in a package, and
`from tools import f` among plain modules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

LAYOUTS = ("modules", "package", "notebook", "exec")


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a project whose function is `work` in `main.py`."""

    name: str
    """What is edited."""
    part: str | None
    """The part that changes, with `PKG` for the package; `None` where the edit does not count."""
    files: dict[str, str]
    """The project before the edit."""
    changes: dict[str, tuple[str, str]]
    """File → what is replaced by what; an empty old text is a file that is added."""
    misses: dict[str, str] = field(default_factory=dict)
    """Layout → why the edit is not seen rightly there."""

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layouts that the project can have; a notebook cannot be imported."""
        imported = any("PKG import main" in text or "PKG.main" in text for text in self.files.values())
        return ("modules", "package") if imported else LAYOUTS


def main(body: str, above: str = "", below: str = "") -> str:
    """Return a module with a function `work` that returns an expression of `x`."""
    return f"{above}\n\n\ndef work(x: float) -> float:\n    return {body}\n\n\n{below}\n"


def _edit(
    name: str,
    part: str | None,
    body: str,
    old: str,
    new: str,
    above: str = "",
    below: str = "",
    file: str = "main.py",
    misses: dict[str, str] | None = None,
    **files: str,
) -> Edit:
    named = {f"{'/'.join(filter(None, n.partition('__')[::2]))}.py": text for n, text in files.items()}
    texts = {"main.py": main(body, above, below), **named}
    return Edit(name, part, texts, {file: (old, new)}, misses or {})


TOOLS = "LIMIT = 3\n\n\ndef scale(x):\n    return x * LIMIT\n\n\ndef other(x):\n    return x\n"
REGISTRY = "TABLE = {}\n\n\ndef register(name):\n    def put(function):\n        TABLE[name] = function\n        return function\n    return put\n"
PATCHED = "a notebook's changes of classes of other modules are not looked for"
SHAPES = "class Base:\n    side = 2\n\n    def area(self):\n        return self.side ** 2\n\n\nclass Square(Base):\n    def double(self):\n        return 2 * self.area()\n"
RETRY = (
    "import functools\n\n\ndef retry(times):\n    def put(function):\n        @functools.wraps(function)\n"
    "        def call(*args, **kwargs):\n            for _ in range(times):\n                result = function(*args, **kwargs)\n"
    "            return result\n        return call\n    return put\n"
)

EDITS = [
    # What does not count.
    _edit("comment", None, "x + 1", "return", "# why\n    return"),
    _edit("docstring", None, "x + 1", "    return", '    """Add one."""\n    return'),
    _edit("formatting", None, "x + 1", "x + 1", "(\n        x  +  1\n    )"),
    _edit("blank lines above", None, "x + 1", "\n\n\ndef work", "\n\n\n\n\n\ndef work"),
    _edit("comment in a helper", None, "scale(x)", "return", "# why\n    return", "from PKG.tools import scale", file="tools.py", tools="def scale(x):\n    return x * 2\n"),
    _edit("docstring of a class", None, "Square().double() * x", "    def double", '    """Twice."""\n    def double', "from PKG.shapes import Square", file="shapes.py", shapes=SHAPES),
    _edit("unused function", None, "x + 1", "y * 2", "y * 3", above="def other(y):\n    return y * 2"),
    _edit("unused constant", None, "x + 1", "A = 1", "A = 2", above="A = 1"),
    _edit("unused helper of a used module", None, "scale(x)", "    return x\n", "    return -x\n", "from PKG.tools import scale", file="tools.py", tools=TOOLS),
    _edit("unused import", None, "x + 1", "\n\n\ndef work", "\nimport json\n\n\ndef work"),
    _edit("order of definitions", None, "one(x) + two(x)", "def one(x):\n    return 1\n\n\ndef two(x):\n    return 2", "def two(x):\n    return 2\n\n\ndef one(x):\n    return 1", above="def one(x):\n    return 1\n\n\ndef two(x):\n    return 2"),
    _edit("import for type checkers", None, "x + 1", "import Fast", "import Slow", above="from __future__ import annotations\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from PKG.kinds import Fast", kinds="class Fast: ...\nclass Slow: ...\n"),
    _edit("logger", None, "LOG.debug(x) or x", 'getLogger("a")', 'getLogger("b")', above='import logging\n\nLOG = logging.getLogger("a")'),
    _edit("lock", None, "(LOCK is not None) * x", "threading.Lock()", "threading.RLock()", above="import threading\n\nLOCK = threading.Lock()"),
    _edit("arithmetic on literals", None, "x * HOUR", "60 * 60", "3600", above="HOUR = 60 * 60"),
    _edit("order of a set", None, "(x in SET) * x", "{1, 2}", "{2, 1}", above="SET = {1, 2}"),
    _edit("annotation of a constant", None, "x * A", "A = 1", "A: int = 1", above="A = 1"),
    _edit("cache on a helper", None, "helper(x)", "@cache\n", "", above="from functools import cache\n\n\n@cache\ndef helper(x):\n    return x * 2"),
    _edit("other half of a tuple assignment", None, "x * A", "1, 2", "1, 3", above="A, B = 1, 2"),
    _edit("helper moved below", None, "helper(x)", "def helper(x):\n    return x * 2\n\n\ndef work(x: float) -> float:\n    return helper(x)\n", "def work(x: float) -> float:\n    return helper(x)\n\n\ndef helper(x):\n    return x * 2\n", above="def helper(x):\n    return x * 2"),
    # The function itself.
    _edit("body", "body", "x + 1", "x + 1", "x + 2"),
    _edit("int to float", "body", "x + 1", "x + 1", "x + 1.0"),
    _edit("nested function", "body", "[f(x) for f in [lambda y: y * 2]][0]", "y * 2", "y * 3"),
    _edit("comprehension", "body", "sum(i for i in range(3)) + x", "range(3)", "range(4)"),
    Edit("default", "default k", {"main.py": "def work(x: float, k: int = 2) -> float:\n    return x * k\n"}, {"main.py": ("k: int = 2", "k: int = 3")}),
    Edit("keyword-only default", "default k", {"main.py": "def work(x: float, *, k: int = 2) -> float:\n    return x * k\n"}, {"main.py": ("k: int = 2", "k: int = 3")}),
    Edit("constant as default", "constant PKG.main.K", {"main.py": "K = 2\n\n\ndef work(x: float, k: int = K) -> float:\n    return x * k\n"}, {"main.py": ("K = 2", "K = 3")}),
    Edit("closure", "closure k", {"main.py": "def make(k):\n    def work(x: float) -> float:\n        return x * k\n    return work\n\n\nwork = make(2)\n"}, {"main.py": ("make(2)", "make(3)")}),
    Edit("functions in a container of a closure", None, {"main.py": "def one(x):\n    return x\n\n\ndef make(fs):\n    def work(x: float) -> float:\n        return fs['a'](x)\n    return work\n\n\nwork = make({'a': one})\n"}, {"main.py": ("    return x\n\n\ndef make", "    return x\n\n\n\ndef make")}),
    Edit("function in a container of a closure", "helper PKG.main.one", {"main.py": "def one(x):\n    return x\n\n\ndef make(fs):\n    def work(x: float) -> float:\n        return fs['a'](x)\n    return work\n\n\nwork = make({'a': one})\n"}, {"main.py": ("return x\n", "return -x\n")}),
    Edit("lambda in a container of a closure", "helper closure fs[0]", {"main.py": "def make(fs):\n    def work(x: float) -> float:\n        return fs[0](x)\n    return work\n\n\nwork = make([lambda x: x * 2, lambda x: x * 3])\n"}, {"main.py": ("x * 2", "x * 4")}),
    Edit("state of an object in a closure", "closure scale", {"main.py": "from PKG.tools import Scale\n\n\ndef make(scale):\n    def work(x: float) -> float:\n        return scale(x)\n    return work\n\n\nwork = make(Scale(2))\n", "tools.py": "class Scale:\n    def __init__(self, k):\n        self.k = k\n\n    def __call__(self, x):\n        return x * self.k\n"}, {"main.py": ("Scale(2)", "Scale(3)")}),
    Edit("class of an object in a closure", "class PKG.tools.Scale", {"main.py": "from PKG.tools import Scale\n\n\ndef make(scale):\n    def work(x: float) -> float:\n        return scale(x)\n    return work\n\n\nwork = make(Scale(2))\n", "tools.py": "class Scale:\n    def __init__(self, k):\n        self.k = k\n\n    def __call__(self, x):\n        return x * self.k\n"}, {"tools.py": ("x * self.k", "x + self.k")}),
    Edit("decorator's argument", "body", {"main.py": "from PKG.retry import retry\n\n\n@retry(2)\ndef work(x: float) -> float:\n    return x\n", "retry.py": RETRY}, {"main.py": ("retry(2)", "retry(3)")}),
    Edit("decorator's code", "helper PKG.retry.retry", {"main.py": "from PKG.retry import retry\n\n\n@retry(2)\ndef work(x: float) -> float:\n    return x\n", "retry.py": RETRY}, {"retry.py": ("range(times)", "range(times + 1)")}),
    Edit("wrapper put on by a call", "wrapper 0", {"main.py": "from PKG.retry import retry\n\n\ndef inner(x: float) -> float:\n    return x\n\n\nwork = retry(2)(inner)\n", "retry.py": RETRY}, {"main.py": ("retry(2)", "retry(3)")}),
    Edit("body below a wrapper", "body", {"main.py": "from PKG.retry import retry\n\n\ndef inner(x: float) -> float:\n    return x\n\n\nwork = retry(2)(inner)\n", "retry.py": RETRY}, {"main.py": ("return x", "return -x")}),
    Edit("argument of a partial", "argument k", {"main.py": "from functools import partial\n\n\ndef inner(x: float, k: float) -> float:\n    return x * k\n\n\nwork = partial(inner, k=2)\n"}, {"main.py": ("k=2", "k=3")}),
    Edit("state of a bound method", "state self", {"main.py": "class Model:\n    def __init__(self, k):\n        self.k = k\n\n    def run(self, x: float) -> float:\n        return x * self.k\n\n\nwork = Model(2).run\n"}, {"main.py": ("Model(2)", "Model(3)")}),
    Edit("another method of a bound method's class", "class PKG.main.Model", {"main.py": "class Model:\n    def k(self):\n        return 2\n\n    def run(self, x: float) -> float:\n        return x * self.k()\n\n\nwork = Model().run\n"}, {"main.py": ("return 2", "return 3")}),
    Edit("callable object", "class PKG.main.Model", {"main.py": "class Model:\n    def __call__(self, x: float) -> float:\n        return x * 2\n\n\nwork = Model()\n"}, {"main.py": ("x * 2", "x * 3")}),
    # Constants.
    _edit("constant", "constant PKG.main.A", "x * A", "A = 1", "A = 2", above="A = 1"),
    _edit("container", "constant PKG.main.T", 'x * T["a"][0]', "[1]", "[2]", above='T = {"a": [1]}'),
    _edit("constant of another module", "constant PKG.tools.LIMIT", "scale(x)", "LIMIT = 3", "LIMIT = 4", "from PKG.tools import scale", file="tools.py", tools=TOOLS),
    _edit("constant made of another", "constant PKG.main.A", "x * B", "A = 1", "A = 2", above="A = 1\nB = A + 1"),
    _edit("attribute of a module", "constant PKG.tools.LIMIT", "x * tools.LIMIT", "LIMIT = 3", "LIMIT = 4", "from PKG import tools", file="tools.py", tools=TOOLS),
    _edit("container filled later", "constant PKG.main.T", "x * T[0]", "append(1)", "append(2)", above="T = []\nT.append(1)"),
    _edit("container filled in a loop", "constant PKG.main.T", "x * T[0]", "i * 2", "i * 3", above="T = {}\nfor i in range(3):\n    T[i] = i * 2"),
    _edit("container filled by item", "constant PKG.main.T", "x * T[0]", "T[0] = 1", "T[0] = 2", above="T = {}\nT[0] = 1"),
    _edit("constant under a condition", "constant PKG.main.FAST", "x * A", "FAST = True", "FAST = False", above="FAST = True\nif FAST:\n    A = 1\nelse:\n    A = 2"),
    _edit("constant added to", "constant PKG.main.A", "x * A", "A += 1", "A += 2", above="A = 1\nA += 1"),
    _edit("expression of the environment", "constant PKG.main.MODE", "x if MODE else -x", '"a")', '"b")', above='import os\n\nMODE = os.environ.get("MODE", "a")'),
    # Helpers.
    _edit("helper", "helper PKG.main.helper", "helper(x)", "x * 2", "x * 3", above="def helper(x):\n    return x * 2"),
    _edit("helper below", "helper PKG.main.helper", "helper(x)", "x * 2", "x * 3", below="def helper(x):\n    return x * 2"),
    _edit("helper of a helper", "helper PKG.main.b", "a(x)", "x * 2", "x * 3", above="def a(x):\n    return b(x)\n\n\ndef b(x):\n    return x * 2"),
    _edit("from m import f as g", "helper PKG.tools.scale", "g(x)", "x * LIMIT", "x + LIMIT", "from PKG.tools import scale as g", file="tools.py", tools=TOOLS),
    _edit("import m as n", "helper PKG.tools.scale", "n.scale(x)", "x * LIMIT", "x + LIMIT", "from PKG import tools as n", file="tools.py", tools=TOOLS),
    _edit("import a.b", "helper PKG.deep.inner.f", "PKG.deep.inner.f(x)", "x * 2", "x * 3", "import PKG.deep.inner", file="deep/inner.py", deep____init__="", deep__inner="def f(x):\n    return x * 2\n"),
    _edit("imported inside the body", "helper PKG.tools.scale", "(__import__ and scale(x))", "x * LIMIT", "x + LIMIT", "def scale(x):\n    from PKG.tools import scale\n    return scale(x)", file="tools.py", tools=TOOLS),
    _edit("re-exported by a package", "helper PKG.deep.inner.f", "f(x)", "x * 2", "x * 3", "from PKG.deep import f", file="deep/inner.py", deep____init__="from PKG.deep.inner import f\n", deep__inner="def f(x):\n    return x * 2\n"),
    _edit("star import", "helper PKG.tools.scale", "scale(x)", "x * LIMIT", "x + LIMIT", "from PKG.tools import *", file="tools.py", tools=TOOLS),
    _edit("one helper in place of another", "body", "scale(x)", "scale(x)", "other(x)", "from PKG.tools import scale, other", tools=TOOLS),
    _edit("import of another helper", "helper PKG.tools.other", "scale(x)", "import scale", "import other as scale", "from PKG.tools import scale", tools=TOOLS),
    _edit("another library under one name", "import PKG.main.m", "m.sqrt(x).real", "import math as m", "import cmath as m", above="import math as m"),
    _edit("circular import", "helper PKG.tools.f", "f(x)", "x * 2", "x * 3", "from PKG.tools import f\n\nK = 1", file="tools.py", tools="from PKG import main\n\n\ndef f(x):\n    return x * 2 + main.K\n"),
    _edit("constant through a circular import", "constant PKG.main.K", "f(x)", "K = 1", "K = 2", "from PKG.tools import f\n\nK = 1", tools="from PKG import main\n\n\ndef f(x):\n    return x * 2 + main.K\n"),
    _edit("import with a fallback", "helper PKG.tools.scale", "scale(x)", "x * LIMIT", "x + LIMIT", "try:\n    from PKG.tools import scale\nexcept ImportError:\n    scale = None", file="tools.py", tools=TOOLS),
    _edit("module's __getattr__", "helper PKG.tools.__getattr__", "tools.anything * x", "return 2", "return 3", "from PKG import tools", file="tools.py", tools="def __getattr__(name):\n    return 2\n"),
    _edit("module passed about", "module PKG.tools", "use(tools, x)", "x * LIMIT", "x + LIMIT", "from PKG import tools\n\n\ndef use(m, x):\n    return m.scale(x)", file="tools.py", tools=TOOLS),
    _edit("getattr with a computed name", "module PKG.tools", 'getattr(tools, "sca" + "le")(x)', "x * LIMIT", "x + LIMIT", "from PKG import tools", file="tools.py", tools=TOOLS),
    _edit("getattr with a literal name", "helper PKG.tools.scale", 'getattr(tools, "scale")(x)', "x * LIMIT", "x + LIMIT", "from PKG import tools", file="tools.py", tools=TOOLS),
    # Callables held elsewhere.
    _edit("functions in a dict", "helper PKG.main.f", 'T["f"](x)', "x * 2", "x * 3", above='def f(x):\n    return x * 2\n\n\nT = {"f": f}'),
    _edit("lambda in a list", "constant PKG.main.T", "T[0](x)", "x * 2", "x * 3", above="T = [lambda x: x * 2]"),
    _edit("partial at module level", "constant PKG.main.f", "f(x)", "k=2", "k=3", above="from functools import partial\n\n\ndef g(x, k):\n    return x * k\n\n\nf = partial(g, k=2)"),
    _edit("registered by a decorator", "constant PKG.registry.TABLE", 'TABLE["a"](x)', "x * 2", "x * 3", 'from PKG.registry import TABLE, register\n\n\n@register("a")\ndef a(x):\n    return x * 2', registry=REGISTRY),
    _edit("registered in another module", "constant PKG.registry.TABLE", 'TABLE["a"](x)', "x * 2", "x * 3", "from PKG.registry import TABLE\nfrom PKG import plugin", file="plugin.py", registry=REGISTRY, plugin='from PKG.registry import register\n\n\n@register("a")\ndef a(x):\n    return x * 2\n'),
    _edit("singledispatch", "helper PKG.main.show", "show(x)", "x * 2", "x * 3", above="from functools import singledispatch\n\n\n@singledispatch\ndef show(x):\n    return x\n\n\n@show.register\ndef _(x: float):\n    return x * 2"),
    _edit("wraps chain of a helper", "helper PKG.retry.retry", "f(x)", "range(times)", "range(times + 1)", "from PKG.retry import retry\n\n\n@retry(2)\ndef f(x):\n    return x", file="retry.py", retry=RETRY),
    _edit("method replaced from outside", "helper PKG.main.double", "Square().double() * x", "return 5", "return 6", "from PKG.shapes import Square\n\n\ndef double(self):\n    return 5\n\n\nSquare.double = double", shapes=SHAPES, misses={"notebook": PATCHED, "exec": PATCHED}),
    # Classes.
    _edit("method", "class PKG.shapes.Square", "Square().double() * x", "2 * self", "3 * self", "from PKG.shapes import Square", file="shapes.py", shapes=SHAPES),
    _edit("base class", "class PKG.shapes.Base", "Square().double() * x", "** 2", "** 3", "from PKG.shapes import Square", file="shapes.py", shapes=SHAPES),
    _edit("attribute of a class", "class PKG.shapes.Base", "Square().double() * x", "side = 2", "side = 3", "from PKG.shapes import Square", file="shapes.py", shapes=SHAPES),
    _edit("dataclass field", "class PKG.main.P", "P().k * x", "k: int = 2", "k: int = 3", above="from dataclasses import dataclass\n\n\n@dataclass\nclass P:\n    k: int = 2"),
    _edit("enum value", "class PKG.main.E", "E.A.value * x", "A = 2", "A = 3", above="from enum import Enum\n\n\nclass E(Enum):\n    A = 2"),
    _edit("subclass that registers itself", "class PKG.main.Base", "Base.known[0]().k * x", "k = 2", "k = 3", above="class Base:\n    known = []\n\n    def __init_subclass__(cls):\n        Base.known.append(cls)\n\n\nclass Sub(Base):\n    k = 2"),
    _edit("instance at module level", "constant PKG.main.S", "S.run(x)", "M(2)", "M(3)", above="class M:\n    def __init__(self, k):\n        self.k = k\n\n    def run(self, x):\n        return x * self.k\n\n\nS = M(2)"),
    Edit("type alias that decides conversion", "constant PKG.main.T", {"main.py": "T = float\n\n\ndef work(x: float) -> T:\n    return int(x)\n"}, {"main.py": ("T = float", "T = int")}),
    Edit("TypedDict that names the outputs", "class PKG.main.Out", {"main.py": "from typing import TypedDict\n\n\nclass Out(TypedDict):\n    a: int\n\n\ndef work(x: float) -> Out:\n    return {'a': 1}\n"}, {"main.py": ("a: int", "a: float")}),
    # More ways to name code.
    _edit("default of a helper", "helper PKG.tools.f", "f(x)", "k=2", "k=3", "from PKG.tools import f", file="tools.py", tools="def f(x, *, k=2):\n    return x * k\n"),
    _edit("constant as default of a helper", "constant PKG.tools.K", "f(x)", "K = 2", "K = 3", "from PKG.tools import f", file="tools.py", tools="K = 2\n\n\ndef f(x, k=K):\n    return x * k\n"),
    _edit("relative import of a parent", "helper PKG.tools.scale", "f(x)", "x * LIMIT", "x + LIMIT", "from PKG.deep.inner import f", file="tools.py", tools=TOOLS, deep____init__="", deep__inner="from PKG.tools import scale\n\n\ndef f(x):\n    return scale(x)\n"),
    _edit("namespace package", "helper PKG.deep.inner.f", "f(x)", "x * 2", "x * 3", "from PKG.deep.inner import f", file="deep/inner.py", deep__inner="def f(x):\n    return x * 2\n"),
    _edit("function under a condition", "helper PKG.main.f", "f(x)", "x * 2", "x * 3", above="import sys\n\nif sys.version_info > (3,):\n    def f(x):\n        return x * 2\nelse:\n    f = None"),
    _edit("property", "class PKG.main.P", "P().k * x", "return 2", "return 3", above="class P:\n    @property\n    def k(self):\n        return 2"),
    _edit("static method", "class PKG.main.P", "P.k() * x", "return 2", "return 3", above="class P:\n    @staticmethod\n    def k():\n        return 2"),
    _edit("base class by its module", "class PKG.shapes.Base", "Own().area() * x", "** 2", "** 3", "from PKG import shapes\n\n\nclass Own(shapes.Base):\n    pass", file="shapes.py", shapes=SHAPES),
    _edit("metaclass", "class PKG.main.Meta", "P.k * x", "k = 2", "k = 3", above="class Meta(type):\n    k = 2\n\n\nclass P(metaclass=Meta):\n    pass"),
    _edit("class decorator", "helper PKG.main.mark", "P.k * x", "= 2", "= 3", above="def mark(kind):\n    kind.k = 2\n    return kind\n\n\n@mark\nclass P:\n    pass"),
    _edit("default factory of a dataclass", "helper PKG.main.make", "P().k[0] * x", "[2]", "[3]", above="from dataclasses import dataclass, field\n\n\ndef make():\n    return [2]\n\n\n@dataclass\nclass P:\n    k: list = field(default_factory=make)"),
    _edit("argument of a class decorator", "class PKG.main.P", "x if P(1) < P(2) else 0", "order=True", "order=True, frozen=True", above="from dataclasses import dataclass\n\n\n@dataclass(order=True)\nclass P:\n    k: int"),
    _edit("default of a NamedTuple", "class PKG.main.P", "P().k * x", "k: int = 2", "k: int = 3", above="from typing import NamedTuple\n\n\nclass P(NamedTuple):\n    k: int = 2"),
    Edit("one of two lambdas on a line", "body", {"main.py": "work, other = lambda x: x + 1, lambda x: x + 2\n"}, {"main.py": ("x + 1", "x + 3")}),
    Edit("the other of two lambdas on a line", None, {"main.py": "work, other = lambda x: x + 1, lambda x: x + 2\n"}, {"main.py": ("x + 2", "x + 3")}),
    Edit("async function", "body", {"main.py": "async def work(x: float) -> float:\n    return x + 1\n"}, {"main.py": ("x + 1", "x + 2")}),
    Edit("match statement", "body", {"main.py": "def work(x: float) -> float:\n    match x:\n        case 1:\n            return 2\n    return x\n"}, {"main.py": ("case 1", "case 2")}),
    _edit("f-string", "body", 'float(f"{x:.2f}")', ".2f", ".3f"),
    _edit("registered in a loop", "helper PKG.main.f", 'T["f"](x)', "x * 2", "x * 3", above="def f(x):\n    return x * 2\n\n\nT = {}\nfor one in (f,):\n    T[one.__name__] = one"),
    _edit("filled by a function", "helper PKG.main.fill", "T[0] * x", "= 2", "= 3", above="T = {}\n\n\ndef fill(t):\n    t[0] = 2\n\n\nfill(T)"),
    _edit("setattr from outside", "class PKG.main.P", "P().k * x", "2)", "3)", above='class P:\n    k = 1\n\n\nsetattr(P, "k", 2)'),
    _edit("constant updated from itself", "constant PKG.main.T", "T[1] * x", "1: 2", "1: 3", above="T = {0: 1}\nT = {**T, 1: 2}"),
    _edit("constant made in a with block", "constant PKG.main.T", "T * x", "T = 2", "T = 3", above="import contextlib\n\nwith contextlib.suppress(ValueError):\n    T = 2"),
    _edit("module passed to operator.attrgetter", "module PKG.tools", 'attrgetter("scale")(tools)(x)', "x * LIMIT", "x + LIMIT", "from operator import attrgetter\n\nfrom PKG import tools", file="tools.py", tools=TOOLS),
    Edit("annotation under postponed evaluation", "constant PKG.main.T", {"main.py": "from __future__ import annotations\n\nT = float\n\n\ndef work(x: float) -> T:\n    return int(x)\n"}, {"main.py": ("T = float", "T = int")}),
    # More that does not count.
    _edit("block for running as a script", None, "x + 1", "print(1)", "print(2)", below='if __name__ == "__main__":\n    print(1)'),
    _edit("__all__", None, "scale(x)", '["scale"]', '["scale", "LIMIT"]', "from PKG.tools import scale", file="tools.py", tools='__all__ = ["scale"]\n\n\ndef scale(x):\n    return x\n'),
    _edit("digits of a literal", None, "x * 1000000", "1000000", "1_000_000"),
    _edit("quotes and joined strings", None, 'len("ab") * x', '"ab"', "('a' 'b')"),
    _edit("order of imports", None, "math.pi * x", "import json\nimport math", "import math\nimport json", above="import json\nimport math"),
    _edit("docstring of an attribute", None, "P.k * x", "k = 2\n", 'k = 2\n    """Twice."""\n', above="class P:\n    k = 2\n"),
    _edit("a print at module level", None, "T[0] * x", "T = [1]\n", "T = [1]\nprint(len(T), file=open('/dev/null', 'w'))\n", above="T = [1]\n"),
    _edit("another module that imports this one", None, "x + 1", "= 1", "= 2", file="other.py", other="A = 1\n"),
]  # fmt: skip


def write_project(folder: Path, files: dict[str, str], layout: str, name: str = "") -> None:
    """Write a project in a layout; `name` is as `in_layout` takes it."""
    top = folder / (name or "project") if layout == "package" else folder
    added = {"__init__.py": ""} if layout == "package" else {}
    prefix = f"{name}_" if name and layout == "modules" else ""
    for file, text in {**added, **files}.items():
        path = top / (prefix + file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(in_layout(text, layout, file.count("/"), name))


def in_layout(text: str, layout: str, depth: int = 0, name: str = "") -> str:
    """Write `PKG` out: with relative imports in a package, as plain modules elsewhere.

    A `name` is that of the package, or what the names of the modules begin with, so that many projects fit into one process.
    """
    if layout == "package":
        dots = "." * (depth + 1)
        text = re.sub(r"from PKG import", f"from {dots} import", text)
        text = re.sub(r"from PKG\.", f"from {dots}", text)
        return text.replace("PKG.", f"{name or 'project'}.")
    if name:
        text = re.sub(r"from PKG import ([\w ,]+)", lambda found: f"import {_prefixed(found[1], name)}", text)
        return text.replace("PKG.", f"{name}_")
    text = re.sub(r"from PKG import", "import", text)
    return text.replace("PKG.", "")


def _prefixed(modules: str, name: str) -> str:
    """Return `tools, slow as codec` as `edit7_tools as tools, edit7_slow as codec`."""
    pairs = [one.strip().partition(" as ") for one in modules.split(",")]
    return ", ".join(f"{name}_{module} as {bound or module}" for module, _, bound in pairs)


def apply(edit: Edit) -> dict[str, str]:
    """Return the project after the edit."""
    files = dict(edit.files)
    for name, (old, new) in edit.changes.items():
        assert not old or files[name].count(old) >= 1, f"{edit.name}: {old!r} is not in {name}"
        files[name] = files[name].replace(old, new, 1) if old else new
    return files
