"""What other libraries' names mean for identity: values of the environment and the machine, and what decides no result."""

from __future__ import annotations

from typing import Final

# Reading one of these, the result depends on more than code and input.
_ENVIRONMENT: Final = (
    "os.environ",
    "os.environb",
    "os.getenv",
    "os.getenvb",
    "os.getcwd",
    "os.cpu_count",
    "os.process_cpu_count",
    "os.uname",
    "os.getlogin",
    "os.getpid",
    "multiprocessing.cpu_count",
    "platform",
    "socket.gethostname",
    "socket.getfqdn",
    "socket.gethostbyname",
    "sys.platform",
    "sys.argv",
    "sys.executable",
    "getpass.getuser",
    "pathlib.Path.home",
    "pathlib.Path.cwd",
    "time.time",
    "time.time_ns",
    "time.localtime",
    "time.gmtime",
    "time.strftime",
    "time.tzname",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    "locale.getlocale",
)
# Loggers, locks and definitions of Dagster.
_DECIDE_NOTHING: Final = frozenset(
    {"logging", "structlog", "loguru", "threading", "_thread", "dagster", "orcapod_dagster", "warnings"}
)
_LOCKS: Final = frozenset({f"multiprocessing.{name}" for name in ("Lock", "RLock", "Semaphore", "Event", "Condition")})
# They keep results, and change none.
_CACHES: Final = frozenset({"functools.lru_cache", "functools.cache", "cachetools.cached", "cachetools.func.lru_cache"})


def environment_value(dotted: str) -> str | None:
    """Return the name of the value of environment, machine or clock that a dotted name reads, or `None`."""
    for name in _ENVIRONMENT:
        if dotted == name or dotted.startswith(name + "."):
            return name
    return None


def is_environment_variables(name: str) -> bool:
    """Tell whether a name from `environment_value` stands for environment variables."""
    return name in ("os.environ", "os.environb", "os.getenv", "os.getenvb")


def decides_nothing(dotted: str) -> bool:
    """Tell whether what a library's name makes (a logger, a lock, a Dagster definition, a cache) decides no result."""
    return dotted.partition(".")[0] in _DECIDE_NOTHING or dotted in _LOCKS or dotted in _CACHES


def is_logger(dotted: str) -> bool:
    """Tell whether a library's name is of a library that logs."""
    return dotted.partition(".")[0] in ("logging", "structlog", "loguru", "warnings")


def is_dropped_decorator(dotted: str) -> bool:
    """Tell whether a decorator leaves what a function returns as it is: Dagster's, this package's, caches."""
    return dotted.partition(".")[0] in ("dagster", "orcapod_dagster") or dotted in _CACHES
