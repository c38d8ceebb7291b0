"""How functions and values are pickled for workers: the user's own modules by value, and what has a life of its own anew."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import threading
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from types import CodeType, ModuleType
from typing import Any, Final

from orcapod_dagster.core.executors.cached import complete, make_cached
from orcapod_dagster.core.executors.own_modules import pickled_by_value

# Nothing waits for a lock of another process. What a weak table holds may be gone at any time: it is a cache.
_ANEW: Final[tuple[Callable[[], Any], ...]] = (
    threading.Lock,
    threading.RLock,
    weakref.WeakKeyDictionary[Any, Any],
    weakref.WeakValueDictionary[Any, Any],
)
# What cloudpickle (from 3.1.3 on) has for the file of code; with it, a traceback says neither where it was, nor in which line.
_NO_FILE: Final = "<dynamic-code>"
# How this process found a module says nothing in another.
_LEFT_OUT: Final = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})
_CACHED: Final[type] = type(functools.cache(len))
# `lru_cache` sets these itself.
_OF_CACHES: Final = frozenset({"__wrapped__", "cache_parameters"})


class Noted:
    """What a pickle has by value: all code, and modules by name."""

    def __init__(self) -> None:
        self.codes: list[CodeType] = []
        self.modules: dict[str, ModuleType] = {}


class _GlobalsOf:
    """Stands for the globals of functions of a module that is in the pickle itself, which are that module's, as everywhere."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __reduce__(self) -> Any:
        return vars, (self._module,)


def dumps(
    cloudpickle: Any,
    value: Any,
    modules: Iterable[ModuleType],
    noted: Noted | None = None,
    whole: Iterable[ModuleType] = (),
) -> bytes:
    """Pickle a value with what these modules define, and the modules themselves, by value.

    Args:
        cloudpickle: the module of that name, or Ray's own.
        value: a function, or values for it. Locks, weak dictionaries and context variables in it are made anew where it arrives, free and empty.
        modules: the user's own.
        noted: is told what goes by value.
        whole: modules that are known to be in it themselves, and not only some of what they define. Functions of another have globals
            of their own there, which hold what they use, for the rest of it may be what no pickler takes.
    """
    with pickled_by_value(cloudpickle, modules), io.BytesIO() as file:
        pickler = (_pickler_of(cloudpickle) if noted is None else _noting_pickler_of(cloudpickle, noted))(file)
        for module in whole:
            pickler.globals_ref[id(vars(module))] = _GlobalsOf(module)
        pickler.dump(value)
        return file.getvalue()


@functools.cache
def _pickler_of(cloudpickle: Any) -> Any:
    """Return cloudpickle's pickler with reducers of ours."""
    known = cloudpickle.CloudPickler.dispatch_table

    def reduce_module(module: ModuleType) -> Any:
        make, arguments = known[ModuleType](module)
        if len(arguments) == 1:  # by name
            return make, arguments
        # The contents come later, for modules that know one another would have no first.
        name, contents = arguments
        found = {key: item for key, item in contents.items() if key not in _LEFT_OUT}
        if "__path__" in found:
            found["__path__"] = list(found["__path__"])  # that of a package without `__init__.py` cannot be pickled
        return make, (name, {}), found

    def reduce_code(code: CodeType) -> Any:
        make, arguments = known[CodeType](code)
        return make, tuple(code.co_filename if argument == _NO_FILE else argument for argument in arguments)

    def reduce_cached(cached: Any) -> Any:
        if _is_known_there(cached, cloudpickle.list_registry_pickle_by_value()):
            return cached.__qualname__
        parameters = cached.cache_parameters()
        given = {key: item for key, item in vars(cached).items() if key not in _OF_CACHES}
        state = cached.__wrapped__, given
        return make_cached, (parameters["maxsize"], parameters["typed"]), state, None, None, complete

    def reduce_variable(variable: ContextVar[Any]) -> Any:
        by_value = cloudpickle.list_registry_pickle_by_value()
        for module in list(sys.modules.values()):
            if not _is_by_value(getattr(module, "__name__", "__main__"), by_value):
                name = next((name for name, one in list(vars(module).items()) if one is variable), None)
                if name is not None:  # a library's, which looks at its own
                    return getattr, (module, name)
        return _anew_with_default(variable)

    anew = {type(make()): functools.partial(_reduce_anew, make) for make in _ANEW}
    ours = {
        ModuleType: reduce_module,
        CodeType: reduce_code,
        _CACHED: reduce_cached,
        ContextVar: reduce_variable,
        **anew,
    }
    table = ChainMap(ours, known)
    return type("Pickler", (cloudpickle.CloudPickler,), {"dispatch_table": table})


def _noting_pickler_of(cloudpickle: Any, noted: Noted) -> Any:
    pickler = _pickler_of(cloudpickle)
    known = pickler.dispatch_table

    def reduce_code(code: CodeType) -> Any:
        noted.codes.append(code)
        return known[CodeType](code)

    def reduce_module(module: ModuleType) -> Any:
        reduced = known[ModuleType](module)
        if len(reduced) > 2:  # not by name
            noted.modules[module.__name__] = module
        return reduced

    table = ChainMap({CodeType: reduce_code, ModuleType: reduce_module}, known)
    return type("NotingPickler", (pickler,), {"dispatch_table": table})


def _reduce_anew(make: Callable[[], Any], _: Any) -> Any:
    origin: Any = getattr(make, "__origin__", make)
    return origin, ()


def _anew_with_default(variable: ContextVar[Any]) -> Any:
    """Return how a context variable is made anew, with its default, which an empty context shows."""
    default: dict[str, Any] = {}
    with contextlib.suppress(LookupError):
        default["default"] = Context().run(variable.get)
    return functools.partial(ContextVar, variable.name, **default), ()


def _is_known_there(named: Any, by_value: Iterable[str]) -> bool:
    """Tell whether a worker finds the very object under its name: in a module that is not the user's own."""
    module: str = getattr(named, "__module__", None) or "__main__"
    if _is_by_value(module, by_value):
        return False
    found: Any = sys.modules.get(module)
    for part in getattr(named, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is named


def _is_by_value(module: str, by_value: Iterable[str]) -> bool:
    return module == "__main__" or any(module == own or module.startswith(own + ".") for own in by_value)
