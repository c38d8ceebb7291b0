"""The hash of a function's signature."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any, Final

from orcapod_dagster.core.identity.values import plain_text

SIGNATURE_METHOD: Final = "python.signature.v1"


def function_signature_hash(function: Callable[..., Any]) -> str:
    """Return the hash of parameter names, order, kinds, annotations, defaults and the return annotation."""
    signature = inspect.signature(function)
    parts = [
        f"{p.name}|{p.kind.name}|{_annotation(p.annotation)}|{'' if p.default is p.empty else plain_text(p.default)}"
        for p in signature.parameters.values()
    ]
    text = "\n".join([*parts, f"-> {_annotation(signature.return_annotation)}"])
    return f"{SIGNATURE_METHOD}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    if isinstance(annotation, str):
        return annotation.replace(" ", "")
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__") and annotation.__module__ == "builtins":
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("pathlib._local.", "pathlib.").replace(" ", "")
