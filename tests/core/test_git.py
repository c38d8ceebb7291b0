"""The state of the repository that holds the code: read once, read safely, never an error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orcapod_dagster.core import git as git_module
from orcapod_dagster.core.git import GitState, git_state

IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, "-c", "protocol.file.allow=always", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(folder: Path) -> Path:
    """Return a committed file `code.py` in a new repository."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    file = folder / "code.py"
    file.write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return file


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start every test as a new process would, outside any repository and without the user's settings."""
    monkeypatch.setattr(git_module, "_roots", {})
    monkeypatch.setattr(git_module, "_states", {})
    for name in ("ORCAPOD_GIT", "ORCAPOD_GIT_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)


def test_a_clean_repository_gives_its_commit(tmp_path):
    """The commit stands alone when nothing is changed."""
    file = make_repository(tmp_path / "r")
    commit = git(file.parent, "rev-parse", "HEAD")
    assert git_state(file) == GitState(commit, False, False, "", "file")
    assert git_state(str(file)).git_hash == commit


@pytest.mark.parametrize("staged", [False, True])
def test_changes_to_tracked_files_are_dirty(tmp_path, staged):
    """A change counts whether it is staged or not, and its diff has a hash."""
    file = make_repository(tmp_path / "r")
    file.write_text("x = 2\n")
    if staged:
        git(file.parent, "add", ".")
    state = git_state(file)
    assert state.git_hash == f"{state.commit}-dirty"
    assert len(state.diff_hash) == 64


def test_untracked_and_ignored_files_differ(tmp_path):
    """Only untracked files that are not ignored count."""
    file = make_repository(tmp_path / "r")
    (file.parent / ".git" / "info" / "exclude").write_text("*.log\n")
    (file.parent / "a.log").write_text("")
    assert not git_state(file).untracked
    git_module._states.clear()
    (file.parent / "new name\n.py").write_text("")
    assert git_state(file).git_hash.endswith("-untracked")


def test_words_stand_in_a_fixed_order(tmp_path, monkeypatch):
    """All three words may follow the commit, and `as_info` gives them separately."""
    file = make_repository(tmp_path / "r")
    git(file.parent, "mv", "code.py", "? moved.py")
    (file.parent / "new.py").write_text("")
    monkeypatch.chdir(file.parent)
    state = git_state(None)
    assert state.git_hash == f"{state.commit}-dirty-untracked-cwd"
    assert state.as_info() == {
        "git_commit": state.commit,
        "git_dirty": "true",
        "git_untracked": "true",
        "git_diff_hash": state.diff_hash,
        "git_source": "cwd",
    }


def test_a_rename_alone_is_not_untracked(tmp_path):
    """The old path of a rename is not read as an entry of its own."""
    file = make_repository(tmp_path / "r")
    git(file.parent, "mv", "code.py", "moved.py")
    state = git_state(file.parent)
    assert (state.dirty, state.untracked) == (True, False)


def test_the_diff_hash_depends_on_the_change_alone(tmp_path):
    """The user's diff settings do not change the hash, another change does."""
    file = make_repository(tmp_path / "r")
    found = []
    for text, setting in (("x = 2\n", "false"), ("x = 2\n", "true"), ("x = 3\n", "true")):
        file.write_text(text)
        git(file.parent, "config", "diff.noprefix", setting)
        git_module._states.clear()
        found.append(git_state(file).diff_hash)
    assert found[0] == found[1] != found[2]


def test_a_file_outside_takes_the_current_directory(tmp_path, monkeypatch):
    """Code outside any repository is marked as read from the current directory."""
    file = make_repository(tmp_path / "r")
    monkeypatch.chdir(file.parent)
    outside = tmp_path / "outside" / "f.py"
    outside.write_text("")
    state = git_state(outside)
    assert (state.source, state.git_hash) == ("cwd", f"{state.commit}-cwd")


def test_installed_files_lie_in_no_repository(tmp_path):
    """A virtual environment inside a repository does not make other people's code the repository's."""
    file = make_repository(tmp_path / "r")
    installed = file.parent / ".venv" / "lib" / "site-packages" / "m.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert git_state(installed).git_hash == "unknown"


def test_a_deployment_without_repository_says_its_commit(tmp_path, monkeypatch):
    """The environment variable counts where there is no repository, and only there."""
    assert git_state(None) == GitState("", False, False, "", "none")
    monkeypatch.setenv("ORCAPOD_GIT_COMMIT", " v1.2-image ")
    assert (git_state(None).git_hash, git_state(None).source) == ("v1.2-image", "environment")
    file = make_repository(tmp_path / "r")
    assert git_state(file).source == "file"


def test_it_can_be_switched_off(tmp_path, monkeypatch):
    """Switched off, no repository is read, but the variable still counts."""
    file = make_repository(tmp_path / "r")
    monkeypatch.setenv("ORCAPOD_GIT", "Off")
    monkeypatch.setattr(git_module, "_read", lambda root: pytest.fail("read"))
    assert (git_state(file).git_hash, git_state(file).source) == ("unknown", "off")
    monkeypatch.setenv("ORCAPOD_GIT_COMMIT", "abc")
    assert git_state(file).git_hash == "abc"


def test_an_unborn_head_has_no_commit(tmp_path):
    """A repository without a commit is as good as none."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "f.py").write_text("")
    assert git_state(tmp_path / "f.py").git_hash == "unknown"


def test_a_detached_head_has_a_commit(tmp_path):
    """A checkout by commit, as CI makes it, is read like a branch."""
    file = make_repository(tmp_path / "r")
    git(file.parent, "checkout", "--quiet", "--detach")
    assert git_state(file).git_hash == git(file.parent, "rev-parse", "HEAD")


def test_a_bare_repository_is_never_dirty(tmp_path):
    """A bare repository has a commit and no work tree."""
    file = make_repository(tmp_path / "r")
    git(tmp_path, "clone", "--quiet", "--bare", str(file.parent), "bare")
    assert git_state(tmp_path / "bare").git_hash == git(file.parent, "rev-parse", "HEAD")


def test_a_linked_work_tree_is_read_by_itself(tmp_path):
    """A work tree has its own commit and its own changes."""
    file = make_repository(tmp_path / "r")
    git(file.parent, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    (tmp_path / "tree" / "code.py").write_text("x = 9\n")
    assert git_state(tmp_path / "tree" / "code.py").dirty
    assert not git_state(file).dirty


def test_a_submodule_is_read_by_itself(tmp_path):
    """Code in a submodule has the submodule's commit; the outer repository sees only a moved commit as a change."""
    inner = make_repository(tmp_path / "inner")
    outer = make_repository(tmp_path / "outer").parent
    git(outer, "submodule", "--quiet", "add", str(inner.parent), "sub")
    git(outer, "commit", "--quiet", "-m", "sub")
    assert git_state(outer / "sub" / "code.py").git_hash == git(inner.parent, "rev-parse", "HEAD")
    (outer / "sub" / "code.py").write_text("x = 5\n")
    assert git_state(outer / "code.py").git_hash == git(outer, "rev-parse", "HEAD")


def test_a_missing_git_binary_is_no_error(tmp_path, monkeypatch):
    """Without git the commit is unknown."""
    file = make_repository(tmp_path / "r")
    monkeypatch.setattr(git_module, "_find_executable", lambda: str(tmp_path / "nowhere" / "git"))
    assert git_state(file).git_hash == "unknown"


def test_gitpython_without_git_is_no_error(tmp_path):
    """GitPython, whose import fails without a git binary, does not fail ours."""
    file = make_repository(tmp_path / "r")
    script = f"from orcapod_dagster.core.git import git_state; print(git_state({str(file)!r}).git_hash)"
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unknown"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_unsafe_ownership_is_not_read(tmp_path):
    """A repository of another user, which git refuses, is as good as none."""
    file = make_repository(tmp_path / "r")
    for path in (file.parent, file.parent / ".git"):
        os.chown(path, 12345, 12345)
    assert git_state(file).git_hash == "unknown"


@pytest.mark.parametrize("path", ["/no/such/file.py", "<string>", "a\0b", ""])
def test_strange_paths_are_no_error(path):
    """A path that names nothing readable falls through to the current directory."""
    assert git_state(path).git_hash == "unknown"


def test_a_broken_repository_is_no_error(tmp_path):
    """A damaged repository is as good as none."""
    file = make_repository(tmp_path / "r")
    (file.parent / ".git" / "HEAD").write_text("garbage")
    assert git_state(file).git_hash == "unknown"


def test_a_deleted_current_directory_is_no_error(tmp_path, monkeypatch):
    """A process whose directory is gone still gets an answer."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert git_state(None).source == "none"


def test_a_repository_is_read_once(tmp_path, monkeypatch):
    """Many files of one repository cost one read, and later changes do not show in this process."""
    file = make_repository(tmp_path / "r")
    reads = []
    read = git_module._read
    monkeypatch.setattr(git_module, "_read", lambda root: reads.append(root) or read(root))
    (file.parent / "sub").mkdir()
    states = {git_state(file), git_state(file.parent / "sub"), git_state(file.parent)}
    file.write_text("x = 2\n")
    assert (len(states | {git_state(file)}), len(reads)) == (1, 1)


def test_git_variables_of_a_hook_do_not_mislead(tmp_path, monkeypatch):
    """Inside a git hook, which sets GIT_DIR, the file's own repository is read."""
    file, other = make_repository(tmp_path / "r"), make_repository(tmp_path / "other")
    git(other.parent, "commit", "--quiet", "--allow-empty", "-m", "second")
    commit = git(file.parent, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other.parent / ".git"))
    assert git_state(file).commit == commit


