"""Accepted edits, former names and types that grew, on a real Dagster instance and real Delta tables."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from orcapod_dagster import accept, accepted, packet_asset, packet_resources, withdraw
from orcapod_dagster.accepting import propose
from orcapod_dagster.cli import main
from orcapod_dagster.core import git
from orcapod_dagster.core.errors import AcceptanceError, DefinitionError
from orcapod_dagster.core.pod import FunctionPod

WORK = "LIMIT = 3\n\n\ndef scale(x):\n    return x * LIMIT\n\n\ndef work(x: int) -> int:\n    return scale(x) + 1\n"
HELPER = WORK.replace("x * LIMIT", "LIMIT * x")
BODY = HELPER.replace("scale(x) + 1", "1 + scale(x)")


class Project:
    """A lake, an instance, and a module that is edited from run to run."""

    def __init__(self, root: Path) -> None:
        self.root = root / "lake"
        self.folder = root / "code"
        self.folder.mkdir()
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = packet_resources(root_uri=str(self.root), as_default=True)
        self.rows = 3

        @dg.asset
        def numbers() -> Any:
            return pa.table({"id": range(self.rows), "x": range(self.rows)})

        self.numbers = numbers
        self._files = 0

    def asset(self, text: str, name: str = "work", **options: Any) -> dg.AssetsDefinition:
        """Return the packet asset of a module with this text, as a process has it that loads it now."""
        self._files += 1
        file = self.folder / str(self._files) / "steps.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        space: dict[str, Any] = {"__name__": "steps", "__file__": str(file)}
        exec(compile(text, str(file), "exec"), space)
        settings: dict[str, Any] = {"inputs": "numbers", "tag_columns": ["id"], "output_keys": "y", **options}
        return packet_asset(space[name], **settings)

    def run(self, *assets: dg.AssetsDefinition, config: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Materialize, and return the metadata of each asset by name."""
        run_config = {"ops": {asset.op.name: {"config": config} for asset in assets}} if config else {}
        result = dg.materialize(
            [self.numbers, *assets], instance=self.instance, resources=self.resources, run_config=run_config
        )
        shown: dict[str, dict[str, Any]] = {}
        for asset in assets:
            (event,) = result.asset_materializations_for_node(asset.op.name)
            shown[asset.op.name] = {key: value.value for key, value in event.metadata.items()}
        return shown

    def computed(self, asset: dg.AssetsDefinition) -> int:
        """Materialize one asset and return how many packets were computed."""
        return self.run(asset)[asset.op.name]["orcapod/packets_computed"]

    def table(self, name: str = "work") -> DeltaTable:
        return DeltaTable(str(self.root / name))

    @property
    def lake(self) -> dict[str, Any]:
        return {"root_uri": str(self.root)}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path)
    yield one
    one.instance.dispose()


def test_an_accepted_edit_recomputes_nothing_until_it_is_withdrawn(project: Project) -> None:
    """Accepted: nothing runs and the table stays; withdrawn: everything runs and the table is assembled anew."""
    assert project.computed(project.asset(WORK)) == 3
    version = project.table().version()
    edited = project.asset(HELPER)
    found = propose(edited, **project.lake)
    assert found.count() == 3
    assert "-    return x * LIMIT" in found.describe()
    assert accepted(**project.lake) == []
    (made,) = accept(edited, reason="  the product commutes ", who="ann", **project.lake)
    assert (made.reason, made.who, list(made.changes)) == ("the product commutes", "ann", ["helper steps.scale"])
    assert "+    return LIMIT * x" in made.difference

    shown = project.run(edited)["work"]
    assert shown["orcapod/packets_computed"] == 0
    assert shown["orcapod/packets_cached"] == 3
    assert shown["orcapod/unchanged"] is True
    assert project.table().version() == version
    project.rows = 4
    shown = project.run(edited)["work"]
    assert (shown["orcapod/packets_computed"], shown["orcapod/packets_of_accepted_code"]) == (1, 3)

    withdraw(made.acceptance_id, reason="it does not", who="bob", **project.lake)
    assert project.computed(edited) == 3
    contents = project.table().to_pyarrow_table()["__pf_var_function_content_hash"].unique().to_pylist()
    assert contents == [edited.packet_asset_spec.function.get_function_content_hash()]  # type: ignore[attr-defined]
    (listed,) = accepted(**project.lake)
    assert "bob" in str(listed.withdrawn)
    assert "it does not" in str(listed.withdrawn)


