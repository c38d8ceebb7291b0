"""The errors of this package, all rooted in `OrcapodError`.

OrcapodError
├── DefinitionError (TypeError)         a function, asset or schema that cannot be right, found when defined
├── UnsupportedTypeError (TypeError)    a Python or Arrow type without a counterpart
├── ConversionError (ValueError)        a value that its declared type does not take; names column and row
│   └── OutputSizeError                 values that are together, or alone, more bytes than one Arrow array holds
├── InputError (ValueError)             rows or columns of an input that cannot be used: missing, duplicate, null
├── OutputCountError (ValueError)       a function returned another number of values than it declares
├── PacketError (RuntimeError)          a user's function raised; the cause is the original exception
├── PacketFailuresError (RuntimeError)  a run ended with failed packets
│   └── TooManyFailuresError            it was stopped for them; other packets were not tried
├── RunOptionError (ValueError)         a run's tag that is no option of packet assets, or no value of one
├── RunNotFoundError (LookupError)      no run is known that computed something of an asset, or that one is not
├── RecomputeLimitError (RuntimeError)  a run would compute again what took longer than the limit
├── ExecutorError (RuntimeError)        an executor could not do its work (infrastructure, not the user's function)
│   └── WorkerStateError                the set-up of a worker's state failed; names the factory and the worker
├── WorkerDeathError (RuntimeError)     a packet ended the worker process that ran it
├── PacketTimeoutError (TimeoutError)   a packet took longer than its time limit
├── AcceptanceError (ValueError)        an edit that cannot be accepted, or an acceptance that is not there
├── UnboundFunctionError (RuntimeError) a proxy was called before a function was bound to it
├── LakeError (RuntimeError)            a table or the lake is not what it should be
│   ├── LakeFormatError                 it was written by another version of the format
│   ├── TableNotFoundError (FileNotFoundError)  nothing was materialized there yet
│   ├── SchemaMismatchError             the data has other columns or types than the table
│   ├── PartitionError                  a partition that cannot be written or read right
│   ├── StorageError (OSError)          the storage refused: permission, space, network
│   └── CommitError                     a commit did not succeed within the bounded retries
└── MissingExtraError (ImportError)     an optional library is not installed; names the extra
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self


class OrcapodError(Exception):
    """Root of all errors of this package."""


class DefinitionError(OrcapodError, TypeError):
    """A function, asset or schema is defined in a way that cannot be right."""


class UnsupportedTypeError(OrcapodError, TypeError):
    """A type has no counterpart on the other side (Python or Arrow)."""


class ConversionError(OrcapodError, ValueError):
    """A value does not fit its declared type; the message names column and row."""


class OutputSizeError(ConversionError):
    """The values of one column are more bytes than one Arrow array holds."""


class InputError(OrcapodError, ValueError):
    """Columns or rows of an input cannot be used; the message names them."""


class OutputCountError(OrcapodError, ValueError):
    """A function returned another number of values than its output keys declare."""


class PacketError(OrcapodError, RuntimeError):
    """A user's function raised; `__cause__` is the original exception."""


class PacketFailuresError(OrcapodError, RuntimeError):
    """A run ended with packets that failed; everything that succeeded is stored."""


class TooManyFailuresError(PacketFailuresError):
    """A run was stopped because too many packets failed, or the first ones all alike; everything finished is stored.

    Attributes:
        summary: the message without the failures. failures: the first ones, as `outcomes.Outcome`.
    """

    summary: str = ""
    failures: Sequence[Any] = ()

    @classmethod
    def of(cls, summary: str, failures: Sequence[Any]) -> Self:
        """Make one of a message and failures, of which the first is told."""
        first = f"\n\n{failures[0].error_type}: {failures[0].message}\n{failures[0].traceback}" if failures else ""
        error = cls(f"{summary}{first}")
        error.summary, error.failures = summary, tuple(failures)
        return error


class RunOptionError(OrcapodError, ValueError):
    """A tag of a run is no option of packet assets, or has a value that the option does not take."""


class RunNotFoundError(OrcapodError, LookupError):
    """No run is known that had packets of an asset to compute, or the one that was asked for is not."""


class RecomputeLimitError(OrcapodError, RuntimeError):
    """A run would compute packets again that have results, which took longer than the limit; it stopped before the first."""


class ExecutorError(OrcapodError, RuntimeError):
    """An executor could not do its work; the user's function is not to blame."""


class WorkerStateError(ExecutorError):
    """What a function is given once per worker could not be built; no packet is to blame."""


class WorkerDeathError(OrcapodError, RuntimeError):
    """The worker process that ran a packet ended, and so again when it was tried alone."""


class PacketTimeoutError(OrcapodError, TimeoutError):
    """A packet took longer than its time limit, and was stopped, or its worker ended."""


class AcceptanceError(OrcapodError, ValueError):
    """An edit cannot be accepted as it was asked for, or an acceptance cannot be withdrawn."""


class UnboundFunctionError(OrcapodError, RuntimeError):
    """A packet function proxy was called before a function was bound to it."""


class LakeError(OrcapodError, RuntimeError):
    """A table, or the lake as a whole, is not what it should be."""


class LakeFormatError(LakeError):
    """A table was written by another version of the lake format."""


class TableNotFoundError(LakeError, FileNotFoundError):
    """There is no table where one was expected; materialize the asset first."""


class SchemaMismatchError(LakeError):
    """Data has other columns or types than the table it should go to."""


class PartitionError(LakeError):
    """A partition cannot be written or read right."""


class StorageError(LakeError, OSError):
    """The storage refused: permission, space or network."""


class CommitError(LakeError):
    """A commit did not succeed within its bounded, jittered retries."""


class MissingExtraError(OrcapodError, ImportError):
    """An optional library is not installed; the message names the extra to install."""
