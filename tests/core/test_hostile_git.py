"""Repositories that are not to be trusted: none of their code runs, none takes longer than the bound, none is an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from core.test_git import fresh_process, git, make_repository  # noqa: F401  # a fixture

from orcapod_dagster.core import git as git_module
from orcapod_dagster.core.git import git_state

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Return a program that leaves a mark when it runs, whatever it is called for."""
    program = tmp_path / "trap.sh"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'sprung'}\ncat\n")
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def unsprung(tmp_path: Path):
    """Hold that the trap was not sprung by reading, in every test."""
    yield
    assert not (tmp_path / "sprung").exists()


def configure(folder: Path, **settings: str) -> None:
    """Write settings into a repository's own configuration; `__` stands for a dot."""
    for name, value in settings.items():
        git(folder, "config", name.replace("__", "."), value)


def include_filter(repository: Path, trap: Path) -> None:
    (repository / ".git" / "more").write_text(f'[filter "evil"]\n\tclean = {trap}\n\tprocess = {trap}\n\trequired\n')
    config = repository / ".git" / "config"
    config.write_text(f'{config.read_text()}[includeIf "gitdir:{repository}/"]\n\tpath = more\n')
    (repository / ".gitattributes").write_text("*.py filter=evil\n")


def work_tree_filter(repository: Path, trap: Path) -> None:
    configure(repository, extensions__worktreeConfig="true")
    git(repository, "config", "--worktree", "filter.evil.clean", str(trap))
    (repository / ".gitattributes").write_text("*.py filter=evil\n")


def filter_of_git_lfs(repository: Path, trap: Path) -> None:
    configure(repository, lfs__extension__evil__clean=f"{trap} %f")
    (repository / ".gitattributes").write_text("*.py filter=lfs\n")


def drivers(repository: Path, trap: Path) -> None:
    (repository / ".gitattributes").write_text("*.py diff=evil merge=evil\n*.sh text working-tree-encoding=UTF-16\n")
    configure(repository, diff__evil__command=str(trap), diff__evil__textconv=str(trap), diff__external=str(trap))
    configure(repository, diff__evil__cachetextconv="true", merge__evil__driver=str(trap), diff__tool="evil")
    configure(repository, difftool__evil__cmd=str(trap), interactive__diffFilter=str(trap))


def hooks_elsewhere(repository: Path, trap: Path) -> None:
    names = ("post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout", "query-watchman")
    for name in names:
        for folder in (repository / "hooks", repository / ".git" / "hooks"):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(trap.read_text())
            (folder / name).chmod(0o755)
    configure(
        repository, core__hooksPath="hooks", core__fsmonitor="hooks/query-watchman", core__fsmonitorHookVersion="2"
    )
    configure(repository, hook__evil__command=str(trap), hook__evil__event="post-index-change")


def programs(repository: Path, trap: Path) -> None:
    names = "core.pager core.editor core.askPass core.sshCommand core.gitProxy core.alternateRefsCommand gpg.program pager.status"
    more = (
        "gpg.ssh.program credential.helper sequence.editor pager.diff uploadpack.packObjectsHook trailer.evil.command"
    )
    for name in f"{names} {more} alias.status alias.diff alias.config alias.rev-parse alias.ls-files".split():
        git(repository, "config", name, f"!{trap}" if name.startswith("alias") else str(trap))
    configure(repository, log__showSignature="true", help__autocorrect="immediate", status__submoduleSummary="true")


@pytest.mark.parametrize(
    "arm",
    [include_filter, work_tree_filter, filter_of_git_lfs, drivers, hooks_elsewhere, programs],
    ids=lambda arm: arm.__name__,
)
def test_nothing_that_a_repository_configures_runs(
    tmp_path: Path, trap: Path, arm: Callable[[Path, Path], None]
) -> None:
    """Filters behind includes, drivers, hooks and helper programs of a repository are not called."""
    file = make_repository(tmp_path / "r")
    arm(file.parent, trap)
    file.write_text("x = 2\n")
    os.utime(file, (1, 1))
    assert git_state(file).dirty


