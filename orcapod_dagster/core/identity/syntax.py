"""Python syntax as a stable text: the same on every supported Python version, blind to comments, docstrings and layout."""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
KeepDecorator = Callable[[ast.expr], bool]

_SKIPPED_FIELDS: Final = frozenset({"ctx", "type_comment", "type_ignores", "kind"})
_ARITHMETIC: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
# A literal such as 2**100 is folded, 10**10**10 is not.
_LARGEST: Final = 1 << 128
_MOST_STEPS: Final = 128


def dump(node: ast.AST, keep_decorator: KeepDecorator = lambda _: True) -> str:
    """Return a text of `node` that two nodes share exactly when they are the same code."""
    out: list[str] = []
    _dump(node, out, keep_decorator)
    return "".join(out)


def dump_constant(value: object) -> str:
    """Return a type-tagged text of a literal, also of the folded containers in bytecode."""
    if isinstance(value, bool | None) or value is Ellipsis:
        return repr(value)
    if isinstance(value, float):
        return f"float:{value.hex()}"
    if isinstance(value, complex):
        return f"complex:{value.real.hex()},{value.imag.hex()}"
    if isinstance(value, int):
        return f"int:{value:x}"
    if isinstance(value, str):
        return f"str:{value.encode('utf-8', 'surrogatepass').hex()}"
    if isinstance(value, bytes):
        return f"bytes:{value.hex()}"
    if isinstance(value, tuple):
        return f"tuple:({','.join(dump_constant(item) for item in value)})"
    if isinstance(value, frozenset):
        return f"frozenset:({','.join(sorted(dump_constant(item) for item in value))})"
    return f"other:{type(value).__name__}"


def dump_literal(node: ast.expr) -> str | None:
    """Return the text of a display of plain data by its value; `None` when it is anything else.

    `60 * 60` and `3600` are one text, and the order of a set is none.
    """
    if isinstance(node, ast.Constant | ast.BinOp | ast.UnaryOp):
        folded = _fold(node)
        return None if folded is _NOT_PLAIN else dump_constant(folded)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        items = [dump_literal(item) for item in node.elts]
        if None in items:
            return None
        plain = [item for item in items if item is not None]
        return f"{type(node).__name__.lower()}[{','.join(sorted(plain) if isinstance(node, ast.Set) else plain)}]"
    if isinstance(node, ast.Dict):
        pairs = [
            (key and dump_literal(key), dump_literal(value)) for key, value in zip(node.keys, node.values, strict=True)
        ]
        return None if any(None in pair for pair in pairs) else f"dict[{','.join(f'{k}:{v}' for k, v in pairs)}]"
    return None


def is_empty(node: ast.expr | None) -> bool:
    """Tell whether an expression makes an empty container or `None`, as caches start."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return True
    if isinstance(node, ast.Dict | ast.List):
        return not (node.keys if isinstance(node, ast.Dict) else node.elts)
    if not isinstance(node, ast.Call) or node.keywords:
        return False
    made = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return made == "defaultdict" or (
        not node.args and made in ("dict", "list", "set", "OrderedDict", "WeakValueDictionary")
    )


class _NotPlain:
    """What is no plain scalar."""


_NOT_PLAIN: Final = _NotPlain()


def _fold(node: ast.expr) -> Any:
    """Return the value of a literal or of arithmetic on literals."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _ARITHMETIC:
        operands = [_fold(node.operand)]
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        right = _fold(node.right)
        operands = [_NOT_PLAIN] if right is _NOT_PLAIN else [_fold(node.left), right]
    else:
        return _NOT_PLAIN
    if not _may_fold(node.op, operands):
        return _NOT_PLAIN
    try:
        return _ARITHMETIC[type(node.op)](*operands)
    except (ArithmeticError, TypeError, ValueError):
        return _NOT_PLAIN


def _may_fold(op: ast.AST, operands: list[Any]) -> bool:
    kinds = set(map(type, operands))
    if isinstance(op, ast.Add) and len(kinds) == 1 and kinds <= {str, bytes}:
        return True
    if not kinds <= {int, float, complex} or any(isinstance(o, int) and abs(o) > _LARGEST for o in operands):
        return False
    # Powers of floats come from the platform's mathematical library.
    return not isinstance(op, ast.Pow | ast.LShift) or (kinds == {int} and 0 <= operands[1] <= _MOST_STEPS)


def _dump(node: ast.AST, out: list[str], keep_decorator: KeepDecorator) -> None:
    if isinstance(node, ast.Constant | ast.BinOp | ast.UnaryOp):
        folded = _fold(node)
        if folded is not _NOT_PLAIN:
            out.append(f"Constant({dump_constant(folded)})")
            return
    out.append(f"{type(node).__name__}(")
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            value = _normalised(node, name, value, keep_decorator)
        if name in _SKIPPED_FIELDS or value is None or value == []:
            continue
        out.append(f"{name}=")
        if isinstance(value, list):
            _dump_list(value, out, keep_decorator)
        elif isinstance(value, ast.AST):
            _dump(value, out, keep_decorator)
        else:
            out.append(dump_constant(value))
        out.append(";")
    out.append(")")


def _dump_list(items: Iterable[object], out: list[str], keep_decorator: KeepDecorator) -> None:
    out.append("[")
    for item in items:
        if isinstance(item, ast.AST):
            _dump(item, out, keep_decorator)
        else:
            out.append(dump_constant(item))
        out.append(",")
    out.append("]")


def _normalised(node: ast.AST, name: str, items: list[object], keep_decorator: KeepDecorator) -> list[object]:
    """Drop what does not count from a list field: decorators of ours, strings as statements, pieces of f-strings."""
    if name == "decorator_list":
        return [item for item in items if isinstance(item, ast.expr) and keep_decorator(item)]
    if name == "body":
        return [item for item in items if not _does_nothing(item)] or [ast.Pass()]
    if name == "values" and isinstance(node, ast.JoinedStr):
        return list(_merged(items))
    return items


class _Renaming(ast.NodeTransformer):
    def __init__(self, before: str, after: str) -> None:
        self._before = before
        self._after = after

    def visit_Name(self, node: ast.Name) -> ast.AST:  # the name that ast asks for
        return ast.copy_location(ast.Name(self._after, node.ctx), node) if node.id == self._before else node


def renamed(node: Any, name: str) -> Any:
    """Return a function's syntax with another name, also where it calls itself; a lambda has none."""
    if isinstance(node, ast.Lambda):
        return node
    found = _Renaming(node.name, name).visit(copy.deepcopy(node))
    found.name = name
    return found


def _does_nothing(item: object) -> bool:
    return isinstance(item, ast.Pass) or (
        isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    )


def _merged(items: list[object]) -> Iterator[object]:
    """Join adjacent literal pieces: Python 3.12 cuts f-strings elsewhere than 3.11 and leaves empty pieces."""
    text = ""
    for item in items:
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            text += item.value
            continue
        if text:
            yield ast.Constant(text)
            text = ""
        yield item
    if text:
        yield ast.Constant(text)