def test_a_table_of_accepted_results_is_assembled_anew_after_the_withdrawal(project: Project) -> None:
    """Without the withdrawal the same run finds nothing to do; with it, the table holds results of the code as it is."""
    before, after = project.asset(WORK), project.asset(HELPER)
    project.run(before)
    (made,) = accept(after, reason="same", **project.lake)
    project.rows = 4
    project.run(after)
    version = project.table().version()
    assert project.computed(after) == 0
    assert project.table().version() == version
    withdraw(made.acceptance_id, reason="no", **project.lake)
    assert project.computed(after) == 3
    assert project.table().version() > version
    assert project.computed(after) == 0


def test_an_accepted_helper_serves_all_assets_that_use_it(project: Project) -> None:
    """One acceptance of a shared helper, made by one asset, counts for another whose code differs by nothing else."""
    other = "\n\ndef more(x: int) -> int:\n    return scale(x) - 1\n"
    project.run(project.asset(WORK + other), project.asset(WORK + other, "more"))
    edited, more = project.asset(HELPER + other), project.asset(HELPER + other, "more")
    accept(edited, parts="helper steps.scale", reason="the product commutes", **project.lake)
    shown = project.run(edited, more)
    assert [shown[name]["orcapod/packets_computed"] for name in ("work", "more")] == [0, 0]
    both = project.asset(BODY + other)
    assert project.computed(both) == 3


def test_acceptances_chain_over_runs(project: Project) -> None:
    """An edit of an accepted edit, accepted too, finds the results of the first version."""
    project.run(project.asset(WORK))
    second = project.asset(HELPER)
    accept(second, reason="one", **project.lake)
    project.run(second)
    third = project.asset(BODY)
    accept(third, reason="two", **project.lake)
    assert project.computed(third) == 0
    assert project.computed(project.asset(WORK)) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"reason": ""}, "needs a reason"),
        ({"reason": " \n"}, "needs a reason"),
        ({"reason": "x", "from_code": "python.content.v2:" + "0" * 64}, "names no stored version"),
        ({"reason": "x", "from_code": "abc"}, "names no stored version"),
        ({"reason": "x", "parts": "helper steps.nothing"}, "no earlier version is stored in which"),
        ({"reason": "x", "commits": "HEAD~1..HEAD"}, "no range of commits"),
        ({"reason": "x", "commits": "abcdef.."}, "No repository here knows"),
        ({"reason": "x", "commits": "abcdef..", "parts": "body"}, "not both"),
    ],
)
def test_what_cannot_be_accepted_is_refused(project: Project, arguments: dict[str, Any], says: str) -> None:
    """Without a reason, or of a version, part or commit that is not known, nothing is stored, and the message says what is."""
    project.run(project.asset(WORK))
    with pytest.raises(AcceptanceError, match=says):
        accept(project.asset(HELPER), **arguments, **project.lake)
    assert accepted(**project.lake) == []


def test_nothing_to_accept_is_said(project: Project) -> None:
    """A first version, and one that counts already, have nothing earlier to accept; nor has an ordinary asset."""
    asset = project.asset(WORK)
    with pytest.raises(AcceptanceError, match="None is stored"):
        accept(asset, reason="x", **project.lake)
    project.run(asset)
    edited = project.asset(HELPER)
    accept(edited, reason="x", **project.lake)
    with pytest.raises(AcceptanceError, match="no earlier version is stored that does not count yet"):
        accept(edited, reason="x", **project.lake)
    with pytest.raises(DefinitionError, match="no packet asset"):
        accept(project.numbers, reason="x", **project.lake)
    with pytest.raises(DefinitionError, match="lake is not known"):
        accepted()


