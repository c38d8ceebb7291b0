"""Which modules are the user's own, and how they are pickled by value."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_PACKAGE: Final = __name__.partition(".")[0]
# Its functions are a user's, of an executor that is tested, and importing it takes a worker seconds.
_TESTING: Final = f"{_PACKAGE}.testing"
# Registration is global to the process, so two runs that register the same module take turns.
_REGISTRY_LOCK: Final = threading.RLock()


def own_modules(function: Callable[..., Any]) -> list[ModuleType]:
    """Return the loaded modules of the function's own code: its top-level package, or for a lone file its directory.

    Modules of the standard library, of installed distributions and of this package are not among them.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    own = sys.modules.get(getattr(function, "__module__", None) or "")
    if own is None or not is_own(own):
        return []
    # `python -m package.module` runs the module under the name `__main__`.
    name = own.__spec__.name if own.__name__ == "__main__" and own.__spec__ is not None else own.__name__
    if "." in name or hasattr(own, "__path__"):
        top = name.partition(".")[0]
        return [m for m in _loaded() if m.__name__.partition(".")[0] == top and is_own(m)]
    directory = Path(_places(own)[0]).resolve().parent
    return [m for m in _loaded() if is_own(m) and Path(_places(m)[0]).resolve().is_relative_to(directory)]


@contextmanager
def pickled_by_value(cloudpickle: Any, modules: Iterable[ModuleType]) -> Generator[None, None, None]:
    """Have cloudpickle send what these modules define by value, within the block; what users registered stays so."""
    with _REGISTRY_LOCK:
        known = cloudpickle.list_registry_pickle_by_value()
        added = [m for m in modules if m.__name__ not in known and sys.modules.get(m.__name__) is m]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


def _loaded() -> list[ModuleType]:
    """Return the modules that can be registered; `__main__` is pickled by value anyway."""
    return [m for name, m in list(sys.modules.items()) if name == getattr(m, "__name__", None) != "__main__"]


def is_own(module: ModuleType) -> bool:
    """Return whether a module is neither of the standard library, nor of an installed distribution, nor of this package but its tests."""
    if module.__name__.partition(".")[0] == _PACKAGE and not module.__name__.startswith(_TESTING):
        return False
    places = _places(module)
    return bool(places) and all(map(is_own_file, places))


def is_own_file(file: str) -> bool:
    """Return whether a file, or a folder of modules, belongs neither to the standard library nor to an installed distribution."""
    return not _is_installed(file)


def _places(module: ModuleType) -> list[str]:
    """Return the file of a module, or the folders of a package without an `__init__.py`; of a built-in one nothing."""
    file = getattr(module, "__file__", None)
    return [file] if isinstance(file, str) else [str(folder) for folder in getattr(module, "__path__", ())]


# Kept, because resolving the paths of two thousand loaded modules takes as long as many tasks.
@functools.cache
def _is_installed(file: str) -> bool:
    foreign = {"site-packages", "dist-packages"}
    places = (Path(file), Path(file).resolve())
    return any(foreign & set(p.parts) or str(p).startswith(_standard_library()) for p in places)


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = {paths[name] for name in ("stdlib", "platstdlib")}
    return tuple(place + os.sep for place in places | {os.path.realpath(place) for place in places})
