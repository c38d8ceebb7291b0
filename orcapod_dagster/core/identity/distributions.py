"""The environment that code refers to: Python's minor version, and the installed distributions of the libraries it names."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orcapod_dagster.core.identity.parts import digest_of

ENVIRONMENT_METHOD: Final = "python.environment.v1"
PYTHON: Final = "Python"


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed, as far as a function's code refers to it.

    Attributes:
        versions: `"Python"` → its minor version ("3.11"); distribution → version. A library that no distribution
            installed stands under its module's name, with the version "unknown".
    """

    versions: Mapping[str, str]

    @property
    def environment_hash(self) -> str:
        """Hash of all versions, as `method:hex`."""
        return f"{ENVIRONMENT_METHOD}:{digest_of(json.dumps(self.versions, sort_keys=True))}"


def environment_of(libraries: Iterable[str]) -> Environment:
    """Return the environment of code that refers to these top-level modules; the standard library is Python's.

    A module that several distributions share (a namespace such as `google`) counts by all of them.
    """
    versions = {PYTHON: ".".join(platform.python_version_tuple()[:2])}
    for library in sorted(set(libraries) - sys.stdlib_module_names):
        versions |= {name: _version(name) for name in _distributions().get(library, ())} or {library: "unknown"}
    return Environment(versions)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    # Reads the file lists of all distributions, so only where code refers to one, and once.
    return importlib.metadata.packages_distributions()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