def test_no_code_of_a_hostile_repository_runs(tmp_path):
    """Hooks, fsmonitor, external diff, text conversion and filters of the repository stay asleep."""
    file = make_repository(tmp_path / "r")
    trap, mark = tmp_path / "trap.sh", tmp_path / "sprung"
    trap.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    trap.chmod(0o755)
    for name in ("post-index-change", "fsmonitor-watchman"):
        (file.parent / ".git" / "hooks" / name).write_text(trap.read_text())
        (file.parent / ".git" / "hooks" / name).chmod(0o755)
    (file.parent / ".git" / "info" / "attributes").write_text("*.py filter=evil diff=evil\n")
    names = "core.fsmonitor diff.external diff.evil.command diff.evil.textconv filter.evil.clean filter.evil.process"
    for name in (*names.split(), "core.pager", "alias.status", "gpg.program", "core.sshCommand"):
        git(file.parent, "config", name, str(trap))
    git(file.parent, "config", "filter.evil.required", "true")
    file.write_text("x = 2\n")
    state = git_state(file)
    assert state.dirty
    assert len(state.diff_hash) == 64
    assert not mark.exists()


@pytest.mark.parametrize("name", ["filter.a=b.clean", "filter.a\nb.clean"])
def test_a_filter_with_an_unspeakable_name_does_not_run(tmp_path, name):
    """A filter that the command line cannot switch off leaves the state unread, and so not clean."""
    file = make_repository(tmp_path / "r")
    mark = tmp_path / "sprung"
    section = name.removeprefix("filter.").removesuffix(".clean").replace("\n", "\\n")
    config = file.parent / ".git" / "config"
    config.write_text(f'{config.read_text()}[filter "{section}"]\n\tclean = touch {mark}; cat\n')
    (file.parent / ".git" / "info" / "attributes").write_text("*.py filter=a=b\n")
    file.write_text("x = 2\n")
    assert git_state(file).dirty
    assert not mark.exists()


def test_a_slow_git_is_ended_in_time(tmp_path, monkeypatch):
    """A git that hangs, with a child that keeps the pipe open, costs no more than the bound."""
    file = make_repository(tmp_path / "r")
    slow = tmp_path / "slow.sh"
    slow.write_text("#!/bin/sh\nsleep 30 &\nwait\n")
    slow.chmod(0o755)
    monkeypatch.setattr(git_module, "_find_executable", lambda: str(slow))
    monkeypatch.setattr(git_module, "READ_SECONDS", 0.3)
    start = time.monotonic()
    assert git_state(file).git_hash == "unknown"
    assert time.monotonic() - start < 3


def test_a_status_that_is_not_read_is_not_clean(tmp_path, monkeypatch):
    """Where the commit is read but the status is not, the state is dirty with an unknown diff."""
    file = make_repository(tmp_path / "r")
    monkeypatch.setattr(git_module._Git, "disarm_filters", lambda self: self.run("no-such-command"))
    state = git_state(file)
    assert (state.dirty, state.diff_hash) == (True, "unknown")


def test_importing_reads_nothing(tmp_path):
    """Neither GitPython nor a subprocess is touched by the import."""
    script = "import sys, orcapod_dagster.core.git; print('git' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
