"""The private names of Dagster that this package uses; checked with Dagster 1.13.27."""

from __future__ import annotations

import contextlib
import inspect
import logging
import shlex
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._config.pythonic_config.resource import (
    ConfigurableResourceFactory,
    ConfigurableResourceFactoryResourceDefinition,
    PartialResource,
)
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.reconstruct import repository_def_from_target_def
from dagster._core.instance.config import is_dagster_home_set
from dagster._core.workspace.autodiscovery import LOAD_ALL_ASSETS

from orcapod_dagster.core.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class CodePointer:
    """Where definitions are, as Dagster's own command line names it.

    Attributes:
        module_name, python_file, package_name: `-m`, `-f`, `--package-name`; at most one of them. With none, what
            `pyproject.toml` in the working directory says to `dagster dev`.
        attribute: `-a`. working_directory: `-d`.
    """

    module_name: str | None = None
    python_file: str | None = None
    package_name: str | None = None
    attribute: str | None = None
    working_directory: str | None = None
    autoload_module_name: str | None = None

    def arguments(self) -> str:
        """Return it as it is typed in a shell; a working directory that is the current one is left out."""
        elsewhere = None if self.working_directory in (None, str(Path.cwd())) else self.working_directory
        options = [
            ("-m", self.module_name),
            ("-f", self.python_file),
            ("--package-name", self.package_name),
            ("--autoload-defs-module-name", self.autoload_module_name),
            ("-a", self.attribute),
            ("-d", elsewhere),
        ]
        return " ".join(f"{option} {shlex.quote(value)}" for option, value in options if value)


def load_repository(pointer: CodePointer) -> dg.RepositoryDefinition:
    """Load definitions as Dagster does: a `Definitions` object, a repository, or all assets of a module.

    Raises:
        DefinitionError: nothing says where they are, or there are several.
        Exception: whatever the user's code raises, as it is.
    """
    from dagster._grpc.utils import get_loadable_targets  # takes a while to import

    named = [pointer.module_name, pointer.python_file, pointer.package_name, pointer.autoload_module_name]
    if not any(named):
        pointer = _pointer_of_project()
    targets = get_loadable_targets(
        python_file=pointer.python_file,
        module_name=pointer.module_name,
        package_name=pointer.package_name,
        autoload_defs_module_name=pointer.autoload_module_name,
        working_directory=pointer.working_directory or str(Path.cwd()),
        attribute=pointer.attribute,
        resolve_lazy_defs=True,
    )
    found = [repository_def_from_target_def(target.target_definition) for target in targets]
    repositories = [one for one in found if one is not None]
    if len(repositories) != 1:
        raise DefinitionError(
            f"{pointer.arguments()} has {len(repositories)} repositories ({', '.join(one.name for one in repositories)}). "
            "Name one by -a."
        )
    return repositories[0]


def _pointer_of_project() -> CodePointer:
    """Return what `[tool.dagster]` or `[tool.dg]` of the working directory's `pyproject.toml` names."""
    from dagster._core.workspace.load_target import get_origins_from_toml

    origins = get_origins_from_toml("pyproject.toml") if Path("pyproject.toml").exists() else []
    if len(origins) != 1:
        raise DefinitionError(
            f"Nothing says where the definitions are: pyproject.toml of {Path.cwd()} names {len(origins)} code locations. Give "
            "-m MODULE or -f FILE, as for `dagster asset materialize`."
        )
    origin = origins[0].loadable_target_origin
    return CodePointer(
        module_name=origin.module_name,
        python_file=origin.python_file,
        package_name=origin.package_name,
        attribute=origin.attribute,
        working_directory=origin.working_directory,
        autoload_module_name=getattr(origin, "autoload_defs_module_name", None),
    )


