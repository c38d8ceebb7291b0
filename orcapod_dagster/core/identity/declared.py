"""What users declare beside the code: functions, values, files and environment variables that decide the result."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.identity.walk import CodeWalk
from orcapod_dagster.core.worker_state import WorkerState


class EnvironmentVariable(str):
    """The name of an environment variable whose value counts; `dagster.EnvVar` means the same."""

    __slots__ = ()


def declare_all(walk: CodeWalk, depends_on: Sequence[Any] | Mapping[str, Any], owner: str) -> frozenset[str]:
    """Count what a user declared, and return the names by which it is known.

    Args:
        walk: the function's walk.
        depends_on: functions, classes, modules, values, files or directories (`Path`) and environment variables
            (`EnvironmentVariable`, `dagster.EnvVar`); a mapping gives each a name, so that it stands for what is reported
            under that name.
        owner: for messages.

    Raises:
        DefinitionError: a file is not there, or a value cannot be seen through.
    """
    named = (
        dict(depends_on) if isinstance(depends_on, Mapping) else {_name_of(v, n): v for n, v in enumerate(depends_on)}
    )
    for name, value in named.items():
        walk.declare(name, _content_of(value, f"{owner}: depends_on"))
        unseen = [sentence for path, sentence in walk.reports.items() if path.startswith(f"declared {name}")]
        if unseen:
            raise DefinitionError(
                f"{owner}: depends_on {name!r} {unseen[0]}. Declare a value, a file (Path) or an environment variable "
                "(dg.EnvVar) that tells when it changes."
            )
    return frozenset(named)


def declare_states(walk: CodeWalk, states: Mapping[str, WorkerState], owner: str) -> None:
    """Count what makes the state of workers, and what users say of its identity.

    Raises:
        DefinitionError: a file is not there, or an identity cannot be seen through.
    """
    for name, state in states.items():
        values = {f"configuration {key}": value for key, value in state.configuration.items()}
        identity = state.identity_value()
        if identity is not None:
            values[f"identity {name}"] = _content_of(identity, f"{owner}, identity of {name!r}")
        walk.add_state(name, state.factory if state.code is None else state.code, values)
        unseen = [
            said
            for path, said in walk.reports.items()
            if path.startswith((f"identity {name}", f"configuration {name}."))
        ]
        if unseen:
            raise DefinitionError(
                f"{owner}: the identity of worker state {name!r} {unseen[0]}. Give a text, a number, a file (Path), or a callable that "
                "returns such a value."
            )


def _name_of(value: Any, position: int) -> str:
    if (variable := variable_name(value)) is not None:
        return variable
    if isinstance(value, Path):
        return value.as_posix()
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or str(position)


def variable_name(value: Any) -> str | None:
    """Return the name of the environment variable that a declared value stands for; `None` where it stands for itself."""
    # Core does not import Dagster. Its EnvVar is a string that holds the name and refuses to be read; that of EnvVar.int() a number.
    if isinstance(value, EnvironmentVariable) or (isinstance(value, str) and type(value).__name__ == "EnvVar"):
        return str.__str__(value)
    number: Any = value
    return number.name if isinstance(value, int) and type(value).__name__ in ("IntEnvVar", "BoolEnvVar") else None


def _content_of(value: Any, owner: str) -> Any:
    if (variable := variable_name(value)) is not None:
        return ("environment", os.environ.get(variable))
    if not isinstance(value, Path):
        return value
    if value.is_dir():
        files = sorted(p for p in value.rglob("*") if p.is_file())
        return ("directory", [(p.relative_to(value).as_posix(), _digest(p, owner)) for p in files])
    return ("file", _digest(value, owner))


def _digest(path: Path, owner: str) -> str:
    try:
        found = path.stat()
        return _read(str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    except OSError as error:
        raise DefinitionError(
            f"{owner} names the file {path}, which cannot be read ({error.strerror}). Give a file that is there."
        ) from error


@functools.lru_cache(maxsize=1024)
def _read(path: str, _size: int, _modified: int, _changed: int, _inode: int) -> str:
    with Path(path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
