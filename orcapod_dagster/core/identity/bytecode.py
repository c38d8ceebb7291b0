"""Code without source: a stable text of bytecode, and the names it uses. Both hold within one minor version of Python."""

from __future__ import annotations

import dis
import sys
from types import CodeType

from orcapod_dagster.core.identity.names import MUTATORS, Chain, ImportedName, Names
from orcapod_dagster.core.identity.syntax import dump_constant


def dump_code(code: CodeType, docstring: str | None = None) -> str:
    """Return a text of a code object without lines, file name and docstring."""
    lines = [f"python {sys.version_info[0]}.{sys.version_info[1]}", repr(code.co_varnames[: _arguments(code)])]
    for instruction in dis.get_instructions(code):
        value = instruction.argval
        if isinstance(value, CodeType):
            text = dump_code(value)
        elif instruction.opname == "LOAD_CONST":
            text = "docstring" if docstring is not None and value == docstring else dump_constant(value)
        else:
            text = repr(value)
        lines.append(f"{instruction.opname} {text}")
    return "\n".join(lines)


def _arguments(code: CodeType) -> int:
    return code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)


def names_of_code(code: CodeType) -> Names:
    """Return the global names that a code object and those within it use."""
    names = Names()
    _collect(code, names)
    return names


def _collect(code: CodeType, names: Names) -> None:
    chain: Chain = ()
    constants: list[object] = []
    found = ImportedName("", 0, None)
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if chain and name in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = (*chain, str(value))
            continue
        if chain and name not in ("PUSH_NULL", "CACHE", "PRECALL"):
            names.chains.add(chain)
            _note_import_module(chain, value if name == "LOAD_CONST" else None, names)
            chain = ()
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = (str(value),)
            if value in ("eval", "exec", "globals", "__import__"):
                names.dynamic.add(f"{value}()")
        elif name == "LOAD_CONST":
            constants.append(value)
        elif name == "IMPORT_NAME":
            # The compiler puts the level and the names on the stack first.
            found = ImportedName(str(value), constants[-2] if isinstance(constants[-2], int) else 0, None)
            if constants[-1] is None:
                _note_import(found, names)
        elif name == "IMPORT_FROM":
            _note_import(ImportedName(found.module, found.level, str(value)), names)
        if isinstance(value, CodeType):
            _collect(value, names)
    if chain:
        names.chains.add(chain)


def _note_import(found: ImportedName, names: Names) -> None:
    bound = f"import {found.level} {found.module} {found.attribute}"
    names.imports[bound] = found
    names.chains.add((bound,))


def _note_import_module(called: Chain, module: object, names: Names) -> None:
    if called[-1] != "import_module":
        return
    if isinstance(module, str):
        top = module.lstrip(".")
        _note_import(ImportedName(top, len(module) - len(top), None), names)
    else:
        names.dynamic.add("import_module()")


def changed_by_code(code: CodeType) -> frozenset[Chain]:
    """Return the global names whose values the code changes, as far as bytecode tells."""
    found: set[Chain] = set()
    chain: Chain = ()
    last: Chain = ()
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name == "LOAD_GLOBAL":
            chain = last = (str(value),)
        elif name in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            if value in MUTATORS:
                found.add(chain)
            chain = last = (*chain, str(value))
        elif name == "STORE_GLOBAL":
            found.add((str(value),))
        elif name in ("STORE_SUBSCR", "STORE_ATTR") and last:
            found.add(last)
        else:
            chain = ()
            if name in ("STORE_FAST", "POP_TOP", "RETURN_VALUE", "CALL"):
                last = ()
        if isinstance(value, CodeType):
            found |= changed_by_code(value)
    return frozenset(found)