def pointer_of_run(run: dg.DagsterRun) -> CodePointer | None:
    """Return where the definitions of a run are; `None` where it was started from a process that has them."""
    origin: Any = run.job_code_origin
    if origin is None:
        return None
    found = origin.repository_origin.code_pointer
    kind = type(found).__name__
    attribute = getattr(found, "fn_name", None) or getattr(found, "attribute", None)
    known: dict[str, Any] = {
        "attribute": None if attribute == LOAD_ALL_ASSETS else attribute,
        "working_directory": getattr(found, "working_directory", None),
    }
    if kind == "FileCodePointer":
        return CodePointer(python_file=found.python_file, **known)
    if kind == "ModuleCodePointer":
        return CodePointer(module_name=found.module, **known)
    if kind == "PackageCodePointer":
        return CodePointer(package_name=found.module, **known)
    if kind == "AutoloadDefsModuleCodePointer":
        return CodePointer(autoload_module_name=found.module, working_directory=known["working_directory"])
    return None


def configurable(resource: Any) -> Any:
    """Return the `ConfigurableResource`, or what its `configure_at_launch` gave, that a resource is or was made from; else None."""
    if isinstance(resource, ConfigurableResourceFactory | PartialResource):
        return resource  # pyright: ignore[reportUnknownVariableType]  # of whatever it gives
    if not isinstance(resource, ConfigurableResourceFactoryResourceDefinition):
        return None
    function: Any = resource.resource_fn
    made = getattr(function, "__self__", None)
    if made is None:  # that of a partial one is a nested function
        known = inspect.getclosurevars(function).nonlocals
        if "resource_cls" not in known or "data" not in known:
            return None
        made = PartialResource(known["resource_cls"], data=known["data"])
    return configurable(made)


def fields_of(resource: Any) -> tuple[type, dict[str, Any], bool]:
    """Return class and given fields of a configurable resource, unresolved, and whether a run's configuration completes it."""
    if isinstance(resource, PartialResource):
        partial: Any = resource
        return partial.resource_cls, dict(partial.data), True
    return (
        type(resource),
        dict(resource._get_non_default_public_field_values()),
        False,
    )  # no public way gives unresolved values


def instance_of_home(stack: contextlib.ExitStack) -> dg.DagsterInstance | None:
    """Open the instance that `DAGSTER_HOME` names, to be closed with a stack; `None` where it is not set."""
    return stack.enter_context(dg.DagsterInstance.get()) if is_dagster_home_set() else None


def log_from_aside(context: dg.AssetExecutionContext, text: str) -> None:
    """Write a line as `context.log.info` does, to the event log and to `sys.stderr`, past all loggers and their handlers.

    A handler that was made before a packet's output was led away holds the stream of then, and what it writes would be taken for
    the packet's.
    """
    said = context.log.metadata
    now = time.time()
    context.instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None, level=logging.INFO, user_message=text, run_id=context.run.run_id, timestamp=now,
            step_key=said["step_key"], job_name=said["job_name"],
        )
    )  # fmt: skip
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now))
    where = " - ".join(str(part) for part in (said["job_name"], context.run.run_id, said["step_key"]) if part)
    with contextlib.suppress(Exception):  # whatever a function has put in its place
        print(f"{when} - dagster - INFO - {where} - {text}", file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def dynamic_partitions(instance: dg.DagsterInstance | None) -> Generator[None]:
    """Let partitions of dynamic definitions be known from an instance."""
    with partition_loading_context(dynamic_partitions_store=instance):
        yield


def upstream_partitions(
    asset: dg.AssetsDefinition, upstream: dg.AssetKey, graph: Any, partition: str | None
) -> Sequence[str] | None:
    """Return the partitions of an input that a run would read; `None` where the input has none.

    Args:
        asset: that reads. upstream: the input. graph: Dagster's asset graph.
        partition: of the asset; with None all partitions of the input.
    """
    theirs = graph.get(upstream).partitions_def if graph.has(upstream) else None
    if theirs is None:
        return None
    if partition is None and asset.partitions_def is not None:
        return list(theirs.get_partition_keys())
    mine = asset.partitions_def
    subset = None if mine is None or partition is None else mine.subset_with_partition_keys([partition])
    mapping = graph.get_partition_mapping(asset.key, upstream)
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, mine, theirs)
    return list(mapped.partitions_subset.get_partition_keys())
