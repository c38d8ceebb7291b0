"""Arrow's compute kernels under a name that type checkers accept.

`pyarrow.compute` makes its functions when it is imported, so no checker can see them.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
