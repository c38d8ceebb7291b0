"""What stands in for a packet function: the protocol that any may have, a wrapper, and a proxy where it cannot be imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from orcapod_dagster.core.datagrams import Packet
from orcapod_dagster.core.errors import DefinitionError, UnboundFunctionError
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.function_config import schemas_of
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.types import Schema


@runtime_checkable
class PacketFunctionProtocol(Protocol):
    """What caches, pods and assets need of a packet function."""

    @property
    def uri(self) -> tuple[str, str, str, str]:
        """The identity, which scopes the result cache."""
        ...

    @property
    def input_packet_schema(self) -> Schema:
        """Names and types of the parameters."""
        ...

    @property
    def output_packet_schema(self) -> Schema:
        """Names and types of the output columns."""
        ...

    def get_function_variation_data(self) -> dict[str, str]:
        """Return what the function is."""
        ...

    def get_execution_data(self) -> dict[str, Any]:
        """Return how it runs."""
        ...

    def call(self, packet: Packet, logger: logging.Logger | None = None) -> Packet | None:
        """Compute one packet."""
        ...


class PacketFunctionWrapper:
    """Delegates everything to another packet function; subclasses change what they are for."""

    def __init__(self, packet_function: Any) -> None:
        self.packet_function = packet_function

    def __getattr__(self, name: str) -> Any:
        if name == "packet_function":
            raise AttributeError(name)
        return getattr(self.packet_function, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function."""
        return self.packet_function(*args, **kwargs)

    @property
    def executor(self) -> PythonFunctionExecutorProtocol | None:
        """The wrapped function's executor."""
        return self.packet_function.executor

    @executor.setter
    def executor(self, executor: PythonFunctionExecutorProtocol | None) -> None:
        self.packet_function.executor = executor


class PacketFunctionProxy:
    """Stands in for a packet function that cannot be imported here; enough to read its results.

    Until it is bound, what calls the function, or asks for its code or how it runs, raises an `UnboundFunctionError`.

    Args:
        config: what `to_config()` of the real function gave.

    Raises:
        DefinitionError: it has no schemas.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._bound: PythonPacketFunction | None = None
        self._takes, self._gives = schemas_of(config)

    @property
    def uri(self) -> tuple[str, ...]:
        """The identity, from the configuration."""
        return tuple(self._config["uri"])

    @property
    def canonical_function_name(self) -> str:
        """The name, from the configuration."""
        return self._config["function_name"]

    @property
    def version(self) -> str:
        """The version, from the configuration."""
        return self._config["version"]

    @property
    def output_keys(self) -> tuple[str, ...]:
        """The output columns, from the configuration."""
        return tuple(self._config["output_keys"])

    @property
    def input_packet_schema(self) -> Schema:
        """Names and types of the parameters; of classes, a configuration knows how they are stored."""
        return self._takes if self._bound is None else self._bound.input_packet_schema

    @property
    def output_packet_schema(self) -> Schema:
        """Names and types of the output columns, likewise."""
        return self._gives if self._bound is None else self._bound.output_packet_schema

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function.

        Raises:
            UnboundFunctionError: it is not bound.
        """
        return self._real("calling it")(*args, **kwargs)

    def bind(self, packet_function: PythonPacketFunction) -> None:
        """Bind the real function.

        Raises:
            DefinitionError: it has another identity than the configuration says.
        """
        if packet_function.uri != self.uri:
            raise DefinitionError(
                f"The function bound has the uri {packet_function.uri}, the proxy {self.uri}. Bind the same one."
            )
        self._bound = packet_function

    def get_function_variation_data_schema(self) -> Schema:
        """Return the bound function's schema; empty until bound."""
        return Schema() if self._bound is None else self._bound.get_function_variation_data_schema()

    def get_execution_data_schema(self) -> Schema:
        """Return the bound function's schema; empty until bound."""
        return Schema() if self._bound is None else self._bound.get_execution_data_schema()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real(repr(name)), name)

    def _real(self, wanted: str) -> PythonPacketFunction:
        if self._bound is None:
            raise UnboundFunctionError(
                f"The function {self.canonical_function_name!r} is not bound here, which {wanted} needs. Import its module "
                f"{self._config['module']!r} and bind() it, or only read its results."
            )
        return self._bound