def test_a_users_git_lfs_is_not_led_to_programs_of_a_repository(tmp_path: Path, trap: Path, monkeypatch) -> None:
    """The user's own filters run, but not where the repository tells Git LFS which programs to call."""
    file = make_repository(tmp_path / "r")
    lfs = tmp_path / "lfs.sh"
    lfs.write_text(
        f'#!/bin/sh\ntouch {tmp_path / "lfs"}\n[ -z "$(git config lfs.extension.evil.clean)" ] || {trap}\ncat\n'
    )
    lfs.chmod(0o755)
    settings = tmp_path / "settings"
    settings.write_text(f'[filter "lfs"]\n\tclean = {lfs}\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    (file.parent / ".gitattributes").write_text("*.py filter=lfs\n")
    file.write_text("x = 2\n")
    assert len(git_state(file).diff_hash) == 64
    assert (tmp_path / "lfs").exists()
    git_module._states.clear()
    configure(file.parent, lfs__extension__evil__clean=str(trap))
    assert (git_state(file).dirty, git_state(file).diff_hash) == (True, "unknown")


def test_a_diff_does_not_enter_submodules(tmp_path: Path, trap: Path) -> None:
    """A submodule at another commit is a changed commit id, whatever the repository asks to be shown of it."""
    inner, outer = make_repository(tmp_path / "inner"), make_repository(tmp_path / "outer").parent
    git(outer, "submodule", "--quiet", "add", str(inner.parent), "sub")
    git(outer, "commit", "--quiet", "-m", "sub")
    (outer / "sub" / "code.py").write_text("x = 5\n")
    git(outer / "sub", "commit", "--quiet", "-a", "-m", "moved")
    plain = git_state(outer).diff_hash
    assert len(plain) == 64
    (outer / "sub" / ".gitattributes").write_text("*.py diff=evil\n")
    configure(outer / "sub", diff__external=str(trap), diff__evil__command=str(trap), diff__evil__textconv=str(trap))
    configure(outer / "sub", core__fsmonitor=str(trap))
    for shown in ("diff", "log"):
        configure(outer, diff__submodule=shown, diff__ignoreSubmodules="none", submodule__sub__ignore="none")
        git_module._states.clear()
        assert git_state(outer).diff_hash == plain, shown


def test_missing_objects_are_not_fetched(tmp_path: Path, trap: Path) -> None:
    """A partial clone, whose remote is a command line that its configuration allows, fetches nothing."""
    file = make_repository(tmp_path / "r")
    repository = file.parent
    git(repository, "repack", "-adq")
    blob = git(repository, "rev-parse", "HEAD:code.py")
    for pack in (repository / ".git" / "objects" / "pack").glob("pack-*.pack"):
        content = pack.read_bytes()
        for part in pack.parent.glob(f"{pack.stem}.*"):
            part.unlink()
        subprocess.run(["git", "-C", str(repository), "unpack-objects", "-q"], input=content, check=True)
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    configure(repository, core__repositoryFormatVersion="1", extensions__partialClone="evil")
    configure(repository, remote__evil__url=f"ext::{trap}", remote__evil__promisor="true")
    configure(repository, remote__evil__uploadpack=str(trap), protocol__ext__allow="always", protocol__allow="always")
    file.write_text("x = 2\n")
    state = git_state(file)
    assert (state.dirty, state.diff_hash) == (True, "unknown")


def test_variables_of_the_environment_do_not_lead_elsewhere(tmp_path: Path, trap: Path, monkeypatch) -> None:
    """What a caller's environment says of repositories, settings, programs and traces does not count."""
    file, other = make_repository(tmp_path / "r"), make_repository(tmp_path / "other")
    file.write_text("x = 2\n")
    plain = git_state(file)
    git_module._states.clear()
    git_module._roots.clear()
    places = {
        "GIT_DIR": str(other.parent / ".git"),
        "GIT_WORK_TREE": str(other.parent),
        "GIT_INDEX_FILE": str(tmp_path / "no index"),
        "GIT_OBJECT_DIRECTORY": str(tmp_path / "no objects"),
        "GIT_COMMON_DIR": str(other.parent / ".git"),
        "GIT_NAMESPACE": "other",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
    }
    programs = dict.fromkeys(
        ["GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "GIT_PAGER", "GIT_ASKPASS", "GIT_EDITOR"], str(trap)
    )
    settings = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": str(trap),
        "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor={trap}'",
        "GIT_EXEC_PATH": str(tmp_path),
        "GIT_TRACE": str(tmp_path / "sprung"),
        "GIT_DIFF_OPTS": "--unified=0",
    }
    for name, value in {**places, **programs, **settings}.items():
        monkeypatch.setenv(name, value)
    assert git_state(file) == plain


def test_a_git_file_that_points_elsewhere_is_followed_safely(tmp_path: Path, trap: Path) -> None:
    """A `.git` file leads to another repository, whose code does not run either; one that leads nowhere is none."""
    other = make_repository(tmp_path / "other")
    hooks_elsewhere(other.parent, trap)
    folder = tmp_path / "pointing"
    folder.mkdir()
    (folder / "code.py").write_text("x = 3\n")
    (folder / ".git").write_text(f"gitdir: {other.parent / '.git'}\n")
    assert git_state(folder).git_hash == f"{git(other.parent, 'rev-parse', 'HEAD')}-dirty"
    for number, text in enumerate([f"gitdir: {tmp_path / 'nowhere'}\n", "gitdir: .git\n", "nothing\n", ""]):
        broken = tmp_path / f"broken{number}"
        broken.mkdir()
        (broken / ".git").write_text(text)
        assert git_state(broken).git_hash == "unknown"


def test_a_work_tree_elsewhere_does_not_look_clean(tmp_path: Path) -> None:
    """Where the repository says that its files lie elsewhere, nothing is known of those that lie beside it."""
    file, elsewhere = make_repository(tmp_path / "r"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "code.py").write_text("x = 1\n")
    commit = git(file.parent, "rev-parse", "HEAD")
    configure(file.parent, core__worktree=str(elsewhere))
    state = git_state(file)
    assert (state.git_hash, state.diff_hash) == (f"{commit}-dirty", "unknown")


def test_a_repository_of_another_user_is_not_read_unless_the_user_says_so(tmp_path: Path, monkeypatch) -> None:
    """Git's own refusal stands, and so does the user's `safe.directory`."""
    file = make_repository(tmp_path / "r")
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    configure(file.parent, safe__directory="*")  # which is the repository's word, not the user's
    for path in (file.parent, file.parent / ".git", file.parent / ".git" / "config"):
        os.chown(path, 12345, 12345)
    assert git_state(file).git_hash == "unknown"
    settings = tmp_path / "settings"
    settings.write_text(f"[safe]\n\tdirectory = {file.parent}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    git_module._states.clear()
    assert len(git_state(file).commit) == 40


# ---------------------------------------------------------------------------- never longer than the bound


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("HEAD", "unknown"),
        ("config", "unknown"),
        ("index", "{commit}-dirty"),
        ("info/exclude", "{commit}-dirty"),
    ],
)
def test_a_pipe_in_place_of_a_file_of_git_ends_in_time(tmp_path: Path, monkeypatch, place: str, expected: str) -> None:
    """A file of git that never ends, as on a filesystem that hangs, costs the bound, and what is not known is not clean."""
    file = make_repository(tmp_path / "r")
    commit = git(file.parent, "rev-parse", "HEAD")
    path = file.parent / ".git" / place
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(git_module, "READ_SECONDS", 1.0)
    start = time.monotonic()
    state = git_state(file)
    assert time.monotonic() - start < 3
    assert state.git_hash == expected.format(commit=commit)
    git_state(file)
    assert time.monotonic() - start < 4


