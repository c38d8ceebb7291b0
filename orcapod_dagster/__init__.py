"""Expensive per-row Python in Dagster: each row computed once, each result with its provenance, in Delta Lake."""

from orcapod_dagster.accepting import accept, accepted, withdraw
from orcapod_dagster.assets import packet_asset, packet_function_of
from orcapod_dagster.audit_checks import build_audit_checks
from orcapod_dagster.checks import build_lake_checks
from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.keeper import output_directory
from orcapod_dagster.core.errors import (
    AcceptanceError,
    CommitError,
    ConversionError,
    DefinitionError,
    ExecutorError,
    InputError,
    LakeError,
    LakeFormatError,
    MissingExtraError,
    OrcapodError,
    OutputCountError,
    OutputSizeError,
    PacketError,
    PacketFailuresError,
    PacketTimeoutError,
    PartitionError,
    RecomputeLimitError,
    RunNotFoundError,
    RunOptionError,
    SchemaMismatchError,
    StorageError,
    TableNotFoundError,
    TooManyFailuresError,
    UnboundFunctionError,
    UnsupportedTypeError,
    WorkerDeathError,
    WorkerStateError,
)
from orcapod_dagster.core.files import Directory, File
from orcapod_dagster.core.packet_function import packet_function
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.skip import SkipPacket
from orcapod_dagster.core.worker_state import per_worker
from orcapod_dagster.failure_checks import build_failure_checks
from orcapod_dagster.failures import read_failures
from orcapod_dagster.io_manager import DeltaLakeIOManager
from orcapod_dagster.logs import read_logs
from orcapod_dagster.resources import (
    LocalExecutorResource,
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    ResultStoreResource,
    packet_resources,
)
from orcapod_dagster.status import read_status

__all__ = [
    "AcceptanceError",
    "Blob",
    "CommitError",
    "ConversionError",
    "DefinitionError",
    "DeltaLakeIOManager",
    "Directory",
    "ExecutorError",
    "File",
    "InputError",
    "LakeError",
    "LakeFormatError",
    "LocalExecutorResource",
    "MissingExtraError",
    "OrcapodError",
    "OutputCountError",
    "OutputSizeError",
    "PacketError",
    "PacketExecutorResource",
    "PacketFailuresError",
    "PacketRetry",
    "PacketTimeoutError",
    "PartitionError",
    "ProcessPoolExecutorResource",
    "RayExecutorResource",
    "RecomputeLimitError",
    "ResultStoreResource",
    "RunNotFoundError",
    "RunOptionError",
    "SchemaMismatchError",
    "SkipPacket",
    "StorageError",
    "TableNotFoundError",
    "TooManyFailuresError",
    "UnboundFunctionError",
    "UnsupportedTypeError",
    "WorkerDeathError",
    "WorkerStateError",
    "accept",
    "accepted",
    "build_audit_checks",
    "build_failure_checks",
    "build_lake_checks",
    "output_directory",
    "packet_asset",
    "packet_function",
    "packet_function_of",
    "packet_resources",
    "per_worker",
    "read_failures",
    "read_logs",
    "read_status",
    "withdraw",
]
