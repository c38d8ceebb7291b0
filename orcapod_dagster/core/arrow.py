"""Arrow's compute functions, imported when the first of them is used.

They cost 35 ms to import, half of what the whole package costs, and loading definitions needs none of them.
pyarrow makes them at run time, so no type checker knows them.
"""

from __future__ import annotations

from typing import Any


class _Compute:
    def __getattr__(self, name: str) -> Any:
        import pyarrow.compute

        function = getattr(pyarrow.compute, name)
        setattr(self, name, function)
        return function


pc: Any = _Compute()