def test_a_git_that_hangs_on_the_path_is_ended_in_time(tmp_path: Path) -> None:
    """A program named git that never answers, found on the path of a fresh process, costs the bound, once."""
    file = make_repository(tmp_path / "r")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\necho $$ >> {tmp_path / 'called'}\nexec sleep 60\n")
    slow.chmod(0o755)
    script = (
        "import time; from orcapod_dagster.core import git; git.READ_SECONDS = 1.0; start = time.monotonic()\n"
        f"print(git.git_state({str(file)!r}).git_hash, git.git_state({str(file)!r}).git_hash)\n"
        "assert time.monotonic() - start < 4, time.monotonic() - start"
    )
    environment = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "unknown unknown"
    assert len((tmp_path / "called").read_text().split()) == 1


def test_an_untracked_tree_of_any_size_is_found(tmp_path: Path, monkeypatch) -> None:
    """An untracked tree is not listed, only found; and if it cannot be looked at, changes are known all the same."""
    file = make_repository(tmp_path / "r")
    for number in range(300):
        folder = file.parent / "data" / str(number)
        folder.mkdir(parents=True)
        for name in range(20):
            (folder / f"{name}.txt").touch()
    state = git_state(file)
    assert (state.dirty, state.untracked, state.diff_hash) == (False, True, "")
    git_module._states.clear()
    monkeypatch.setattr(git_module, "_UNTRACKED", ("no-such-command",))
    assert git_state(file) == state


