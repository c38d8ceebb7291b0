"""The state of the git repository that holds a file: commit, uncommitted changes, untracked files.

Reading never raises, never happens on import, happens once per repository and process, takes at most
`READ_SECONDS`, and runs no code that a repository brings along (hooks, fsmonitor, filters, external diff).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

READ_SECONDS: Final = 5.0
"""Upper bound for all git calls of one read together."""

COMMIT_VARIABLE: Final = "ORCAPOD_GIT_COMMIT"
"""Environment variable by which a deployment without a repository says its commit."""

SWITCH_VARIABLE: Final = "ORCAPOD_GIT"
"""Environment variable that switches reading off (`off`, `0`, `false`, `no`)."""

_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")
_OFF: Final = frozenset({"off", "0", "false", "no"})
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_NULL_HOOKS: Final = os.devnull
_HARDENED: Final = (
    "--no-pager",
    "--no-optional-locks",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={_NULL_HOOKS}"),
    *("-c", "diff.external="),
    # Two settings of how a diff looks that have no option.
    *("-c", "core.quotePath=true"),
    *("-c", "diff.suppressBlankEmpty=false"),
)
_DIFF: Final = (
    *("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--binary", "--full-index", "--no-color", "--no-renames"),
    *("--unified=3", "--inter-hunk-context=0", "--diff-algorithm=myers", "--no-indent-heuristic", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/", f"-O{os.devnull}"),
    # Short: any other form runs git in the submodule, under the submodule's own settings.
    *("--submodule=short", "--ignore-submodules=dirty"),
)
_STATUS: Final = ("status", "--porcelain=v2", "-z", "--untracked-files=no", "--ignore-submodules=dirty")
_UNTRACKED: Final = ("ls-files", "-z", "--others", "--exclude-standard", "--directory", "--no-empty-directory")
_PROGRAMS: Final = r"^(filter\..*\.(clean|smudge|process|required)|lfs\.extension\..*)$"
_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class GitState:
    """What git says about the code, at the first time it was asked in this process."""

    commit: str
    """Full commit id, the value of `ORCAPOD_GIT_COMMIT`, or `""` where nothing is known."""
    dirty: bool
    """Tracked files have uncommitted changes, staged or not, or this could not be read in time."""
    untracked: bool
    """The repository has untracked files that it does not ignore, or this could not be read in time."""
    diff_hash: str
    """SHA-256 of the diff between work tree and commit; `""` when clean, `"unknown"` when not readable."""
    source: str
    """`"file"`, `"cwd"` (the current directory's repository), `"environment"`, `"none"` or `"off"`."""

    @property
    def git_hash(self) -> str:
        """`<commit>[-dirty][-untracked][-cwd]`, or `"unknown"`."""
        if not self.commit:
            return "unknown"
        words = [("dirty", self.dirty), ("untracked", self.untracked), ("cwd", self.source == "cwd")]
        return "-".join([self.commit, *(word for word, holds in words if holds)])

    def as_info(self) -> dict[str, str]:
        """Return the separate values as strings, for `extra_info`."""
        return {
            "git_commit": self.commit,
            "git_dirty": str(self.dirty).lower(),
            "git_untracked": str(self.untracked).lower(),
            "git_diff_hash": self.diff_hash,
            "git_source": self.source,
        }


_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A child of a fork inherits a lock that another thread held, and not the thread.
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
_roots: dict[Path, Path | None] = {}
_states: dict[Path, GitState | None] = {}


def git_state(path: str | Path | None) -> GitState:
    """Return the state of the repository that holds `path`.

    Args:
        path: A file or directory; `None` when the code lies in no file. Installed files (in `site-packages`)
            count as lying in no repository, also when a repository's directory surrounds them.

    Returns:
        The file's repository, else the current directory's, else `ORCAPOD_GIT_COMMIT`, else an empty state.
        With `ORCAPOD_GIT=off` no repository is read. Never raises.
    """
    if os.environ.get(SWITCH_VARIABLE, "").strip().lower() in _OFF:
        return _state_without_repository("off")
    with _lock:
        for source, directory in (("file", _directory_of(path)), ("cwd", _current_directory())):
            state = None if directory is None else _state_of_directory(directory)
            if state is not None:
                return replace(state, source=source)
    return _state_without_repository("none")


def commits_between(
    path: str | Path | None, first: str, last: str | None
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return the commits up to one, itself included, and those after it up to another.

    Args:
        path: as in `git_state`.
        first, last: hashes of commits, or their beginnings, in hexadecimal; `None` means the commit that is checked out.

    Returns:
        Full hashes; `None` where no repository holds the path, or it does not know the commits. Never raises.
    """
    directory = _directory_of(path) or _current_directory()
    root = None if directory is None else _find_root(directory)
    hexadecimal = all(set(one) <= _HEXADECIMAL for one in (first, last or "0"))
    if root is None or not hexadecimal or os.environ.get(SWITCH_VARIABLE, "").strip().lower() in _OFF:
        return None
    try:
        git = _Git(root, time.monotonic() + READ_SECONDS)
        named = [git.run("rev-parse", "--verify", "--quiet", f"{one}^{{commit}}") for one in (first, last or "HEAD")]
        begin, end = (one.decode("ascii").strip() for one in named)
        until = git.run("rev-list", begin, "--").decode("ascii").split()
        since = git.run("rev-list", f"{begin}..{end}", "--").decode("ascii").split()
    except (_GitError, OSError, ValueError):
        return None
    return frozenset(until), frozenset(since)


def _state_without_repository(source: str) -> GitState:
    commit = os.environ.get(COMMIT_VARIABLE, "").strip()
    return GitState(commit, False, False, "", "environment" if commit else source)


def _directory_of(path: str | Path | None) -> Path | None:
    """Return the directory of a file that exists and is not installed, or `None`."""
    if path is None:
        return None
    try:
        place = Path(path).resolve()
        directory = place if place.is_dir() else place.parent
        known = place.exists() and _INSTALLED.isdisjoint(place.parts)
    except (OSError, ValueError, RuntimeError):  # unreadable; an embedded NUL; a loop of links
        return None
    return directory if known else None


def _current_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _state_of_directory(directory: Path) -> GitState | None:
    if directory not in _roots:
        _roots[directory] = _find_root(directory)
    root = _roots[directory]
    if root is None:
        return None
    if root not in _states:
        _states[root] = _read(root)
    return _states[root]


def _find_root(directory: Path) -> Path | None:
    """Return the nearest directory that is a work tree (also a linked one, or a submodule) or a bare repository."""
    for candidate in (directory, *directory.parents):
        try:
            if (candidate / ".git").exists():
                return candidate
            if (candidate / "HEAD").is_file() and all((candidate / part).is_dir() for part in ("objects", "refs")):
                return candidate
        except OSError:
            return None
    return None


class _GitError(Exception):
    """Git is missing, refused, failed or took too long."""


def _read(root: Path) -> GitState | None:
    """Return the state of one repository; `None` without a commit to name (unborn, broken, not ours to read)."""
    git = _Git(root, time.monotonic() + READ_SECONDS)
    try:
        commit = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode("ascii").strip()
    except (_GitError, OSError, ValueError):
        return None
    # What is not known to be clean must not look clean.
    dirty, untracked, diff_hash = True, False, "unknown"
    try:
        inside, bare = git.run("rev-parse", "--is-inside-work-tree", "--is-bare-repository").split()
        if bare == b"true":
            return GitState(commit, False, False, "", "file")
        if inside != b"true":  # it says that its files lie elsewhere
            return GitState(commit, dirty, untracked, diff_hash, "file")
        git.disarm_filters()
        # Headers begin with "#"; what stands alone is the old name of a file that was renamed.
        dirty = any(entry[:2] in (b"1 ", b"2 ", b"u ") for entry in git.run(*_STATUS).split(b"\0"))
        diff_hash = _digest(git.read(*_DIFF)) if dirty else ""
        untracked = True
        untracked = git.says_anything(*_UNTRACKED)
    except (_GitError, OSError, ValueError):
        pass
    return GitState(commit, dirty, untracked, diff_hash, "file")


def _digest(parts: Generator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class _Git:
    """Runs git in one repository, hardened and until one deadline."""

    def __init__(self, root: Path, deadline: float) -> None:
        self._root = root
        self._deadline = deadline
        self._executable = _find_executable()
        self._settings: list[str] = []

    def run(self, *arguments: str) -> bytes:
        """Return standard output; raise `_GitError` for any failure."""
        return b"".join(self.read(*arguments))

    def says_anything(self, *arguments: str) -> bool:
        """Tell whether there is any output, without waiting for all of it; raise `_GitError` for any failure."""
        with contextlib.closing(self.read(*arguments)) as parts:
            return any(parts)

    def read(self, *arguments: str, fine: Sequence[int] = (0,)) -> Generator[bytes]:
        """Yield standard output as it comes; who has enough closes it, and git ends.

        Raises:
            _GitError: git took too long, or ended with a code that is not fine.
        """
        process = subprocess.Popen(  # noqa: S603  # git itself, hardened, with arguments of ours
            [self._executable, *_HARDENED, "-C", str(self._root), *self._settings, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        try:
            yield from self._output(process)
            code = process.wait(self._left())
        except subprocess.TimeoutExpired as error:
            raise _GitError("git took too long") from error
        finally:
            _end(process)
        if code not in fine:
            raise _GitError(f"git {arguments[0]} ended with {code}")

    def _output(self, process: subprocess.Popen[bytes]) -> Generator[bytes]:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(self._left()):
                    raise _GitError("git took too long")
                part = os.read(process.stdout.fileno(), _BUFFER)
                if not part:
                    return
                yield part

    def _left(self) -> float:
        return max(0.01, self._deadline - time.monotonic())

    def disarm_filters(self) -> None:
        """Replace filter commands that the repository itself configures by the user's own, or by none.

        Raises:
            _GitError: one cannot be replaced.
        """
        # 1: there is no such setting.
        output = b"".join(self.read("config", "--null", "--show-scope", "--get-regexp", _PROGRAMS, fine=(0, 1)))
        fields = output.decode("utf-8", "surrogateescape").split("\0")
        entries = [
            (scope, *setting.partition("\n")[::2]) for scope, setting in zip(fields[::2], fields[1::2], strict=False)
        ]
        trusted = {name: value for scope, name, value in entries if scope in ("system", "global")}
        for name in sorted({name for scope, name, _ in entries if scope not in ("system", "global", "command")}):
            fallback = "false" if name.endswith(".required") else ""
            # The user's Git LFS would call what such a setting names; and `-c` cannot name all others.
            if "=" in name or name.startswith("lfs."):
                raise _GitError("a filter of the repository cannot be switched off")
            self._settings += ["-c", f"{name}={trusted.get(name, fallback)}"]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill git, where it still runs, and what it started; a child that keeps the pipe open must not keep us."""
    if process.stdout is not None:
        process.stdout.close()
    if process.returncode is not None:
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)


def _environment() -> dict[str, str]:
    # GIT_DIR and its like are set inside a git hook and would point to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    kept = {name: os.environ[name] for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM") if name in os.environ}
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    # A partial clone fetches missing objects on demand, and its remote may be a command line; this overrides what the
    # repository's settings allow.
    return environment | kept | fixed | {"GIT_ALLOW_PROTOCOL": "none"}


def _find_executable() -> str:
    """Return the git binary that GitPython chose, or would; it is not imported for that, as it waits for the binary's answer."""
    loaded = sys.modules.get("git")
    chosen = getattr(getattr(loaded, "Git", None), "GIT_PYTHON_GIT_EXECUTABLE", None)
    return str(chosen or os.environ.get("GIT_PYTHON_GIT_EXECUTABLE") or "git")