def test_another_parameter_is_no_edit_to_accept(project: Project) -> None:
    """A parameter more makes other packets, so accepting it could bring back nothing, which is said."""
    project.run(project.asset(WORK))
    edited = project.asset(WORK.replace("x: int)", "x: int, by: int = 0)"))
    with pytest.raises(AcceptanceError, match="no stored result could count"):
        accept(edited, reason="x", **project.lake)


FACTORY = """
def make(n):
    def scaled(x: int) -> int:
        return x * n
    return scaled


one, two = make(1), make(2)
"""


def test_the_default_is_what_made_the_rows_of_the_asset(project: Project) -> None:
    """Of two assets whose functions have one name, each is accepted from its own version, though the other's is newer."""
    one, two = project.asset(FACTORY, "one", key="one"), project.asset(FACTORY, "two", key="two")
    project.run(one)
    project.run(two)
    text = FACTORY.replace("x * n", "n * x")
    edited = project.asset(text, "one", key="one")
    (made,) = accept(edited, reason="the product commutes", resources=project.resources)
    assert made.from_content_hash == one.packet_asset_spec.function.get_function_content_hash()  # type: ignore[attr-defined]
    shown = project.run(edited)["one"]
    assert (shown["orcapod/packets_computed"], shown["orcapod/packets_cached"]) == (0, 3)
    assert project.table("one").to_pyarrow_table()["y"].to_pylist() == [0, 1, 2]
    with pytest.raises(AcceptanceError, match=r"does not count yet and made rows of the asset's table; name another"):
        accept(edited, reason="x", **project.lake)
    (made,) = accept(project.asset(text, "two", key="two"), reason="the product commutes", **project.lake)
    assert made.from_content_hash == two.packet_asset_spec.function.get_function_content_hash()  # type: ignore[attr-defined]


def test_without_a_table_the_earlier_version_is_named(project: Project) -> None:
    """An asset that was never materialized does not take another's version; the message lists what there is to name."""
    one = project.asset(FACTORY, "one", key="one")
    project.run(one)
    stored = one.packet_asset_spec.function.get_function_content_hash()  # type: ignore[attr-defined]
    two = project.asset(FACTORY, "two", key="two")
    with pytest.raises(AcceptanceError, match=rf"no table with rows yet.*--from.*{stored}"):
        accept(two, reason="as told", **project.lake)
    assert accepted(**project.lake) == []
    assert project.computed(two) == 3
    (made,) = accept(two, from_code=stored, reason="on purpose", **project.lake)
    assert made.from_content_hash == stored


def test_the_newest_rows_of_a_table_tell_the_default(project: Project) -> None:
    """Of several versions in one table, that of the newest rows comes first, then the one before."""
    first, second = project.asset(WORK), project.asset(HELPER)
    project.run(first)
    accept(second, reason="one", **project.lake)
    project.rows = 4
    project.run(second)
    (undo,) = accepted(**project.lake)
    withdraw(undo.acceptance_id, reason="for the test", **project.lake)
    third = project.asset(BODY)
    found = [accept(third, reason="two", **project.lake)[0].from_content_hash for _ in range(2)]
    assert found == [
        asset.packet_asset_spec.function.get_function_content_hash()  # type: ignore[attr-defined]
        for asset in (second, first)
    ]
    assert project.computed(third) == 0


def test_a_version_of_another_function_is_refused(project: Project) -> None:
    """Code of another function is no earlier version, for by such a bridge two versions of either would count as one."""
    other = WORK.replace("work", "other")
    project.run(project.asset(other, "other"))
    edited = project.asset(WORK)
    stored = project.asset(other, "other").packet_asset_spec.function.get_function_content_hash()  # type: ignore[attr-defined]
    with pytest.raises(AcceptanceError, match=r"is code of 'other'.*formerly"):
        accept(edited, from_code=stored, reason="they are alike", **project.lake)
    renamed = project.asset(HELPER, formerly="other")
    (made,) = accept(renamed, from_code=stored[:30], reason="renamed, and tidied", **project.lake)
    assert made.from_content_hash == stored
    assert project.computed(renamed) == 0