def test_a_large_diff_is_hashed_as_it_comes(tmp_path: Path) -> None:
    """The diff of a large file is never in memory as a whole."""
    file = make_repository(tmp_path / "r")
    line = "x" * 99 + "\n"
    file.write_text(line * 500_000)
    script = (
        "import resource; from orcapod_dagster.core import git; git.READ_SECONDS = 60.0\n"
        f"before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; state = git.git_state({str(file)!r})\n"
        "print(len(state.diff_hash), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    length, grown = map(int, done.stdout.split())
    assert (length, grown < 20_000) == (64, True), done.stdout


# ---------------------------------------------------------------------------- once, and the same


def test_threads_that_ask_at_once_share_one_read(tmp_path: Path, monkeypatch) -> None:
    """A repository is read once in a process, however many threads ask for it, for different files of it, at one time."""
    file = make_repository(tmp_path / "r")
    folders = [file.parent / str(number) for number in range(8)]
    for folder in folders:
        folder.mkdir()
    reads, found, start = [], [], threading.Barrier(len(folders))
    read = git_module._read
    monkeypatch.setattr(git_module, "_read", lambda root: (reads.append(root), time.sleep(0.1), read(root))[2])

    def ask(folder: Path) -> None:
        start.wait()
        found.append(git_state(folder))

    threads = [threading.Thread(target=ask, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(reads), len(found), len(set(found))) == (1, 8, 1)


def test_a_child_forked_while_another_thread_reads_is_not_locked_out(tmp_path: Path) -> None:
    """A process that was forked in the middle of a read reads by itself."""
    file = make_repository(tmp_path / "r")
    script = (
        "import os, sys, threading, time, warnings; warnings.simplefilter('ignore')\n"
        "from orcapod_dagster.core import git\n"
        "read = git._read; git._read = lambda root: (time.sleep(1), read(root))[1]\n"
        f"thread = threading.Thread(target=git.git_state, args=({str(file)!r},)); thread.start(); time.sleep(0.3)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    git._read = read\n"
        f"    print(git.git_state({str(file)!r}).git_hash, flush=True); os._exit(0)\n"
        "thread.join(); os.waitpid(child, 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == git(file.parent, "rev-parse", "HEAD")


def test_the_diff_hash_is_the_same_under_all_settings_of_diffs(tmp_path: Path) -> None:
    """How a user or a repository likes diffs to look does not change the hash of a diff."""
    file = make_repository(tmp_path / "r")
    other = file.parent / "größe\tx.py"
    lines = [f"line{number} = {number}\n\n" for number in range(40)]
    for path in (file, other):
        path.write_text("".join(lines))
    git(file.parent, "add", ".")
    git(file.parent, "commit", "--quiet", "-m", "two")
    for path in (file, other):
        path.write_text("".join(lines).replace("line3 ", "other3 ").replace("line8 ", "other8 "))
    plain = git_state(file).diff_hash
    (file.parent / ".git" / "order").write_text("größe*\n")
    for name, value in [
        ("diff.orderFile", ".git/order"),
        ("diff.interHunkContext", "10"),
        ("diff.suppressBlankEmpty", "true"),
        ("diff.relative", "true"),
        ("diff.context", "0"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.algorithm", "patience"),
        ("core.quotePath", "false"),
        ("core.abbrev", "7"),
        ("color.ui", "always"),
        ("diff.colorMoved", "zebra"),
        ("diff.wsErrorHighlight", "all"),
        ("diff.renames", "copies"),
    ]:
        git(file.parent, "config", name, value)
        git_module._states.clear()
        assert git_state(file).diff_hash == plain, name
