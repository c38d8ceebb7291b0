"""Codecs of numpy arrays and scalars; numpy itself is imported only when a hint of its own asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import list_array, struct_array
from orcapod_dagster.core.converter.codec import NONE, Codec, Misfit, a, register_type_family, type_name
from orcapod_dagster.core.errors import UnsupportedTypeError

_KINDS: Final = "biuf"


class VectorCodec(Codec):
    """One-dimensional arrays, `numpy.ndarray[tuple[int], numpy.dtype[T]]`: `list<T not null>`."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.arrow_type: pa.DataType = pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))

    def encode(self, values: Sequence[Any]) -> pa.Array:
        ready = _checked(values, self.dtype)
        for row, value in enumerate(ready):
            if value is not None and value.ndim != 1:
                raise Misfit(row, f"an array of {value.ndim} dimensions", reason="expected one")
        return _data(ready, self.dtype, self.arrow_type)

    def decode(self, array: pa.Array) -> list[Any]:
        return _split(array)


class TensorCodec(Codec):
    """Arrays of any shape, `numpy.typing.NDArray[T]`: `struct<data: list<T>, shape: list<int32>>`, in C order.

    The fields are those of Arrow's canonical variable-shape tensor.
    """

    def __init__(self, dtype: Any) -> None:
        self._vector = VectorCodec(dtype)
        shape = pa.list_(pa.field("element", pa.int32(), nullable=False))
        self._shape = pa.field("shape", shape, nullable=False)
        self.arrow_type = pa.struct([pa.field("data", self._vector.arrow_type, nullable=False), self._shape])

    def encode(self, values: Sequence[Any]) -> pa.Array:
        ready = _checked(values, self._vector.dtype)
        data = _data([None if v is None else v.ravel() for v in ready], self._vector.dtype, self._vector.arrow_type)
        shapes = pa.array([None if v is None else list(v.shape) for v in ready], self._shape.type)
        null = data.is_null() if data.null_count else None
        return struct_array([data, shapes], self.arrow_type, null, len(values))

    def decode(self, array: pa.Array) -> list[Any]:
        data, shapes = array.flatten()
        return [
            None if shape is None else flat.reshape(shape)
            for flat, shape in zip(_split(data), shapes.to_pylist(), strict=True)
        ]


def _checked(values: Sequence[Any], dtype: Any) -> list[Any]:
    """Return the arrays in exactly this dtype; a wider one, a masked array or anything else is refused."""
    import numpy as np

    if set(map(type, values)) - {np.ndarray, NONE}:
        row = next(r for r, v in enumerate(values) if type(v) not in (np.ndarray, NONE))
        raise Misfit(row, a(values[row]))
    for row, value in enumerate(values):
        if value is not None and not np.can_cast(value.dtype, dtype, "safe"):
            raise Misfit(row, f"an array of {value.dtype}", reason=f"{dtype} does not hold it exactly")
    return [None if value is None else value.astype(dtype, copy=False) for value in values]


def _data(vectors: Sequence[Any], dtype: Any, arrow_type: pa.DataType) -> pa.Array:
    import numpy as np

    filled = [vector for vector in vectors if vector is not None]
    flat = np.concatenate(filled) if filled else np.empty(0, dtype)
    lengths = pa.array([None if vector is None else len(vector) for vector in vectors], pa.int64())
    return list_array(lengths, pa.array(flat), arrow_type)


def _split(array: pa.Array) -> list[Any]:
    """Return each list of numbers as an array of its own, that its receiver may change."""
    flat = array.flatten().to_numpy(zero_copy_only=False)
    lengths: list[int | None] = pc.list_value_length(array).to_pylist()
    found: list[Any] = []
    start = 0
    for length in lengths:
        if length is None:
            found.append(None)
            continue
        found.append(flat[start : start + length].copy())
        start += length
    return found


class NumpyScalarCodec(Codec):
    """`numpy.float32`, `numpy.int8`, … : a plain number of the same width."""

    def __init__(self, scalar: Any) -> None:
        import numpy as np

        self._scalar = scalar
        self._dtype = np.dtype(scalar)
        self.arrow_type = pa.from_numpy_dtype(self._dtype)

    def encode(self, values: Sequence[Any]) -> pa.Array:
        import numpy as np

        for row, value in enumerate(values):
            if value is None or type(value) is self._scalar:
                continue
            if not (isinstance(value, np.generic) and np.can_cast(value.dtype, self._dtype, "safe")):
                raise Misfit(row, a(value))
        return pa.array([None if value is None else value.item() for value in values], self.arrow_type)

    def decode(self, array: pa.Array) -> list[Any]:
        return [None if value is None else self._scalar(value) for value in array.to_pylist()]


def _array_codec(hint: Any) -> Codec:
    import numpy as np

    shape, dtype_hint = get_args(hint)
    scalar = get_args(dtype_hint)[0] if get_args(dtype_hint) else None
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic) and np.dtype(scalar).kind in _KINDS):
        raise UnsupportedTypeError(
            f"{type_name(hint)} has no Arrow counterpart. Name a number or bool type, e.g. numpy.typing.NDArray[numpy.float64]."
        )
    sizes = get_args(shape)
    return VectorCodec(np.dtype(scalar)) if sizes == (int,) else TensorCodec(np.dtype(scalar))


def _is_scalar(hint: Any) -> bool:
    if not (isinstance(hint, type) and hint.__module__ == "numpy"):
        return False
    import numpy as np

    return issubclass(hint, np.generic) and not issubclass(hint, np.flexible) and np.dtype(hint).kind in _KINDS


register_type_family(_is_scalar, NumpyScalarCodec)
register_type_family(lambda h: getattr(get_origin(h), "__module__", "") == "numpy", _array_codec)
