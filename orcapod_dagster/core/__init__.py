"""The engine: plain Python and Arrow; nothing below here imports dagster."""

from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.cached_function import CachedPacketFunction
from orcapod_dagster.core.columns import ColumnConfig
from orcapod_dagster.core.databases import ArrowDatabase, DeltaTableDatabase, InMemoryArrowDatabase
from orcapod_dagster.core.datagrams import Datagram, Packet, Tag
from orcapod_dagster.core.executors.base import (
    PacketFunctionExecutorProtocol,
    PythonFunctionExecutorBase,
    PythonFunctionExecutorProtocol,
)
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.core.files import Directory, File
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.stand_ins import PacketFunctionProtocol, PacketFunctionProxy, PacketFunctionWrapper
from orcapod_dagster.core.types import ContentHash, Schema

__all__ = [
    "ArrowDatabase",
    "Blob",
    "BlobStore",
    "CachedPacketFunction",
    "ColumnConfig",
    "ContentHash",
    "Datagram",
    "DeltaTableDatabase",
    "Directory",
    "File",
    "FunctionPod",
    "InMemoryArrowDatabase",
    "LocalPythonFunctionExecutor",
    "Packet",
    "PacketFunctionExecutorProtocol",
    "PacketFunctionProtocol",
    "PacketFunctionProxy",
    "PacketFunctionWrapper",
    "ProcessPoolExecutor",
    "PythonFunctionExecutorBase",
    "PythonFunctionExecutorProtocol",
    "PythonPacketFunction",
    "RayExecutor",
    "ResultCache",
    "Schema",
    "Tag",
]
