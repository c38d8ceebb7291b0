"""Sources of a function that are kept: which parameters they name, and their text but for what they say to return."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

from orcapod_dagster.core.identity.functions import layers_of, locate, plain_function
from orcapod_dagster.core.identity.source_walk import keeper
from orcapod_dagster.core.identity.syntax import dump, renamed


def text_but_for_return(function: Any, formerly: Collection[str] = ()) -> Callable[[str], str | None]:
    """Return what gives the text of a source of a function, which two sources share that differ only by the return annotation.

    Args:
        function: as it is now; by its module it is known which decorators count.
        formerly: names that the function had, which count as its own.

    Returns:
        Takes a source, decorators included; gives `None` for what is no source of this function.
    """
    inner = layers_of(plain_function(function))[-1]
    if not isinstance(inner, FunctionType):
        return lambda _: None
    keep = keeper(locate(inner).module, inner.__globals__)
    own = inner.__name__

    def text(source: str) -> str | None:
        node = _function_in(source)
        if node is None or node.name not in (own, *formerly):
            return None
        bare = renamed(node, own)
        bare.returns = None
        return dump(bare, keep)

    return text


def parameters_in(source: str | None) -> frozenset[str] | None:
    """Return the names of the parameters of a function's source; `None` where that cannot be read."""
    node = None if source is None else _function_in(source)
    if node is None:
        return None
    args = node.args
    return frozenset(one.arg for one in (*args.posonlyargs, *args.args, *args.kwonlyargs))


def _function_in(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        parsed = ast.parse(textwrap.dedent(source)).body
    except (SyntaxError, ValueError):
        return None
    node = parsed[0] if len(parsed) == 1 else None
    return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
