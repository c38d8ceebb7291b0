"""Python type ↔ Arrow type and values ↔ arrays; the one place that converts.

codec        what a codec is, and the registered hooks: exact type first, then families, the newest first
scalars      codecs of single values
containers   codecs of lists, sets, tuples, maps and records
numpy_types  codecs of numpy arrays and scalars
from_arrow   Arrow type → Python type
columns      schemas, columns, and input columns brought to declared types

Types come from schemas, never from values.
"""

# The order matters: a family that is registered later is asked first.
from orcapod_dagster.core.converter.codec import (
    Codec as Codec,
    Element as Element,
    Misfit as Misfit,
    codec_of as codec_of,
    field_hint as field_hint,
    register_codec as register_codec,
    register_type_family as register_type_family,
    split_optional as split_optional,
    type_name as type_name,
    unaliased as unaliased,
)
from orcapod_dagster.core.converter.scalars import (
    UTC_TIMESTAMP as UTC_TIMESTAMP,
    NaiveDatetime as NaiveDatetime,
    register_type as register_type,
)

from orcapod_dagster.core.converter import containers as containers, numpy_types as numpy_types  # isort: skip
from orcapod_dagster.core.converter.columns import (
    arrow_field as arrow_field,
    arrow_schema as arrow_schema,
    conform as conform,
    misfits as misfits,
    to_array as to_array,
    to_python as to_python,
    widens as widens,
)
from orcapod_dagster.core.converter.from_arrow import (
    field_type as field_type,
    python_schema as python_schema,
    python_type as python_type,
)
