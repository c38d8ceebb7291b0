"""Files as values: columns declared `File` or `Directory` count by their content, never by their path."""

from orcapod_dagster.core.files.hints import Directory, File, file_columns, holds_paths
from orcapod_dagster.core.files.memory import FileMemory
from orcapod_dagster.core.files.reader import Contents, FileReader, Looks, PathsInFlight, content_columns

__all__ = [
    "Contents",
    "Directory",
    "File",
    "FileMemory",
    "FileReader",
    "Looks",
    "PathsInFlight",
    "content_columns",
    "file_columns",
    "holds_paths",
]
