"""What the code is: hashes of a function's signature, and of the code and constants that decide its result.

A function's content is a set of parts: its body, defaults and closure, and, transitively, the functions, classes and
constants of the user's own code that it names. Each part is a stable text; the hash is over all of them. Names at module
level are looked up in the module's source, not in the running process, so that a helper which is defined further down, or
a module that is only half imported, counts the same at definition and in the run.
"""

from orcapod_dagster.core.identity.content import (
    FunctionCode,
    UnhashableDependencyWarning,
    changed_parts,
    code_parts,
    function_code,
    function_content_hash,
)
from orcapod_dagster.core.identity.declared import EnvironmentVariable, variable_name
from orcapod_dagster.core.identity.distributions import ENVIRONMENT_METHOD, Environment, environment_of
from orcapod_dagster.core.identity.parts import CONTENT_METHOD, CodePart
from orcapod_dagster.core.identity.returns import parameters_in, text_but_for_return
from orcapod_dagster.core.identity.signature_hash import SIGNATURE_METHOD, function_signature_hash

__all__ = [
    "CONTENT_METHOD",
    "ENVIRONMENT_METHOD",
    "SIGNATURE_METHOD",
    "CodePart",
    "Environment",
    "EnvironmentVariable",
    "FunctionCode",
    "UnhashableDependencyWarning",
    "changed_parts",
    "code_parts",
    "environment_of",
    "function_code",
    "function_content_hash",
    "function_signature_hash",
    "parameters_in",
    "text_but_for_return",
    "variable_name",
]
