"""The state of the git repository that holds a file: commit, uncommitted changes, untracked files.

Reading never raises, never happens on import, happens once per repository and process, takes at most
`READ_SECONDS`, and runs no code that a repository brings along (hooks, fsmonitor, filters, external diff).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

READ_SECONDS: Final = 5.0
"""Upper bound for all git calls of one read together."""

COMMIT_VARIABLE: Final = "ORCAPOD_GIT_COMMIT"
"""Environment variable by which a deployment without a repository says its commit."""

SWITCH_VARIABLE: Final = "ORCAPOD_GIT"
"""Environment variable that switches reading off (`off`, `0`, `false`, `no`)."""

_OFF: Final = frozenset({"off", "0", "false", "no"})
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_NULL_HOOKS: Final = os.devnull
_HARDENED: Final = (
    "--no-pager",
    "--no-optional-locks",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={_NULL_HOOKS}"),
    *("-c", "diff.external="),
    # A partial clone fetches missing objects on demand, and its remote may be a command line.
    *("-c", "protocol.allow=never"),
)
_DIFF: Final = (
    *("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--binary", "--full-index", "--no-color", "--no-renames"),
    *("--unified=3", "--diff-algorithm=myers", "--no-indent-heuristic", "--src-prefix=a/", "--dst-prefix=b/"),
    "--ignore-submodules=dirty",
)


@dataclass(frozen=True, slots=True)
class GitState:
    """What git says about the code, at the first time it was asked in this process."""

    commit: str
    """Full commit id, the value of `ORCAPOD_GIT_COMMIT`, or `""` where nothing is known."""
    dirty: bool
    """Tracked files have uncommitted changes, staged or not, or this could not be read in time."""
    untracked: bool
    """The repository has untracked files that it does not ignore."""
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
    deadline = time.monotonic() + READ_SECONDS
    try:
        git = _Git(root, deadline)
        commit = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode("ascii").strip()
        if git.run("rev-parse", "--is-inside-work-tree").strip() != b"true":
            return GitState(commit, False, False, "", "file")
    except (_GitError, OSError, ValueError):
        return None
    try:
        git.disarm_filters()
        dirty, untracked = _parse_status(
            git.run("status", "--porcelain=v2", "-z", "--untracked-files=normal", "--ignore-submodules=dirty")
        )
        diff_hash = hashlib.sha256(git.run(*_DIFF)).hexdigest() if dirty else ""
    except (_GitError, OSError, ValueError):
        # Not known to be clean must not look clean.
        return GitState(commit, True, False, "unknown", "file")
    return GitState(commit, dirty, untracked, diff_hash, "file")


def _parse_status(output: bytes) -> tuple[bool, bool]:
    """Return (tracked files changed, untracked files exist) from `git status --porcelain=v2 -z`."""
    dirty = untracked = skip_next = False
    for entry in output.split(b"\0"):
        if skip_next:  # the second field of a rename is a bare path
            skip_next = False
            continue
        kind = entry[:2]
        skip_next = kind == b"2 "
        dirty = dirty or kind in (b"1 ", b"2 ", b"u ")
        untracked = untracked or kind == b"? "
    return dirty, untracked


class _Git:
    """Runs git in one repository, hardened and until one deadline."""

    def __init__(self, root: Path, deadline: float) -> None:
        self._root = root
        self._deadline = deadline
        self._executable = _find_executable()
        self._settings: list[str] = []

    def run(self, *arguments: str) -> bytes:
        """Return standard output; raise `_GitError` for any failure."""
        code, output = self._call([*self._settings, *arguments])
        if code != 0:
            raise _GitError(f"git {arguments[0]} ended with {code}")
        return output

    def disarm_filters(self) -> None:
        """Replace filter commands that the repository itself configures by the user's own, or by none."""
        pattern = r"^filter\..*\.(clean|smudge|process|required)$"
        code, output = self._call(["config", "--null", "--show-scope", "--get-regexp", pattern])
        if code not in (0, 1):  # 1: no such setting
            raise _GitError("git config failed")
        fields = output.decode("utf-8", "surrogateescape").split("\0")
        entries = [
            (scope, *setting.partition("\n")[::2]) for scope, setting in zip(fields[::2], fields[1::2], strict=False)
        ]
        trusted = {name: value for scope, name, value in entries if scope in ("system", "global")}
        for name in sorted({name for scope, name, _ in entries if scope not in ("system", "global", "command")}):
            fallback = "false" if name.endswith(".required") else ""
            if "=" in name:  # `-c` cannot name it
                raise _GitError("a filter of the repository cannot be switched off")
            self._settings += ["-c", f"{name}={trusted.get(name, fallback)}"]

    def _call(self, arguments: Sequence[str]) -> tuple[int, bytes]:
        process = subprocess.Popen(  # noqa: S603  # git itself, hardened, with arguments of ours
            [self._executable, *_HARDENED, "-C", str(self._root), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(0.01, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise _GitError("git took too long") from error
        return process.returncode, output


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a git process and what it started; a child that keeps the pipe open must not keep us."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    if process.stdout is not None:
        process.stdout.close()


def _environment() -> dict[str, str]:
    # GIT_DIR and its like are set inside a git hook and would point to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    kept = {name: os.environ[name] for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM") if name in os.environ}
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return environment | kept | fixed


def _find_executable() -> str:
    """Return the git binary that GitPython chose; its import raises several things where there is none."""
    try:
        # Not `import git`: type checkers take that for this very module.
        return str(importlib.import_module("git").Git.GIT_PYTHON_GIT_EXECUTABLE or "git")
    except Exception as error:
        raise _GitError("GitPython found no git binary") from error
