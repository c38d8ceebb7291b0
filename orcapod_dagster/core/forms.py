"""The forms of packet functions: one packet to one row, many packets in one call (`batch`), one packet to any number of rows."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.executors.generator_rows import gives_async
from orcapod_dagster.core.executors.slices import is_async

DEFAULT_BATCH: Final = 256
"""Packets of a call of a batch function, at most."""

INDEX_FIELD: Final = pa.field("__index", pa.int64(), nullable=False)
"""Stands for the number of a row in the identity of a generator, so that its results are not those of a function that gives lists."""

_ITERATORS: Final = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)
_LISTS: Final = (list, collections.abc.Sequence)


def is_arrow(hint: Any) -> bool:
    """Tell whether a parameter takes an Arrow array."""
    return isinstance(hint, type) and issubclass(hint, (pa.Array, pa.ChunkedArray))


def element_hints(
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    inputs: Mapping[str, Any] | None,
    outputs: Mapping[str, Any] | None,
    owner: str,
) -> dict[str, Any]:
    """Return what the type hints of a batch function say of one packet: `list[T]` is a column of `T`.

    Args:
        signature, hints: of the function.
        inputs, outputs: types that are given; they are of one packet already.
        owner: for messages.

    Raises:
        DefinitionError: names the parameter that is no list, has a default, or whose type is not known.
    """
    found: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.default is not parameter.empty:
            raise DefinitionError(
                f"{owner}: parameter {name!r} of a batch function has a default, and whether that is for a packet or for a batch "
                "nobody can tell. Leave it out; packet_asset(params=...) gives a value to every packet."
            )
        if name in hints and name not in (inputs or {}):
            found[name] = _element(hints[name], f"{owner}: parameter {name!r}", "input_schema")
    if "return" in hints:
        is_given = outputs is not None or hints["return"] is type(None)
        found["return"] = (
            hints["return"] if is_given else _element(hints["return"], f"{owner}: the result", "output_schema")
        )
    return found


def _element(hint: Any, what: str, schema: str) -> Any:
    if typing.get_origin(hint) in _LISTS and len(typing.get_args(hint)) == 1:
        return typing.get_args(hint)[0]
    if is_arrow(hint):
        raise DefinitionError(f"{what} is an Arrow array, whose type is not known. Give it: {schema}=pa.schema([...]).")
    raise DefinitionError(
        f"{what} of a batch function is declared {hint}. Declare list[T], where T is the type of one packet, or an Arrow array with "
        f"{schema}=..."
    )


def generated(function: Callable[..., Any], returned: Any, owner: str) -> Any:
    """Return the type of one row of a generator function, by its return type `Iterator[T]`; `None` for other functions.

    Raises:
        DefinitionError: it yields, but does not say what.
    """
    origin, args = typing.get_origin(returned), typing.get_args(returned)
    if (origin in _ITERATORS and args) or returned in _ITERATORS:
        if args:
            return args[0]
    elif not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        return None
    raise DefinitionError(
        f"{owner} yields rows, but does not say of which type. Declare its result Iterator[T], Generator[T, None, None] or "
        "AsyncIterator[T], where T is the type of one row."
    )


def lists_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of columns that hold a list of values of each."""
    return {
        name: pa.field(name, pa.list_(pa.field("item", hint.type, hint.nullable)), nullable=False)
        if isinstance(hint, pa.Field)
        else list[hint]
        for name, hint in schema.items()
    }


def checked_batch_size(batch: bool, size: int | None, owner: str) -> int:
    """Return how many packets a call gets at most; 0 for a function of one packet.

    Raises:
        DefinitionError: it is no number from 1 on, or `batch` is not set, or no truth value.
    """
    if not isinstance(batch, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  # users give anything
        raise DefinitionError(f"{owner}: batch={batch!r}; give True, or leave it out.")
    if size is not None and (not isinstance(size, int) or size is True or size < 1):  # pyright: ignore[reportUnnecessaryIsInstance]  # users give anything
        raise DefinitionError(f"{owner}: batch_size={size!r} is no number of packets; give 1 or more.")
    if size is not None and not batch:
        raise DefinitionError(f"{owner}: batch_size={size} is for batch functions. Set batch=True, or leave it out.")
    return (size or DEFAULT_BATCH) if batch else 0


def checked_concurrency(given: int | None, function: Callable[..., Any], batch_size: int, owner: str) -> int:
    """Return how many packets of a function may be under way at a time in a process; by default one.

    Raises:
        DefinitionError: it is no number from 1 on, or the function is not async, or a batch function.
    """
    if given is None:
        return 1
    if not isinstance(given, int) or given is True or given < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # users give anything
        raise DefinitionError(f"{owner}: max_concurrency={given!r} is no number of packets; give 1 or more.")
    if given > 1 and not (is_async(function) or gives_async(function)):
        raise DefinitionError(
            f"{owner}: max_concurrency={given} is for async functions, and this is none: one packet at a time runs in each process. "
            "Define it with 'async def', or run it on more workers (ProcessPoolExecutorResource, RayExecutorResource)."
        )
    if given > 1 and batch_size:
        raise DefinitionError(
            f"{owner}: max_concurrency={given} is for functions of one packet, and this takes batches, one after the other. Gather "
            "what runs at once within the call."
        )
    return given


def refuse_large_values(columns: Collection[str], owner: str) -> None:
    """Refuse output columns of a batch function that are declared `Blob`.

    Raises:
        DefinitionError: there are some; names them.
    """
    if columns:
        raise DefinitionError(
            f"{owner}: the outputs {sorted(columns)} of a batch function are declared Blob, which is for functions "
            "of one packet: a large value is stored before its call ends. Leave batch=True out."
        )
