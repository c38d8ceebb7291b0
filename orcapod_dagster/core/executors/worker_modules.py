"""Which modules of this package are sent to workers by value, in one place for all executors."""

from __future__ import annotations

from typing import Final

from orcapod_dagster.core import errors, infrastructure, skip
from orcapod_dagster.core.blobs import handle, keeper
from orcapod_dagster.core.executors import (
    batch_rows,
    cached,
    capture,
    concurrent_rows,
    ends,
    event_loop,
    generator_rows,
    late_modules,
    log_records,
    process_state,
    row_worker,
    slices,
    spool,
    time_limit,
    worker_states,
)

WORKER_MODULES: Final = (
    cached,
    slices,
    event_loop,
    concurrent_rows,
    batch_rows,
    generator_rows,
    process_state,
    capture,
    ends,
    log_records,
    spool,
    skip,
    errors,
    infrastructure,
    handle,
    keeper,
    time_limit,
    worker_states,
    late_modules,
    row_worker,
)
"""What a worker needs to call a function with rows; each imports only the standard library, or another of these."""