# ---------------------------------------------------------------------------- commits


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}  # fmt: skip
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def _commit(project: Project, text: str) -> tuple[str, dg.AssetsDefinition]:
    """Commit a module, and return the commit and its asset; each in a file of its own, for a process reads a module once."""
    asset = project.asset(text)
    _git(project.folder, "add", ".")
    _git(project.folder, "commit", "-qm", "edit")
    git._states.clear()  # which are read once per process
    return _git(project.folder, "rev-parse", "HEAD"), asset


@pytest.mark.parametrize("with_repository", [True, False])
def test_a_range_of_commits_is_accepted(
    project: Project, with_repository: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All versions from a commit on count as the code now; those before it do not. Also where the repository is not there."""
    _git(project.folder, "init", "-q")
    _, oldest = _commit(project, WORK.replace("+ 1", "+ 7"))
    project.run(oldest)
    first, asset = _commit(project, WORK)
    project.run(asset)
    _, asset = _commit(project, HELPER)
    project.rows = 4
    project.run(asset, config={"force": True})
    last, now = _commit(project, BODY)
    if not with_repository:
        monkeypatch.setattr("orcapod_dagster.core.git._find_root", lambda directory: None)
    found = propose(now, commits=f"{first[:10]}..", **project.lake)
    assert len(found.pairs) == 2
    assert found.count() == 4
    accept(now, commits=f"{first[:10]}..{last}" if with_repository else f"{first}..", reason="tidied", **project.lake)
    assert project.computed(now) == 0
    assert {one.scope for one in accepted(**project.lake)} == {"commits"}
    assert project.computed(project.asset(WORK.replace("+ 1", "+ 7"))) == 1


def test_a_version_in_force_at_the_first_commit_is_found(project: Project) -> None:
    """The code at the first commit may have been stored at one before it; a later edit outside of the range stays one."""
    _git(project.folder, "init", "-q")
    _, asset = _commit(project, WORK)
    project.run(asset)
    (project.folder / "note.txt").write_text("x")
    _git(project.folder, "add", ".")
    _git(project.folder, "commit", "-qm", "nothing of the code")
    first = _git(project.folder, "rev-parse", "HEAD")
    last, asset = _commit(project, HELPER)
    project.run(asset)
    _, now = _commit(project, BODY.replace("1 +", "2 +"))
    (made,) = accept(now, commits=f"{first}..{last}", reason="tidied", **project.lake)
    assert made.to_git_hash == last
    assert project.computed(now) == 3
    assert project.computed(project.asset(HELPER)) == 0


# ---------------------------------------------------------------------------- names and types


def test_a_renamed_asset_finds_its_results(project: Project) -> None:
    """With `formerly`, a renamed function computes nothing, and its table has the old records with their ids and times."""
    project.run(project.asset(WORK))
    renamed = project.asset(WORK.replace("work", "better"), "better", formerly="work")
    assert project.computed(renamed) == 0
    assert project.computed(renamed) == 0
    columns = ["id", "y", "__record_id", "__pod_ts", "__pf_var_function_name"]
    old = project.table("work").to_pyarrow_table(columns=columns).sort_by("id")
    assert project.table("better").to_pyarrow_table(columns=columns).sort_by("id").equals(old)
    project.rows = 5
    assert project.computed(renamed) == 2
    assert project.computed(renamed) == 0
    assert project.table("better").to_pyarrow_table().num_rows == 5


def test_a_table_of_results_of_a_former_name_is_quickly_found_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is written under the new name, a run with nothing new makes no plan, as for any other asset."""
    project.run(project.asset(WORK))
    renamed = project.asset(WORK.replace("work", "better"), "better", formerly="work")
    project.rows = 4
    assert project.computed(renamed) == 1
    monkeypatch.setattr(FunctionPod, "plan", lambda *_, **__: pytest.fail("it was planned"))
    assert project.computed(renamed) == 0


@pytest.mark.parametrize("match", ["version", "signature"])
def test_formerly_is_refused_at_the_definition_where_the_code_is_not_asked_for(project: Project, match: str) -> None:
    """An asset of a policy that does not ask for the code cannot be defined with a former name."""
    text = WORK.replace("work", "better")
    with pytest.raises(DefinitionError, match=r"'better': formerly=\['work'\] does not go with match="):
        project.asset(text, "better", formerly="work", match=match)


def test_without_formerly_a_renamed_asset_is_a_new_one(project: Project) -> None:
    """The name is the identity, unless one says what it was."""
    project.run(project.asset(WORK))
    assert project.computed(project.asset(WORK.replace("work", "better"), "better")) == 3


def test_a_renamed_asset_with_an_accepted_edit_finds_its_results(project: Project) -> None:
    """A rename and an edit at once: the edit is accepted under the new name, and the old results count."""
    project.run(project.asset(WORK))
    edited = project.asset(HELPER.replace("work", "better"), "better", formerly="work")
    found = propose(edited, **project.lake)
    assert found.count() == 3
    accept(edited, reason="same", **project.lake)
    assert project.computed(edited) == 0


@pytest.mark.parametrize("new", ["float", "int | None", "float | None"])
def test_a_wider_output_is_cast(project: Project, new: str) -> None:
    """Results of a narrower type fill the table in the wider one, once its change is allowed, and new ones join them."""
    project.run(project.asset(WORK))
    ids = project.table().to_pyarrow_table()["__record_id"].to_pylist()
    wider = project.asset(WORK.replace("-> int", f"-> {new}"), metadata={"orcapod/schema_evolution": "overwrite"})
    assert project.computed(wider) == 0
    project.rows = 4
    assert project.computed(wider) == 1
    table = project.table().to_pyarrow_table()
    assert table["y"].type == (pa.float64() if "float" in new else pa.int64())
    assert table["y"].to_pylist() == [1, 4, 7, 10]
    assert table["__record_id"].to_pylist()[:3] == ids
    assert project.computed(wider) == 0


def test_a_table_takes_a_wider_type_although_its_values_are_the_same(project: Project) -> None:
    """Where its change is allowed, equal values are written once in the wider type, of stored results; then the table stands."""
    project.run(project.asset(WORK))
    version = project.table().version()
    wider = WORK.replace("-> int", "-> int | None")
    assert project.computed(project.asset(wider)) == 0
    assert project.table().version() == version
    shown = project.run(project.asset(wider, metadata={"orcapod/schema_evolution": "overwrite"}))["work"]
    assert (shown["orcapod/packets_computed"], shown["orcapod/unchanged"]) == (0, False)
    assert project.table().version() == version + 1
    assert pa.schema(project.table().schema().to_arrow()).field("y").nullable
    shown = project.run(project.asset(wider, metadata={"orcapod/schema_evolution": "overwrite"}))["work"]
    assert (shown["orcapod/unchanged"], project.table().version()) == (True, version + 1)


def test_a_table_with_partitions_takes_a_wider_type_when_it_is_made_anew(project: Project) -> None:
    """A partition cannot be written in another type than the rest; without the table, stored results fill it in the wider one."""
    sites = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(name="numbers", partitions_def=sites, metadata={"partition_expr": "site"})
    def by_site(context) -> Any:
        return pa.table({"id": [ord(context.partition_key)], "site": [context.partition_key], "x": [1]})

    project.numbers = by_site
    options = {"partitions_def": sites, "tag_columns": ["id", "site"]}
    metadata = {"orcapod/schema_evolution": "overwrite"}

    def run(asset: dg.AssetsDefinition) -> list[int]:
        found: list[int] = []
        for key in sites.get_partition_keys():
            done = dg.materialize(
                [by_site, asset], instance=project.instance, resources=project.resources, partition_key=key
            )
            (event,) = done.asset_materializations_for_node("work")
            found.append(event.metadata["orcapod/packets_computed"].value)
        return found

    assert run(project.asset(WORK, **options)) == [1, 0]  # both rows hold the same packet
    wider = project.asset(WORK.replace("-> int", "-> float"), metadata=metadata, **options)
    with pytest.raises(Exception, match="column 'y' is double, was int64"):
        run(wider)
    shutil.rmtree(project.root / "work")
    assert run(wider) == [0, 0]
    assert project.table().to_pyarrow_table()["y"].to_pylist() == [4.0, 4.0]


def test_a_wider_output_in_another_order_of_events(project: Project) -> None:
    """The way back to the narrower type computes what was made in the wider one, and nothing else."""
    project.run(project.asset(WORK))
    project.rows = 4
    project.run(project.asset(WORK.replace("-> int", "-> float"), metadata={"orcapod/schema_evolution": "overwrite"}))
    assert project.computed(project.asset(WORK, metadata={"orcapod/schema_evolution": "overwrite"})) == 1


def test_a_lossy_change_is_computed_anew(project: Project) -> None:
    """From float to int nothing is cast, whether or not the values would fit."""
    metadata = {"orcapod/schema_evolution": "overwrite"}
    project.run(project.asset(WORK.replace("-> int", "-> float"), metadata=metadata))
    assert project.computed(project.asset(WORK, metadata=metadata)) == 3


def test_what_others_accepted_leaves_an_asset_alone(project: Project) -> None:
    """What others accepted is read in one look, and changes neither what counts nor what the table says of itself."""
    asset = project.asset(WORK)
    project.run(asset)
    identity = "orcapod.identity"
    said = project.table().history(1)[0][identity]
    other = project.asset(WORK.replace("work", "other"), "other")
    project.run(other)
    edited = project.asset(HELPER.replace("work", "other"), "other")
    accept(edited, reason="same", **project.lake)
    shown = project.run(asset)["work"]
    assert shown["orcapod/unchanged"] is True
    assert project.table().history(1)[0][identity] == said


# ---------------------------------------------------------------------------- the command line


DEFINITIONS = """import dagster as dg
import pyarrow as pa
from orcapod_dagster import packet_asset, packet_resources

@dg.asset
def numbers():
    return pa.table({"id": [0, 1, 2], "x": [0, 1, 2]})

@packet_asset(inputs="numbers", tag_columns=["id"], output_keys="y")
def work(x: int) -> int:
    return BODY

defs = dg.Definitions(assets=[numbers, work], resources=packet_resources("LAKE", as_default=True))
"""


def test_the_command_line_accepts_lists_and_withdraws(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A try shows the difference and the number of results; without a reason nothing is accepted; ids lead back."""
    text = DEFINITIONS.replace("LAKE", str(project.root))
    for name, body in (("before", "x * 2"), ("after", "x + x")):
        (tmp_path / f"accept_{name}.py").write_text(text.replace("BODY", body))
    space: dict[str, Any] = {"__name__": "accept_before", "__file__": str(tmp_path / "accept_before.py")}
    exec(compile(text.replace("BODY", "x * 2"), str(tmp_path / "accept_before.py"), "exec"), space)
    space["defs"].resolve_implicit_global_asset_job_def().execute_in_process(instance=project.instance)

    asset = ["work", "-f", str(tmp_path / "accept_after.py"), "-a", "defs"]
    assert main(["accept", *asset, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "-    return x * 2\n+    return x + x" in shown
    assert "3 packets have a stored result" in shown
    assert main(["accept", *asset]) == 2
    assert "needs a reason" in capsys.readouterr().err
    assert accepted(**project.lake) == []

    assert main(["accept", *asset, "--reason", "twice is twice", "--who", "ann"]) == 0
    (made,) = accepted(**project.lake)
    assert made.acceptance_id in capsys.readouterr().out
    assert main(["accepted", "--root-uri", str(project.root), "--differences"]) == 0
    shown = capsys.readouterr().out
    assert "ann  function work" in shown
    assert "twice is twice" in shown
    assert "    +    return x + x" in shown
    assert main(["withdraw", made.acceptance_id, "--root-uri", str(project.root)]) == 2
    assert main(["withdraw", made.acceptance_id, "--root-uri", str(project.root), "--reason", "no"]) == 0
    assert main(["withdraw", "nothing", "--root-uri", str(project.root), "--reason", "no"]) == 2
    assert "is not known. Those that hold are: none" in capsys.readouterr().err
