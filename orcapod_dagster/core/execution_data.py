"""How a packet function ran: the flat execution data that is stored with each row, and the check of executors."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.types import Schema

EXECUTION_DATA_SCHEMA: Final = Schema(
    {"executor_type": str, "executor_info": dict[str, str], "python_version": str, "extra_info": dict[str, str]}
)


def flatten_execution_data(
    executor_data: Mapping[str, Any] | None, extra_info: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Bring an executor's own data to the shape that is stored; the executor's mapping is never changed.

    Args:
        executor_data: what `get_executor_data()` or a task reported; None where no executor ran.
        extra_info: further pairs about the circumstances of the run.

    Returns:
        `{"executor_type": str, "executor_info": dict[str, str], "python_version": "3.x.y", "extra_info": dict[str, str]}`.
    """
    data = dict(executor_data or {})
    executor_type = str(data.pop("executor_type", "none"))
    return {
        "executor_type": executor_type,
        "executor_info": {str(key): _as_text(value) for key, value in data.items()},
        "python_version": platform.python_version(),
        "extra_info": dict(extra_info or {}),
    }


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def check_executor(executor: Any, type_id: str, owner: str) -> PythonFunctionExecutorProtocol | None:
    """Return the executor if it can run functions of this type.

    Raises:
        TypeError: it does not implement the protocol, or does not support the type.
    """
    if executor is None:
        return None
    if not isinstance(executor, PythonFunctionExecutorProtocol):
        raise TypeError(
            f"{owner}: {type(executor).__qualname__} is no executor: it lacks part of PythonFunctionExecutorProtocol. "
            "Subclass PythonFunctionExecutorBase."
        )
    if not executor.supports(type_id):
        raise TypeError(
            f"{owner}: executor {executor.executor_type_id!r} does not support functions of type {type_id!r}; it supports "
            f"{sorted(executor.supported_function_type_ids())}. Use another executor."
        )
    return executor


def check_honours(executor: Any, needed: Iterable[str], owner: str) -> None:
    """Refuse an executor that would call the function without what it needs.

    Args:
        executor: says in `honours` what it does; one that does not say so does nothing of it.
        needed: options of `CallOptions`, of `HONOURED`.
        owner: for the message.

    Raises:
        TypeError: names what is missing.
    """
    missing = sorted(set(needed) - set(getattr(executor, "honours", ())))
    if missing:
        raise TypeError(
            f"{owner} needs {missing}, which executor {executor.executor_type_id!r} does not say that it does; its packets would be called "
            "wrongly. Use another executor; or, where its run_rows does as CallOptions says, name them in its attribute `honours`."
        )
