"""LateModules: what a function imports when it runs, served in a worker that may not find it; sent there by value.

This module imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.readers import FileReader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

_EXECUTES = threading.RLock()


class LateModule(NamedTuple):
    """A module as it travels.

    Attributes:
        file: where its source lies, or None. path: of a package, where its modules lie; else None.
        text: its source, or None where nobody has it.
        held: the module itself, as the sender had loaded it; or those of its names that are imported, by name, where the source is executed
            only if another is asked for; or None, where the sender had not loaded it, and the source is executed.
    """

    file: str | None
    path: Sequence[str] | None
    text: str | None
    held: ModuleType | Mapping[str, Any] | None


class LateModules:
    """Finder and loader of a function's late modules; they come before modules of these names that this process finds itself.

    In a process that serves several functions, or several versions of one, each has its own: those of the others are set aside.
    """

    def __init__(self, modules: Mapping[str, LateModule]) -> None:
        self._modules = modules
        self._aside: dict[str, ModuleType] = {}
        self._displaced: dict[str, ModuleType] = {}

    def take_place(self) -> None:
        """Serve this function's modules, and no other's, from now on."""
        if self._modules and self in sys.meta_path:
            return
        set_late_modules_aside()
        if not self._modules:
            return
        self._displaced = {name: sys.modules.pop(name) for name in self._modules if name in sys.modules}
        sys.modules.update(self._aside)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]  # what it asks for is there

    def set_late_modules_aside(self) -> None:
        """Serve them no longer; what was in their place is there again."""
        sys.meta_path.remove(self)  # type: ignore[arg-type]  # as above
        self._aside = {name: sys.modules.pop(name) for name in self._modules if name in sys.modules}
        sys.modules.update(self._displaced)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return how to load a module of these; called by Python."""
        found = self._modules.get(name)
        if found is None:
            return None
        spec = ModuleSpec(name, self, origin=found.file, is_package=found.path is not None)  # type: ignore[arg-type]  # as above
        spec.has_location = found.file is not None
        if found.path is not None:
            spec.submodule_search_locations = list(found.path)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module itself, where the sender had it; called by Python."""
        held = self._modules[spec.name].held
        if isinstance(held, ModuleType):
            return held
        return None if held is None else _Partial(spec.name, held, self)

    def exec_module(self, module: ModuleType) -> None:
        """Execute what was sent as source; called by Python."""
        held = self._modules[module.__name__].held
        if held is None:
            self.execute(module)
        elif not isinstance(held, ModuleType):
            vars(module).update(held)

    def execute(self, module: ModuleType) -> None:
        """Execute the source of a module under the name of its file, by which tracebacks find its lines, also those of an older file here."""
        found = self._modules[module.__name__]
        text, file = found.text or "", found.file or f"<{module.__name__}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), vars(module))  # noqa: S102  # as every import does

    def get_source(self, name: str) -> str | None:
        """Return the source of a module; called by `inspect`."""
        return self._modules[name].text

    def get_data(self, path: str) -> bytes:
        """Return a file that lies beside a module; called by `pkgutil`."""
        return Path(path).read_bytes()

    def get_resource_reader(self, name: str) -> Any:
        """Return what finds files of a package, where they lie here, too; called by `importlib.resources`."""
        file = self._modules[name].file
        return None if file is None else FileReader(SimpleNamespace(path=file))  # type: ignore[arg-type]  # it asks for no more

    def serves(self, name: str) -> bool:
        """Return whether a module of this name is among them."""
        return name in self._modules


class _Partial(ModuleType):
    """A module of which some names travelled, or none, as of a package of which a module is imported: its `__init__` may need all the project."""

    def __init__(self, name: str, held: Mapping[str, Any], late: LateModules) -> None:
        super().__init__(name)
        vars(self)["__late__"] = held, late

    def __getattr__(self, name: str) -> Any:
        if "__late__" not in vars(self) or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        held, late = vars(self)["__late__"]
        if late.serves(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        with _EXECUTES:
            if (
                given := vars(self).pop("__late__", None)
            ) is not None:  # first, for modules that it imports may ask for more of it
                try:
                    late.execute(self)
                except BaseException:
                    vars(self)["__late__"] = given  # who asks next gets the same error
                    raise
                vars(self).update(held)
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return vars(self)[name]

    def __setattr__(self, name: str, value: Any) -> None:
        # Python puts each submodule into its package, also where that has a function of this name in its place.
        if not (isinstance(value, ModuleType) and name in vars(self).get("__late__", ({},))[0]):
            super().__setattr__(name, value)


def set_late_modules_aside() -> None:
    """Let this process find modules as it does by itself, until a function takes its place again."""
    for finder in list(sys.meta_path):
        # By name, because each function came with its own version of this class.
        aside = getattr(finder, "set_late_modules_aside", None)
        if aside is not None:
            aside()
