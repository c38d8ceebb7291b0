"""The content hash: over the parts of a function's code, found by the walk; and what it says about them."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, Final

from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.identity.declared import declare_all, declare_states
from orcapod_dagster.core.identity.functions import layers_of, plain_function, running_function
from orcapod_dagster.core.identity.parts import CodePart, content_hash_of, digest_of
from orcapod_dagster.core.identity.walk import CodeWalk
from orcapod_dagster.core.worker_state import WorkerState

_CARRIED: Final = "__orcapod_code__"
_CARRIED_MOST: Final = 32
"""Of how many partials or instances one function takes along what they are."""
NO_STATE: Final[Mapping[str, Any]] = MappingProxyType({})
_PROCESS: Final = uuid.uuid4().hex
_reported: set[tuple[str, str]] = set()


class UnhashableDependencyWarning(UserWarning):
    """Something that a function's result depends on does not count, so a change of it goes unnoticed."""


@dataclass(frozen=True, slots=True)
class FunctionCode:
    """What a function's code is.

    Attributes:
        content_hash: `method:hex` over all parts.
        parts: the parts by key: `"body"`, `"default x"`, `"helper project.tools.f"`, `"constant project.main.K"`, …
        reports: what does not count although the result may depend on it, by name, with a sentence each.
        libraries: top-level modules, of others, that the code refers to.
    """

    content_hash: str
    parts: Mapping[str, CodePart]
    reports: Mapping[str, str]
    libraries: frozenset[str]


def function_content_hash(
    function: Callable[..., Any],
    *,
    own_code: Sequence[Any] = (),
    depends_on: Sequence[Any] | Mapping[str, Any] = (),
    ignore: Sequence[str] = (),
    outputs: Sequence[str] = (),
    worker_state: Mapping[str, WorkerState] = NO_STATE,
    resources: Mapping[str, Any] = NO_STATE,
) -> str:
    """Return the hash of the code and constants that decide a function's result.

    What does not count although the result may depend on it is named in an `UnhashableDependencyWarning`, once in a process.

    Args:
        function: a plain function, method, lambda, `functools.partial` or callable object.
        own_code: top-level packages, by name or as modules, that count as the user's own, besides the function's.
        depends_on: further functions, values, files (`Path`) and environment variables (`EnvironmentVariable`,
            `dagster.EnvVar`) that decide the result; a mapping names them as the warnings do.
        ignore: names, as the parts and warnings give them, that do not count.
        outputs: what the values of a returned tuple are called, in their order, which decides what each column holds.
        worker_state: parameters that get something made once per worker; the factory's code counts, not its arguments, and the identity.
        resources: parameters that will get a Dagster resource, of which nothing is known yet.

    Raises:
        DefinitionError: `ignore` names what the function does not refer to; a file of `depends_on` is not there.
    """
    code = function_code(
        function, own_code=own_code, depends_on=depends_on, ignore=ignore, outputs=outputs, worker_state=worker_state,
        resources=resources,
    )  # fmt: skip
    owner = _name_of(function)
    for name, sentence in code.reports.items():
        if (owner, name) not in _reported:
            _reported.add((owner, name))
            warnings.warn(
                f"{owner}: {name} {sentence}, so a change of it goes unnoticed. Declare what tells of its change: "
                f"depends_on={{{name!r}: ...}} (a value, a Path, a dg.EnvVar); or say that it does not matter: ignore=[{name!r}].",
                UnhashableDependencyWarning,
                stacklevel=2,
            )
    return code.content_hash


def code_parts(function: Callable[..., Any], **options: Any) -> Mapping[str, CodePart]:
    """Return the parts of a function's code by key, with their digests and, for code, their source.

    Args:
        function: as for `function_content_hash`.
        options: `own_code`, `depends_on`, `ignore`, `outputs`, `worker_state` and `resources`, as for `function_content_hash`.
    """
    return function_code(function, **options).parts


