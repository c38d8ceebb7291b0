"""Which modules of the user's own a function imports when it runs; they go to workers with it."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NamedTuple

from orcapod_dagster.core.executors.late_modules import LateModule
from orcapod_dagster.core.executors.own_modules import is_own, is_own_file
from orcapod_dagster.core.executors.pickling import Noted, dumps

_IMPORT_NAME: Final = dis.opmap["IMPORT_NAME"]
_BY_FUNCTION: Final = "import_module"


class _Import(NamedTuple):
    """An import: `module` has a dot for each level; of `import module`, or by `import_module("its.name")`, there are no names."""

    module: str
    names: tuple[str, ...]


def dumps_function(
    cloudpickle: Any, function: Callable[..., Any], factories: Mapping[str, Any], modules: Iterable[ModuleType]
) -> bytes:
    """Pickle a function, the factories of its state, and the own modules that their code imports when it runs, as `LateModule` by name.

    Of a module that this process has loaded, names that are imported go by value, so that classes are those of values and of other
    code. Of one that is imported itself, of others, and where no pickler takes it, the source goes.

    Args:
        cloudpickle, modules: as `dumps` takes them.
    """
    modules = list(modules)
    search = _Search(modules)
    whole: dict[str, ModuleType] = {}
    while True:
        noted = Noted()
        try:
            packed = dumps(cloudpickle, (function, dict(factories), search.found), modules, noted, whole.values())
        except Exception:  # users' `__reduce__` may raise anything
            # What cannot be pickled may be the function itself.
            if not search.send_source_of(lambda late: not _can_be_pickled(cloudpickle, late, modules)):
                raise
            continue
        more = search.follow(noted.codes) or not noted.modules.keys() <= whole.keys()
        whole |= noted.modules
        if not more:
            return packed


def _can_be_pickled(cloudpickle: Any, value: Any, modules: list[ModuleType]) -> bool:
    try:
        dumps(cloudpickle, value, modules)
    except Exception:  # noqa: BLE001  # as above
        return False
    return True


class _Search:
    """What is imported by code that travels, found without importing anything.

    Attributes:
        found: the late modules so far, and the packages that they lie in, by name.
    """

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self.found: dict[str, LateModule] = {}
        self._own = {m.__name__: m for m in modules if is_own(m) and sys.modules.get(m.__name__) is m}
        main = sys.modules.get("__main__")
        scripts = [] if main is None else [main]
        named = [*self._own.values(), *scripts]
        self._packages = {getattr(m, "__file__", None): getattr(m, "__package__", None) or "" for m in named}
        self._tops = {name.partition(".")[0] for name in self._own}
        lone = [m for name, m in self._own.items() if "." not in name and not hasattr(m, "__path__")]
        lone += [m for m in scripts if getattr(m, "__spec__", None) is None and is_own(m)]
        self._directories = {Path(m.__file__).resolve().parent for m in lone if m.__file__}
        self._specs: dict[str, ModuleSpec | None] = {}
        self._unpicklable: set[str] = set()
        self._followed: set[str] = set()
        self._codes: list[tuple[CodeType, str]] = []

    def follow(self, codes: Iterable[CodeType]) -> bool:
        """Add what this code imports; return whether there was anything new."""
        before = self._extent()
        if self._own or self._directories:
            self._follow((code, self._packages.get(code.co_filename, "")) for code in codes)
        return self._extent() != before

    def send_source_of(self, is_bad: Callable[[LateModule], bool]) -> bool:
        """Send these as source, and what they import; return whether there were any."""
        bad = [name for name, late in self.found.items() if late.held and is_bad(late)]
        self._unpicklable.update(bad)
        for name in bad:
            del self.found[name]
            self._add(name, ())
        self._follow(())
        return bool(bad)

    def _follow(self, codes: Iterable[tuple[CodeType, str]]) -> None:
        """Add what this code imports, each in its package, and what is imported there in turn."""
        self._codes.extend(codes)
        while self._codes:
            code, package = self._codes.pop()
            for one in _imports_of_code(code):
                self._add_import(one, package, code.co_names)

    def _extent(self) -> dict[str, Any]:
        # Values are not compared: those of arrays have no truth.
        return {
            name: tuple(late.held) if isinstance(late.held, dict) else type(late.held)
            for name, late in self.found.items()
        }

    def _add_import(self, one: _Import, package: str, used: Sequence[str]) -> None:
        try:
            name = resolve_name(one.module, package)
        except ImportError:
            return  # it fails where it runs, too
        if not self._may_be_own(name) or not self._add(name, one.names) or one.names:
            return
        # `import a.b` binds `a`, of which other names may be used.
        for parent in _parents(name):
            if parent in self._own and parent not in self._unpicklable:
                self._add_names(parent, self._own[parent], [name for name in used if name in vars(self._own[parent])])

    def _may_be_own(self, name: str) -> bool:
        top = name.partition(".")[0]
        if name in self._own or top in self._tops:
            return True
        # A lone file's neighbours are its own; those that are loaded, are known.
        return bool(self._directories) and top not in sys.stdlib_module_names and top not in sys.modules

    def _add(self, name: str, names: tuple[str, ...]) -> bool:
        """Add a module, of which these names are imported, or itself; return whether there is one of the user's own."""
        module, spec = self._own.get(name), self._spec(name)
        if module is None and (spec is None or not self._is_own_spec(spec)):
            return False
        for parent in _parents(name):
            self.found.setdefault(parent, self._late(parent, {}))
        if module is None:
            self._add_source(name, None)
        elif name in self._unpicklable:
            self._add_source(name, {})
        elif not names and self._late(name, None).text is not None:
            # By value, the functions of a module have other globals than the module: what one rebinds, the other would not see.
            self._add_source(name, None)
        elif not names:
            self.found[name] = self._late(name, module)
        else:
            self._add_names(name, module, names)
        if self._path(name) is not None:
            known = {} if module is None else vars(module)
            for submodule in names:
                if isinstance(known.get(submodule, module), ModuleType | None):
                    self._add(f"{name}.{submodule}", ())
        return True

    def _add_names(self, name: str, module: ModuleType, names: Sequence[str]) -> None:
        known = self.found.get(name) or self._late(name, {})
        if isinstance(known.held, ModuleType):
            return
        # Its modules are served by their own names.
        asked = [
            one for one in names if one == "*" or vars(module).get(one, self) is not self._own.get(f"{name}.{one}")
        ]
        held = {one: vars(module)[one] for one in asked if one in vars(module)}
        by_getattr = len(held) < len(asked) and "__getattr__" in vars(module)
        self.found[name] = known._replace(held=module if by_getattr or "*" in names else {**(known.held or {}), **held})

    def _add_source(self, name: str, held: Mapping[str, Any] | None) -> None:
        if name in self._followed:
            return
        self._followed.add(name)
        late = self.found[name] = self._late(name, held)
        if late.text is None:
            return
        try:
            # From the file beside it, where Python has compiled it before.
            code = self._loader(name).get_code(name)
        except (ImportError, OSError, SyntaxError, ValueError):
            return  # it fails where it is imported, with its line
        package = name if late.path is not None else name.rpartition(".")[0]
        self._codes.extend((one, package) for one in _codes_in(code))

    def _late(self, name: str, held: ModuleType | Mapping[str, Any] | None) -> LateModule:
        module, spec, loader = self._own.get(name), self._spec(name), self._loader(name)
        try:
            text = loader.get_source(name) if hasattr(loader, "get_source") else None
        except (ImportError, OSError, SyntaxError, ValueError):
            text = None
        file = getattr(module, "__file__", None) or (spec.origin if spec is not None else None)
        return LateModule(file, self._path(name), text, held)

    def _loader(self, name: str) -> Any:
        module = self._own.get(name)
        return getattr(self._spec(name) if module is None else getattr(module, "__spec__", None), "loader", None)

    def _path(self, name: str) -> list[str] | None:
        """Return where the modules of a package lie."""
        module, spec = self._own.get(name), self._spec(name)
        path = getattr(module, "__path__", None) or (spec.submodule_search_locations if spec is not None else None)
        return None if path is None else [str(folder) for folder in path]

    def _spec(self, name: str) -> ModuleSpec | None:
        """Return where a module lies that is not loaded."""
        if name in self._own:
            return None
        if name not in self._specs:
            parent = name.rpartition(".")[0]
            path = self._path(parent) if parent else None
            self._specs[name] = None if parent and path is None else PathFinder.find_spec(name, path)
        return self._specs[name]

    def _is_own_spec(self, spec: ModuleSpec) -> bool:
        places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
        if not places or not all(map(is_own_file, places)):
            return False
        if spec.name.partition(".")[0] in self._tops:
            return True
        return any(Path(places[0]).resolve().is_relative_to(directory) for directory in self._directories)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _imports_of_code(code: CodeType) -> Generator[_Import, None, None]:
    """Yield what code imports, without that of functions in it, which travel as code, too."""
    if _BY_FUNCTION not in code.co_names and _IMPORT_NAME not in code.co_code[::2]:
        return
    level, names, texts = 0, None, None
    for step in dis.get_instructions(code):
        if step.opcode == _IMPORT_NAME:
            yield _Import("." * (level or 0) + step.argval, tuple(names or ()))
        elif step.opname != "EXTENDED_ARG":
            level, names = names, step.argval  # the two constants before it
        if step.argval == _BY_FUNCTION:
            texts = []
        elif texts is not None and step.opname == "LOAD_CONST" and isinstance(step.argval, str):
            texts.append(step.argval)
        elif texts is not None and step.opname not in ("PUSH_NULL", "EXTENDED_ARG"):
            yield from _import_by_function(texts)
            texts = None


def _import_by_function(texts: Sequence[str]) -> Generator[_Import, None, None]:
    """Yield what `import_module` imports that is called with these texts, its name and maybe a package."""
    try:
        if texts:
            yield _Import(resolve_name(*texts) if len(texts) == 2 else texts[0], ())
    except ImportError:
        return  # it fails where it runs, too


def _codes_in(code: CodeType) -> Generator[CodeType, None, None]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)
