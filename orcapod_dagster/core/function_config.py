"""A packet function as JSON: where its code is and what it declares beside it; read again where the function is imported."""

from __future__ import annotations

import base64
import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orcapod_dagster.core.converter.from_arrow import python_schema
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.identity import EnvironmentVariable, variable_name
from orcapod_dagster.core.types import Schema

if TYPE_CHECKING:  # packet functions are written and read by this room
    from orcapod_dagster.core.packet_function import PythonPacketFunction


def config_of(function: PythonPacketFunction) -> dict[str, Any]:
    """Return a JSON-compatible description of a packet function.

    What of `depends_on` is neither JSON, nor a path, an environment variable or something that can be imported, is told by its
    class alone.
    """
    return {
        "packet_function_type_id": function.packet_function_type_id,
        "module": function.function.__module__,
        "qualname": function.function.__qualname__,
        "function_name": function.canonical_function_name,
        "version": function.version,
        "output_keys": list(function.output_keys),
        "uri": list(function.uri),
        "input_schema": _schema_told(function.input_arrow_schema),
        "output_schema": _schema_told(function.output_arrow_schema),
        "optional": sorted(function.input_packet_schema.optional),
        "max_concurrency": function.max_concurrency,
        "batch_size": function.batch_size,
        **_declarations_told(function),
    }


def function_of(config: Mapping[str, Any]) -> Any:
    """Return what stands under the function's name in its module.

    Raises:
        DefinitionError: the module or name cannot be imported here.
    """
    try:
        return _imported(config["module"], config["qualname"])
    except (ImportError, AttributeError) as error:
        raise DefinitionError(
            f"{config['module']}.{config['qualname']} cannot be imported here ({error}). "
            "PacketFunctionProxy reads results without it."
        ) from error


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make the packet function anew, of its plain function; see `PythonPacketFunction`.

    Raises:
        DefinitionError: `depends_on` has what JSON could not carry, or what cannot be imported here; names it.
    """
    batch_size = config.get("batch_size", 0)
    return {
        "output_keys": config["output_keys"] or None,
        "function_name": config["function_name"],
        "version": config["version"],
        **_declarations_read(config),
        "max_concurrency": config.get("max_concurrency"),
        "batch": batch_size > 0,
        "batch_size": batch_size or None,
    }


def schemas_of(config: Mapping[str, Any]) -> tuple[Schema, Schema]:
    """Return what the packet function of a configuration takes and gives, as the Python types of its Arrow types.

    Raises:
        DefinitionError: the configuration has no schemas.
    """
    missing = [name for name in ("input_schema", "output_schema", "optional") if name not in config]
    if missing:
        raise DefinitionError(
            f"The configuration of {config.get('function_name')!r} has no {', '.join(missing)}: an older release wrote it. Write "
            "it anew with to_config(), where the function can be imported."
        )
    takes, gives = (
        pa.ipc.read_schema(pa.py_buffer(base64.b64decode(config[name]))) for name in ("input_schema", "output_schema")
    )
    return Schema(python_schema(takes), config["optional"]), python_schema(gives)


def refuse_another(config: Mapping[str, Any], uri: Sequence[str]) -> None:
    """Refuse a packet function that was made by a configuration, and has another identity than that says.

    Raises:
        DefinitionError: names both.
    """
    if list(uri) != list(config["uri"]):
        raise DefinitionError(
            f"{config['module']}.{config['qualname']} is here {uri}, and was {tuple(config['uri'])}: its output types, or "
            "schemas that were given. Make the packet function where it is defined, by the decorator, and import that."
        )


def _schema_told(schema: pa.Schema) -> str:
    """Return an Arrow schema as text: Arrow's own message, in base64."""
    return base64.b64encode(schema.serialize()).decode()


def _declarations_told(function: PythonPacketFunction) -> dict[str, Any]:
    depends_on = function.depends_on
    named = isinstance(depends_on, Mapping)
    return {
        "own_code": [one.__name__ if isinstance(one, ModuleType) else one for one in function.own_code],
        "depends_on": {name: _told(one) for name, one in depends_on.items()} if named else [*map(_told, depends_on)],
        "ignore": list(function.ignore),
        "formerly": list(function.formerly),
    }


def _declarations_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declarations that a configuration tells; none for one of a release that did not tell them."""
    name, told = config["function_name"], config.get("depends_on", [])
    if isinstance(told, Mapping):
        depends_on: Any = {key: _read(one, f"{name!r}: depends_on {key!r}") for key, one in told.items()}
    else:
        depends_on = [_read(one, f"{name!r}: depends_on[{number}]") for number, one in enumerate(told)]
    rest = {key: config.get(key, []) for key in ("own_code", "ignore", "formerly")}
    return {"depends_on": depends_on, **rest}


def _imported(module: str, qualname: str) -> Any:
    """Return what a module has under a name.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    found: Any = importlib.import_module(module)
    for part in filter(None, qualname.split(".")):
        found = getattr(found, part)
    return found


def _told(value: Any) -> dict[str, Any]:
    if (variable := variable_name(value)) is not None:
        return {"environment": variable}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, ModuleType):
        return {"module": value.__name__, "qualname": ""}
    if _is_json(value):
        return {"value": value}
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and module in sys.modules:
        try:
            if _imported(module, qualname) is value:
                return {"module": module, "qualname": qualname}
        except (ImportError, AttributeError):
            pass
    return {"not_told": f"{type(value).__module__}.{type(value).__qualname__}"}


def _read(told: Mapping[str, Any], what: str) -> Any:
    if "not_told" in told:
        raise DefinitionError(
            f"function {what} is a {told['not_told']}, which JSON does not carry, so the function would be another one. Declare "
            "a value of JSON, a Path, a dg.EnvVar, or a function or class at the top of a module; or import the function."
        )
    if "environment" in told:
        return EnvironmentVariable(told["environment"])
    if "path" in told:
        return Path(told["path"])
    if "value" in told:
        return told["value"]
    try:
        return _imported(told["module"], told["qualname"])
    except (ImportError, AttributeError) as error:
        raise DefinitionError(
            f"function {what} cannot be imported here ({error}). Install that module, or use a PacketFunctionProxy to read results."
        ) from error


def _is_json(value: Any) -> bool:
    """Tell whether JSON gives the very value back; subclasses and tuples it does not."""
    if isinstance(value, list):
        return type(value) is list and all(map(_is_json, value))
    if isinstance(value, dict):
        return type(value) is dict and all(type(k) is str and _is_json(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))