def changed_parts(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Compare the digests of two versions of a function's code.

    Args:
        before, after: digests by part.

    Returns:
        The parts that differ, each with `"changed"`, `"added"` or `"removed"`, sorted.
    """
    found: dict[str, str] = {}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            found[key] = "added" if key not in before else "removed" if key not in after else "changed"
    return found


def function_code(
    function: Callable[..., Any],
    *,
    own_code: Sequence[Any] = (),
    depends_on: Sequence[Any] | Mapping[str, Any] = (),
    ignore: Sequence[str] = (),
    outputs: Sequence[str] = (),
    worker_state: Mapping[str, WorkerState] = NO_STATE,
    resources: Mapping[str, Any] = NO_STATE,
    called: str | None = None,
) -> FunctionCode:
    """Return what a function's code is, in parts.

    Args:
        function, own_code, depends_on, ignore, outputs, worker_state, resources: as for `function_content_hash`.
        called: the code as it would be if the function had this name, in its own body; others may still call it by the name
            that it has. A function without source is taken as it is.
    """
    carried = _carried_by(function)
    if carried is not None:
        found = [CodePart(key.partition(" ")[0], key.partition(" ")[2], digest) for key, digest in carried.items()]
        return FunctionCode(content_hash_of(carried), {part.key: part for part in found}, {}, frozenset())
    owner = f"function {_name_of(function)!r}"
    walk = CodeWalk(function, own_code, ignore, called, worker_state)
    walk.run()
    declared = declare_all(walk, depends_on, owner)
    declare_states(walk, worker_state, owner)
    walk.name_outputs(outputs)
    walk.finish()
    # Of a resource that is not there yet, nobody knows which values its configuration has.
    unknown = sorted(name for name in set(ignore) - walk.ignored if name.partition(".")[0] not in resources)
    if unknown:
        raise DefinitionError(
            f"{owner}: ignore names {unknown}, which its code does not refer to. Remove them, or take the names from "
            f"code_parts() and from the warnings: {sorted([*walk.reports, *(p.name for p in walk.parts.values() if p.name)])}."
        )
    digests = {key: part.digest for key, part in walk.parts.items()}
    if called is None:
        _carry(function, digests)
    reports = {name: sentence for name, sentence in walk.reports.items() if name not in declared}
    return FunctionCode(content_hash_of(digests), walk.parts, reports, frozenset(walk.libraries))


def _name_of(function: Any) -> str:
    function = plain_function(function)
    return getattr(function, "__qualname__", None) or type(function).__qualname__


# ---------------------------------------------------------------------------- functions sent to another process


def _carry(function: Any, digests: Mapping[str, str]) -> None:
    """Let a function that is sent to another process by value take along what its code is.

    There, its source and its modules need not exist. In the process that made it, this is never looked at. A partial, a bound
    method and a callable object have it at the function that they run, under the digest of what they hold.
    """
    inner, held = running_function(function), _held(function)
    if inner is None or held is None:
        return
    carried = vars(inner).get(_CARRIED)
    if not carried or carried["process"] != _process() or carried["code"] != _place(inner):
        vars(inner)[_CARRIED] = {"process": _process(), "code": _place(inner), "digests": {}}
    known: dict[str, dict[str, str]] = vars(inner)[_CARRIED]["digests"]
    known.pop(held, None)
    known[held] = dict(digests)
    while len(known) > _CARRIED_MOST:
        del known[next(iter(known))]


def _carried_by(function: Any) -> Mapping[str, str] | None:
    inner = running_function(function)
    carried = None if inner is None else vars(inner).get(_CARRIED)
    # Also where its file lies here: that may have been edited since, or not be a module of this process.
    if inner is None or not carried or carried["code"] != _place(inner) or carried["process"] == _process():
        return None
    held = _held(function)
    return None if held is None else carried["digests"].get(held)


def _held(function: Any) -> str | None:
    """Return the digest of what a partial, a bound method or a callable object holds; `None` where that tells nothing apart."""
    plain = plain_function(function)
    # A bound method shows the attributes of its function, `__wrapped__` among them.
    if not isinstance(plain, partial | MethodType) and isinstance(layers_of(plain)[-1], FunctionType):
        return ""
    held = CodeWalk(function).held()
    return None if held is None else content_hash_of(held)


def _process() -> str:
    return f"{_PROCESS}:{os.getpid()}"


def _place(function: FunctionType) -> tuple[str, int, str]:
    """Return what tells a function from a wrapper that copied its attributes; file names may be lost on the way."""
    code = function.__code__
    return code.co_qualname, code.co_firstlineno, digest_of(code.co_code.hex())
