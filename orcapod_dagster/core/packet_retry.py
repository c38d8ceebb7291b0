"""PacketRetry: how often a packet is tried in one run, and when again."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self, cast

from orcapod_dagster.core.error_kinds import WORKER_DEATH, is_any, kind_names
from orcapod_dagster.core.errors import DefinitionError

_NUMBERS: Final[Mapping[str, tuple[float, str]]] = {
    "delay": (0.0, "seconds, 0 or more"),
    "backoff": (1.0, "a factor, 1 or more"),
    "jitter": (0.0, "a part of the delay, 0 or more"),
    "max_delay": (0.0, "seconds, 0 or more"),
}


@dataclass(frozen=True, slots=True)
class PacketRetry:
    """How packets that fail are tried again within one run.

    The packets that failed in a round are tried again together, when all others have run and the delay after the last of
    these failures is over. Only the last failure is recorded, with the number of attempts.

    Attributes:
        attempts: how often a packet is called in one run at most, the first time included; 1 or more.
        delay: seconds before the second attempt.
        backoff: each further delay is so many times as long as the one before.
        jitter: a delay gets longer by a random part of itself up to this, so that runs which failed together do not come back
            together.
        max_delay: seconds that a delay has at most, without its jitter.
        exceptions: classes of exceptions, or their names, qualified or not, of which a failure must be one, or of one derived
            from it; kept as their names, in a tuple. None of them means every `Exception` but the death of a worker, which was tried twice already.

    Raises:
        DefinitionError: names the attribute that cannot be right.

    Example:
        >>> PacketRetry(attempts=5, delay=10, exceptions=[ConnectionError, "httpx.TransportError"]).exceptions
        ('ConnectionError', 'httpx.TransportError')
    """

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    jitter: float = 0.5
    max_delay: float = 300.0
    exceptions: Sequence[type[BaseException] | str] | type[BaseException] = ()

    def __post_init__(self) -> None:
        attempts: Any = self.attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise DefinitionError(f"packet_retry: attempts={attempts!r}; give a whole number, 1 or more.")
        for name, (least, expected) in _NUMBERS.items():
            value: Any = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < least:
                raise DefinitionError(f"packet_retry: {name}={value!r}; give {expected}.")
        given: Any = self.exceptions
        try:
            names = kind_names([given] if isinstance(given, (str, type)) else given)
        except TypeError as error:
            raise DefinitionError(f"packet_retry: exceptions: {error}. Give classes or their names.") from error
        object.__setattr__(self, "exceptions", names)

    @classmethod
    def of(cls, value: Self | int | Mapping[str, Any] | None) -> Self | None:
        """Return what users give for it: one of these, the number of attempts, the attributes by name, or nothing.

        Raises:
            DefinitionError: as above, or an attribute is none.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            known = [field.name for field in fields(cls)]
            unknown = sorted(set(value) - set(known), key=str)
            if unknown:
                raise DefinitionError(f"packet_retry: {unknown} are none of {known}. Remove them.")
            return cls(**value)
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(attempts=value)
        raise DefinitionError(
            f"packet_retry={value!r}; give PacketRetry(...), its attributes as a dict, or a number of attempts."
        )

    def tries_again(self, kinds: Sequence[str], attempt: int) -> bool:
        """Tell whether a packet whose attempt of this number (from 1) failed so is tried again.

        Args:
            kinds: of the exception, see `error_kinds.py`; none for what no further call can mend.
            attempt: which one failed.
        """
        if attempt >= self.attempts:
            return False
        if self.exceptions:
            return self.names(kinds)
        return is_any(kinds, ["Exception"]) and not is_any(kinds, [WORKER_DEATH])

    def names(self, kinds: Sequence[str]) -> bool:
        """Tell whether the exception is one of those that are named here; where none are, none is."""
        return is_any(kinds, cast("tuple[str, ...]", self.exceptions))

    def pause(self, attempt: int) -> float:
        """Return how many seconds pass after the attempt of this number; another number each time."""
        # Above this, every delay is the longest, and the power of a large backoff is no float.
        steps = min(attempt - 1, 64)
        delay = min(self.max_delay, self.delay * self.backoff**steps)
        return delay * (1 + self.jitter * random.random())  # noqa: S311  # no secret
