"""per_worker: what a function is given besides its columns, made once in each worker, such as a loaded model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, get_args, get_origin

from orcapod_dagster.core.errors import DefinitionError

_LEFT_OUT: Final = object()


@dataclass(eq=False, slots=True)
class WorkerState:
    """What `per_worker` gives: a factory, and what of what it makes decides results.

    Attributes:
        factory: called without arguments in each worker.
        identity: as `per_worker` takes it.
        code: whose code counts; default the factory's.
        configuration: named values that decide results, too, each for itself; those of a resource.
    """

    factory: Callable[[], Any]
    identity: Any = None
    code: Any = None
    configuration: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _asked: list[Any] = field(default_factory=list[Any], repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # As the default of a parameter it goes wherever the function goes. There it is replaced before each call, its class may
        # be unknown, and what its identity knows is nobody's business.
        return type(None), ()

    def __copy__(self) -> WorkerState:
        return self

    def __deepcopy__(self, _: Any) -> WorkerState:
        return self

    def identity_value(self) -> Any:
        """Return what counts of it; a callable is called once in a process, when this is first asked for."""
        if not callable(self.identity):
            return self.identity
        if not self._asked:
            self._asked.append(self.identity())
        return self._asked[0]


def per_worker(factory: Callable[[], Any], *, identity: Any = _LEFT_OUT) -> Any:
    """Give a function something that is made once in each worker: a loaded model, a client, a handle of a GPU.

    It is the default of a parameter, which so is no column and enters no input hash:

        def embed(text: str, model: Model = per_worker(load_model, identity="v3")) -> list[float]: ...

    or, for a function that is not yours, `packet_asset(embed, params={"model": per_worker(load_model, identity="v3")}, ...)`.

    The factory is called when a worker gets its first row: once per worker, and not at all in a run in which every packet is
    cached. What it made is torn down at the end of the run, and when the run is cancelled; a worker that dies is replaced by one
    that makes it anew. A set-up that raises ends the run with a `WorkerStateError`; no packet is recorded as failed.

    Args:
        factory: called without arguments (`functools.partial` gives it some). Of a generator function, or a context manager, the
            value is what it yields, and what follows tears down; of any other object, `close()` or `aclose()` is called, where it
            has one. Coroutines and async context managers run in the loop of async functions.
        identity: what of it decides results, and so counts under the match policies "content" and "environment", together with the
            code of the factory, but never with its arguments: a text or other plain value; a `Path`, for the content of that file or
            folder; a callable, which is called once in the process that plans, for such a value; or None, for nothing of it.

    Raises:
        DefinitionError: `identity` is left out, or the factory cannot be called without arguments.
    """
    if not callable(factory):
        raise DefinitionError(
            f"per_worker takes a function that makes the value, not the value itself, which is a {type(factory).__qualname__}: it "
            "could not be made anew in a worker. Give the function, e.g. per_worker(load_model, identity=...)."
        )
    name = getattr(factory, "__qualname__", None) or type(factory).__qualname__
    if identity is _LEFT_OUT:
        raise DefinitionError(
            f"per_worker({name}) has no identity: what of it decides results? Give identity='v3' (a text that you change with it), "
            "a Path (the content of a file), a callable that returns such a value, or None where nothing of it does."
        )
    missing = _required_parameters(factory)
    if missing:
        raise DefinitionError(
            f"per_worker({name}): the factory is called without arguments, but needs {missing}. Give them by functools.partial."
        )
    return WorkerState(factory, identity)


def _required_parameters(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a function in C, which does not say
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


# ---------------------------------------------------------------------------- parameters of a function


def states_of(signature: inspect.Signature, given: Mapping[str, Any], owner: str) -> dict[str, WorkerState]:
    """Return the parameters that are given a state per worker, by their defaults or by `given`, in the function's order.

    Raises:
        DefinitionError: a name is no parameter, or a value no `per_worker`; a parameter is positional-only.
    """
    unknown = sorted(set(given) - set(signature.parameters))
    if unknown:
        raise DefinitionError(f"{owner}: worker state {unknown} is no parameter of the function. Remove it.")
    found: dict[str, WorkerState] = {}
    for name, parameter in signature.parameters.items():
        state = given.get(name, parameter.default)
        if not isinstance(state, WorkerState):
            if name in given:
                raise DefinitionError(
                    f"{owner}: worker_state {name!r} is no per_worker(...), but a {type(state).__qualname__}."
                )
            continue
        _refuse_positional(parameter, owner)
        found[name] = state
    return found


def resources_of(signature: inspect.Signature, hints: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return the parameters that are annotated with a Dagster resource, by name, with the class that is meant.

    Core does not import Dagster; its resources are told by their marks.
    """
    found = {name: _resource_class(hints[name]) for name in signature.parameters if name in hints}
    found = {name: kind for name, kind in found.items() if kind is not None}
    for name in found:
        _refuse_positional(signature.parameters[name], owner)
    return found


def refuse_resources(names: Collection[str], owner: str) -> None:
    """Refuse to call a function whose parameters are Dagster resources, where nothing says which.

    Raises:
        DefinitionError: there are such; names them.
    """
    if names:
        raise DefinitionError(
            f"{owner}: parameters {sorted(names)} are Dagster resources, which the run of an asset gives. Outside "
            "of one, call the plain function with a resource of yours, or give worker_state={...: per_worker(...)}."
        )


def without_parameters(signature: inspect.Signature, names: Collection[str]) -> inspect.Signature:
    """Return a signature without some parameters."""
    return signature.replace(parameters=[p for name, p in signature.parameters.items() if name not in names])


def _refuse_positional(parameter: inspect.Parameter, owner: str) -> None:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise DefinitionError(
            f"{owner}: parameter {parameter.name!r} is given by its name, but is positional-only. Move it behind the '/'."
        )


def _resource_class(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return inner if "resource_param" in marks else _resource_class(inner)
    kind = get_origin(hint) or hint
    if not isinstance(kind, type):
        return None
    marks = {(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__}
    return kind if ("dagster", "ConfigurableResourceFactory") in marks else None
