"""Which modules are the user's own code, whose edits count, and where the others come from."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from orcapod_dagster.core.identity.modules import find_spec

Origin = Literal["own", "installed", "standard", "beside"]
"""`"beside"`: source that is neither own code nor installed, such as a second package of a repository."""

_PACKAGE: Final = __name__.partition(".")[0]
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


@dataclass(slots=True)
class OwnCode:
    """The own code of one function: its top-level package, or for a loose file the modules beside it; and what was named."""

    tops: frozenset[str]
    folder: str | None
    """Where the modules beside a loose file lie; `None` for a package."""
    installed: frozenset[str] = frozenset()
    """Modules that one distribution installed together with a loose file."""
    _origins: dict[str, Origin] = field(default_factory=dict[str, Origin])

    def origin(self, module: str) -> Origin:
        """Tell where a module comes from, by its canonical name."""
        top = module.partition(".")[0]
        if top not in self._origins:
            self._origins[top] = self._find_origin(top)
        return self._origins[top]

    def covers(self, module: str) -> bool:
        """Tell whether a module is own code."""
        return self.origin(module) == "own"

    def _find_origin(self, top: str) -> Origin:
        if top in self.tops or top in self.installed:
            return "own"
        if top in sys.stdlib_module_names:
            return "standard"
        if top == _PACKAGE:
            return "installed"
        place = _place_of(top)
        if place is None or _is_installed(place):
            return "installed"
        return "own" if self.folder is not None and place == self.folder else "beside"


def own_code_of(module: str, named: Iterable[Any]) -> OwnCode:
    """Return the own code of a function in `module` (canonical name), with what `own_code=[...]` names."""
    names = (name if isinstance(name, str) else name.__name__ for name in named)
    top = module.partition(".")[0]
    tops = frozenset({*(name.partition(".")[0] for name in names), top})
    return OwnCode(tops, *_beside(top))


def _beside(top: str) -> tuple[str | None, frozenset[str]]:
    """Return the folder of a loose file, or the modules installed with it; nothing for a package."""
    loaded = vars(sys.modules[top]) if top in sys.modules else {}
    if top in ("", "__main__"):
        file = loaded.get("__file__")
        return (str(Path(file).resolve().parent) if file else str(Path.cwd())), frozenset()
    if "__path__" in loaded:
        return None, frozenset()
    place = _place_of(top)
    if place is None:
        return None, frozenset()
    return (None, _installed_together(place, top)) if _is_installed(place) else (place, frozenset())


@functools.cache
def _installed_together(folder: str, top: str) -> frozenset[str]:
    """Return the top-level modules of the distribution that installed `top`."""
    for record in Path(folder).glob("*.dist-info/RECORD"):
        try:
            lines = record.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        if any(line.startswith(f"{top}.py,") for line in lines):
            first = (line.partition(",")[0].partition("/")[0] for line in lines)
            return frozenset(name.removesuffix(".py") for name in first if not name.endswith((".dist-info", "..")))
    return frozenset()


def _place_of(top: str) -> str | None:
    """Return the folder (or archive) in which a top-level module or package lies."""
    loaded = vars(sys.modules[top]) if top in sys.modules else {}
    spec, file, search = loaded.get("__spec__"), loaded.get("__file__"), loaded.get("__path__")
    if not loaded and top:
        spec = find_spec(top)
        file, search = (None, None) if spec is None else (spec.origin, spec.submodule_search_locations)
    places = list(search or ())
    inside = places[0] if places else file
    if not inside or (spec is not None and spec.origin in ("built-in", "frozen")):
        return None
    return _resolved(str(Path(inside).parent))


@functools.cache
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)


@functools.cache
def _is_installed(folder: str) -> bool:
    return bool(_INSTALLED & set(Path(folder).parts)) or (folder + os.sep).startswith(_standard_library())


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib"))
