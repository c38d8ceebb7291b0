"""What must not be seen of a Ray cluster's address and runtime environment: neither in what is stored, nor in errors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.storage import hide_text, revealed_text, without_credentials

_MARKS: Final = frozenset("@?")
"""Where an address or a requirement has one of these, there may be a password or a signature."""


def hide_environment(value: Any, name: str = "runtime_env") -> Any:
    """Return a runtime environment, or a part of it, with a stand-in for each value that may be a secret; see `hide_options`.

    Those are the values of `env_vars`, and every text that may hold an address with credentials. What is no text stays.
    """
    if isinstance(value, Mapping):
        return {key: hide_environment(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [hide_environment(item, name) for item in value]
    return hide_text(name, value) if type(value) is str and _may_be_secret(name, value) else value


def hide_address(address: Any) -> Any:
    """Return an address, or a stand-in where it may hold credentials."""
    return hide_environment(address, "ray_address")


def revealed(value: Any) -> Any:
    """Return what was hidden.

    Raises:
        ExecutorError: it was hidden in another process.
    """
    if isinstance(value, Mapping):
        return {key: revealed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revealed(item) for item in value]
    if not isinstance(value, str):
        return value
    found = revealed_text(value)
    if found is None:
        raise ExecutorError(
            f"{value.split(':')[1]} of the Ray executor was given in another process, which kept it to itself. Give it by dg.EnvVar."
        )
    return found


def shown(text: str, runtime_env: Mapping[str, Any] | None) -> str:
    """Return a text of Ray's without the secrets of a runtime environment, and without credentials in addresses."""
    for secret in sorted(_secrets(runtime_env or {}, "runtime_env"), key=len, reverse=True):
        text = text.replace(secret, "…")
    return without_credentials(text)


def cause_of(error: BaseException, runtime_env: Mapping[str, Any] | None) -> BaseException | None:
    """Return an error as the cause of another where nothing in it is to be hidden, else None."""
    text = "".join(traceback.format_exception(error))
    return error if shown(text, runtime_env) == text else None


def _secrets(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(item, name)
    elif value not in (None, "") and _may_be_secret(name, str(value)):
        yield str(value)


def _may_be_secret(name: str, value: str) -> bool:
    return ".env_vars" in name or not _MARKS.isdisjoint(value)
