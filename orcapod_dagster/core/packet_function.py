"""Packet functions: typed Python callables with a name, a version, and input and output packet schemas."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.blobs.keeper import Keeper, keeping
from orcapod_dagster.core.datagrams import Packet
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA, check_executor, flatten_execution_data
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.executors.batch_rows import first_of, with_rows
from orcapod_dagster.core.executors.generator_rows import as_list
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.slices import is_async
from orcapod_dagster.core.forms import (
    INDEX_FIELD,
    checked_batch_size,
    checked_concurrency,
    element_hints,
    is_arrow,
    refuse_large_values,
)
from orcapod_dagster.core.function_config import arguments_of, config_of, function_of, refuse_another
from orcapod_dagster.core.git import git_state
from orcapod_dagster.core.hashing import hash_schema
from orcapod_dagster.core.identity import (
    Environment,
    FunctionCode,
    environment_of,
    function_code,
    function_content_hash,
    function_signature_hash,
)
from orcapod_dagster.core.one_packet import call_here, execute, execute_async
from orcapod_dagster.core.packet_inputs import PacketInputs
from orcapod_dagster.core.packet_outputs import PacketOutputs
from orcapod_dagster.core.signature import (
    former_names,
    given_schema,
    input_schema as make_input_schema,
    name_of,
    parse_version,
    source_file,
    type_hints,
)
from orcapod_dagster.core.types import Schema
from orcapod_dagster.core.worker_state import refuse_resources, resources_of, states_of, without_parameters

FUNCTION_TYPE_ID: Final = "python.function.v0"


class PythonPacketFunction:
    """A plain, type-hinted Python function as a packet function.

    Args:
        function: one packet in, one packet out; its parameters are the input columns. A generator (`-> Iterator[T]`) gives any number
            of rows, each of type T, which its one record holds in lists.
        output_keys: names of the output columns. None: the return value is ignored, unless it is a TypedDict,
            dataclass or NamedTuple, whose fields name the columns. One: the value is stored as it is. Several: the
            function returns that many values.
        function_name: canonical name; default the function's own name. Part of the identity.
        version: `v<major>.<minor>`; the major version is part of the identity.
        input_schema, output_schema: Python types by column, or an Arrow schema, where type hints are missing or should
            be overruled.
        label: for people; default the function name.
        executor: where it runs; default in this process.
        own_code: further packages whose code counts for the content hash.
        depends_on: functions, values, files (`Path`) and environment variables (`dagster.EnvVar`, or
            `core.identity.EnvironmentVariable`) that decide the result beside the code; a mapping names them as the
            `UnhashableDependencyWarning` does.
        ignore: names of code, constants and environment variables that do not count for the content hash.
        formerly: names that the function had; results that are stored under them count, where the code is otherwise the same.
        max_concurrency: how many packets of an async function are under way at a time, in each process; default one.
        batch: whether it takes many packets in one call: each parameter `list[T]`, or an Arrow array, and one result per packet.
        batch_size: how many packets a call gets at most; default 256.
        worker_state: parameter → `per_worker(...)`, where that is not its default.

    Attributes:
        worker_state: the parameters that get something made once per worker; no columns. resources: those that are annotated with a
            Dagster resource and have nothing yet that makes one: name → class.

    Raises:
        DefinitionError: names the parameter whose definition cannot be right.
        ValueError: the version has no number and dot.
    """

    packet_function_type_id: Final = FUNCTION_TYPE_ID

    def __init__(
        self,
        function: Callable[..., Any],
        output_keys: str | Sequence[str] | None = None,
        function_name: str | None = None,
        version: str = "v0.0",
        input_schema: Mapping[str, Any] | pa.Schema | None = None,
        output_schema: Mapping[str, Any] | pa.Schema | None = None,
        label: str | None = None,
        executor: PythonFunctionExecutorProtocol | None = None,
        own_code: Sequence[Any] = (),
        *,
        depends_on: Sequence[Any] | Mapping[str, Any] = (),
        ignore: Sequence[str] = (),
        formerly: str | Sequence[str] = (),
        max_concurrency: int | None = None,
        batch: bool = False,
        batch_size: int | None = None,
        worker_state: Mapping[str, Any] | None = None,
    ) -> None:
        self._arguments: Final[dict[str, Any]] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.function: Final = function
        self.__wrapped_function__ = function
        self.canonical_function_name: Final = name_of(function, function_name)
        self._owner: Final = f"function {self.canonical_function_name!r}"
        self.version: Final = version
        self.major_version, self.minor_version_string = parse_version(version, self._owner)
        self.label: Final = label or self.canonical_function_name
        self.own_code: Final = tuple(own_code)
        self.depends_on: Final = dict(depends_on) if isinstance(depends_on, Mapping) else tuple(depends_on)
        self.ignore: Final = tuple(ignore)
        self.formerly: Final = former_names(formerly, self.canonical_function_name, self._owner)
        self.batch_size: Final = checked_batch_size(batch, batch_size, self._owner)
        self.max_concurrency: Final = checked_concurrency(max_concurrency, function, self.batch_size, self._owner)
        self._read_signature(output_keys, given_schema(input_schema), given_schema(output_schema), worker_state or {})
        self._active = True
        self.executor = executor if executor is not None else LocalPythonFunctionExecutor()
        functools.update_wrapper(self, function, updated=())

    def _read_signature(
        self,
        output_keys: str | Sequence[str] | None,
        input_schema: Mapping[str, Any] | None,
        output_schema: Mapping[str, Any] | None,
        worker_state: Mapping[str, Any],
    ) -> None:
        """Set what the signature says, where nothing that is given overrules it: which parameters are columns, and of which types."""
        function, owner, batch = self.function, self._owner, self.batch_size > 0
        signature = inspect.signature(function)
        hints = type_hints(function, owner)
        self.worker_state = states_of(signature, worker_state, owner)
        resources = resources_of(signature, hints, owner)
        self.resources = {name: kind for name, kind in resources.items() if name not in self.worker_state}
        no_columns = {*self.worker_state, *self.resources}
        arrow_parameters = frozenset(name for name, hint in hints.items() if batch and is_arrow(hint))
        if batch:
            hints = element_hints(without_parameters(signature, no_columns), hints, input_schema, output_schema, owner)
        schema = make_input_schema(signature, hints, input_schema, owner, no_columns)
        self.inputs = PacketInputs(schema, signature, arrow_parameters, owner)
        self.outputs = PacketOutputs.of(function, hints, output_keys, output_schema, owner, batch=batch)
        self.input_packet_schema, self.output_packet_schema = self.inputs.schema, self.outputs.schema
        self.output_keys, self.is_generator = self.outputs.keys, self.outputs.is_generator
        # Asked for now, so that what cannot be right is refused where the function is defined.
        self.row_arrow_schema = self.outputs.row_arrow_schema
        self.input_arrow_schema = self.inputs.arrow_schema
        self.file_columns = self.inputs.file_columns
        self.output_arrow_schema = self.outputs.arrow_schema
        self.blob_parameters, self.blob_outputs = self.inputs.blob_columns, self.outputs.blob_columns
        if batch:
            refuse_large_values(self.blob_outputs, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function; worker state that the caller does not pass is made for this one call."""
        return self.call_here(args, kwargs)

    def __repr__(self) -> str:
        return f"PythonPacketFunction({self.canonical_function_name}, {self.version})"

    # ------------------------------------------------------------------ identity

    @functools.cached_property
    def output_packet_schema_hash(self) -> str:
        """Hash of the output packet schema, as text."""
        schema = self.output_arrow_schema
        return hash_schema(schema.append(INDEX_FIELD) if self.is_generator else schema).to_hex()

    @property
    def uri(self) -> tuple[str, str, str, str]:
        """`(name, output schema hash, "v<major>", type id)`: the identity, which scopes the result cache."""
        return (
            self.canonical_function_name,
            self.output_packet_schema_hash,
            f"v{self.major_version}",
            self.packet_function_type_id,
        )

    def get_function_content_hash(self) -> str:
        """Return the hash of the code and constants that decide the function's result."""
        return function_content_hash(self.function, **self._identity_options())

    def get_function_code(self, called: str | None = None) -> FunctionCode:
        """Return what the function's code is, part by part; with a name, as if the function were called so in its source."""
        return function_code(self.function, **self._identity_options(), called=called)

    def get_environment(self) -> Environment:
        """Return the Python and the installed distributions that the function's code refers to."""
        return environment_of(self.get_function_code().libraries)

    def _identity_options(self) -> dict[str, Any]:
        # The fields of a record type name themselves; the order of its fields decides nothing.
        outputs = self.output_keys if self.outputs.record_type is None else ()
        return {
            "own_code": self.own_code,
            "depends_on": self.depends_on,
            "ignore": self.ignore,
            "outputs": outputs,
            "worker_state": self.worker_state,
            "resources": self.resources,
        }

    def get_function_variation_data(self) -> dict[str, str]:
        """Return what the function is: its name, signature hash, content hash and git hash."""
        return {
            "function_name": self.canonical_function_name,
            "function_signature_hash": function_signature_hash(self.function),
            "function_content_hash": self.get_function_content_hash(),
            "git_hash": git_state(source_file(self.function)).git_hash,
        }

    def get_function_variation_data_schema(self) -> Schema:
        """Return the schema of `get_function_variation_data`."""
        return Schema(
            dict.fromkeys(("function_name", "function_signature_hash", "function_content_hash", "git_hash"), str)
        )

    def get_execution_data(self) -> dict[str, Any]:
        """Return how it runs: executor type and info, Python version, extra info."""
        return flatten_execution_data(None if self._executor is None else self._executor.get_executor_data())

    def get_execution_data_schema(self) -> Schema:
        """Return the schema of `get_execution_data`."""
        return EXECUTION_DATA_SCHEMA

    # ------------------------------------------------------------------ executor and activity

    @property
    def executor(self) -> PythonFunctionExecutorProtocol | None:
        """Where the function runs; an executor that does not support it is refused with a TypeError."""
        return self._executor

    @executor.setter
    def executor(self, executor: PythonFunctionExecutorProtocol | None) -> None:
        self._executor = check_executor(executor, self.packet_function_type_id, self._owner)

    def is_active(self) -> bool:
        """Tell whether calls compute; an inactive function gives `None`."""
        return self._active

    def set_active(self, active: bool = True) -> None:
        """Switch computing on or off."""
        self._active = active

    # ------------------------------------------------------------------ worker state

    def with_worker_state(self, states: Mapping[str, Any]) -> PythonPacketFunction:
        """Return the same function with more, or other, state per worker.

        Args:
            states: parameter → `per_worker(...)`.

        Raises:
            DefinitionError: a name is no parameter, or a value no `per_worker`.
        """
        if not states:
            return self
        given = {**(self._arguments["worker_state"] or {}), **states}
        arguments: dict[str, Any] = {**self._arguments, "worker_state": given, "executor": self._executor}
        made = type(self)(**arguments)
        made.set_active(self._active)
        return made

    def factories(self) -> dict[str, Callable[[], Any]]:
        """Return what makes the state of a worker, by keyword of the function.

        Raises:
            DefinitionError: a parameter is a Dagster resource, and nothing says which.
        """
        refuse_resources(self.resources, self._owner)
        return {name: state.factory for name, state in self.worker_state.items()}

    def call_here(self, values: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Call the plain function in this process; see `one_packet.call_here`."""
        given = {name: state.factory for name, state in self.worker_state.items()}
        return call_here(self.function, values, keywords, given) if given else self.function(*values, **keywords)

    # ------------------------------------------------------------------ one packet

    def call(self, packet: Packet, logger: logging.Logger | None = None) -> Packet | None:
        """Compute one packet through the executor.

        Returns:
            The output packet with a fresh record id; `None` when the function is inactive.
        """
        if not self._active:
            return None
        if self._executor is None:
            return self.direct_call(packet)
        return self._through(self._executor, packet, logger)

    async def async_call(self, packet: Packet, logger: logging.Logger | None = None) -> Packet | None:
        """As `call`, from inside a running event loop."""
        if not self._active:
            return None
        if self._executor is None:
            return await self.direct_async_call(packet)
        return await self._through_async(self._executor, packet, logger)

    def direct_call(self, packet: Packet) -> Packet | None:
        """Compute one packet in this process, bypassing the executor."""
        if not self._active:
            return None
        return self._through(LocalPythonFunctionExecutor(), packet)

    async def direct_async_call(self, packet: Packet) -> Packet | None:
        """As `direct_call`, from inside a running event loop."""
        if not self._active:
            return None
        return await self._through_async(LocalPythonFunctionExecutor(), packet)

    @functools.cached_property
    def _for_one(self) -> Callable[..., Any]:
        """The function as it is called with one packet; a batch function with a batch of it."""
        return first_of(self.for_rows()) if self.batch_size else self.for_rows()

    def _one(self, packet: Packet) -> dict[str, Any]:
        return self.inputs.batch_of(packet) if self.batch_size else self.kwargs_of(packet)

    def for_rows(self) -> Callable[..., Any]:
        """Return the function as executors call it: a batch function gives a list of one result per packet, a generator one of its rows."""
        if self.is_generator:
            return as_list(self.function)
        if not self.batch_size:
            return self.function
        return with_rows(self.function, self.output_keys, self._owner, next(iter(self.input_packet_schema), ""))

    def _through(
        self, executor: PythonFunctionExecutorProtocol, packet: Packet, logger: logging.Logger | None = None
    ) -> Packet:
        return self.output_packet(execute(executor, self._for_one, self._one(packet), self.factories(), logger))

    async def _through_async(
        self, executor: PythonFunctionExecutorProtocol, packet: Packet, logger: logging.Logger | None = None
    ) -> Packet:
        return self.output_packet(
            await execute_async(executor, self._for_one, self._one(packet), self.factories(), logger)
        )

    def kwargs_of(self, packet: Packet) -> dict[str, Any]:
        """Return the function's keyword arguments for one packet; see `PacketInputs.kwargs_of`."""
        return self.inputs.kwargs_of(packet)

    def bind_packet(self, packet: Packet) -> dict[str, pa.Array]:
        """Return the consumed columns of one packet; see `PacketInputs.bind_packet`."""
        return self.inputs.bind_packet(packet)

    def output_packet(self, output: Any) -> Packet:
        """Make the output packet of one return value; what the function does to that later does not change the packet."""
        return Packet(self.outputs_to_batch([output]), self.output_packet_schema).with_source(self.uri)

    # ------------------------------------------------------------------ many rows

    def bind_columns(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> dict[str, pa.Array]:
        """Pick the consumed columns and bring them to the parameters' types; see `PacketInputs.bind_columns`."""
        return self.inputs.bind_columns(columns, rows)

    def refused_rows(self, bound: Mapping[str, pa.Array]) -> dict[int, str]:
        """Find the rows that hold what a parameter does not take; see `PacketInputs.refused_rows`."""
        return self.inputs.refused_rows(bound)

    def argument_columns(
        self, bound: Mapping[str, pa.Array], bind_blobs: Callable[[list[Any]], None] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Convert bound columns to Python values; see `PacketInputs.argument_columns`."""
        return self.inputs.argument_columns(bound, bind_blobs)

    def split_outputs(self, outputs: Sequence[Any]) -> dict[str, list[Any]]:
        """Split return values into one list per output column; see `PacketOutputs.split`."""
        return self.outputs.split(outputs)

    def outputs_to_batch(self, outputs: Sequence[Any], keeper: Keeper | None = None) -> pa.RecordBatch:
        """Convert return values to a record batch of the output schema; see `PacketOutputs.to_batch`."""
        return self.outputs.to_batch(outputs, keeper)

    def keeping(self, keeper: Keeper) -> Callable[..., Any]:
        """Return the function as it runs where large values are kept: what it returned is stored before its call ends."""
        if not self.blob_outputs:
            return self.for_rows()
        return keeping(self.function, keeper, self.outputs.blob_parts(), is_async=is_async(self.function))

    # ------------------------------------------------------------------ configuration

    def to_config(self) -> dict[str, Any]:
        """Return a JSON-compatible description that `from_config` reads."""
        return config_of(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PythonPacketFunction:
        """Rebuild a packet function by importing its module, with what it declares.

        Raises:
            DefinitionError: the module or name cannot be imported here, where a PacketFunctionProxy reads results only; or the
                function would be another one, for it declares what JSON does not carry, or was made with schemas.
        """
        found = function_of(config)
        if isinstance(found, PythonPacketFunction):
            return found
        made = cls(getattr(found, "__wrapped_function__", found), **arguments_of(config))
        refuse_another(config, made.uri)
        return made


def packet_function(
    output_keys: str | Collection[str] | None = None, *, version: str = "v0.0", **options: Any
) -> Callable[[Callable[..., Any]], PythonPacketFunction]:
    """Make a packet function of a plain function; the result is still callable as the plain function.

    Args:
        output_keys: names of the output columns.
        version: `v<major>.<minor>`.
        options: further arguments of `PythonPacketFunction`.

    Example:
        >>> @packet_function(output_keys=["celsius"])
        ... def to_celsius(fahrenheit: float) -> float:
        ...     return (fahrenheit - 32) * 5 / 9
        >>> to_celsius(212.0)
        100.0
    """
    keys = output_keys if output_keys is None or isinstance(output_keys, str) else tuple(output_keys)

    def decorate(function: Callable[..., Any]) -> PythonPacketFunction:
        return PythonPacketFunction(function, keys, version=version, **options)

    return decorate
