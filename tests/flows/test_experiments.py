import itertools
import json
from pathlib import Path

import pytest

from flows import experiments, graph
from flows.experiments import Difference
from flows.git import GitError
from tests.flows.conftest import TASK, add_remote, dvc, git, number, set_number, write_task

RUN = "0b7f3c52-9d7e-4a66-9a0e-5d1e6f1f1a2b"
ANOTHER = "c1d2e3f4-0000-4000-8000-000000000000"

pytestmark = pytest.mark.usefixtures("project")


def save(name: str = "brave-otter", run: str = RUN) -> experiments.Saved:
    """Save the workspace as the flow does."""
    return experiments.save(name, graph.uncached_outputs(), run=run)


def everything() -> dict[str, object]:
    """Return the state of the workspace and of Git: every file's size and time, the index, HEAD, branches."""
    outside = (".git", ".dvc/tmp", ".dvc/cache")
    files = [path for path in Path().rglob("*") if path.is_file() and not str(path).startswith(outside)]
    times: dict[str, object] = {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
    return times | {
        "index": Path(".git/index").read_bytes(),
        "HEAD": Path(".git/HEAD").read_text(),
        "branches": git("for-each-ref", "refs/heads", "refs/stash", "refs/tags"),
        "status": git("--no-optional-locks", "status", "--porcelain", "--untracked-files=all"),
    }


def contents(commit: str, path: str) -> str:
    """Return the content of a file in a commit."""
    return git("show", f"{commit}:{path}")


def test_saving_changes_nothing() -> None:
    """Files and their times, dvc.lock, index, HEAD, branches and `git status` stay the same."""
    set_number("download", 2)
    Path("staged").write_text("staged")
    git("add", "staged")
    Path("untracked").write_text("untracked")
    before = everything()
    save()
    assert everything() == before


def test_a_due_stage_stays_due() -> None:
    """A stage that is due when a run is saved is due afterwards; after `dvc exp save` it would not be."""
    set_number("download", 2)
    due = graph.changes(["download"], lambda _: None)
    save()
    assert graph.changes(["download"], lambda _: None) == due != {}
    dvc("exp", "save", "--force", "--name", "by-hand")
    assert graph.changes(["download"], lambda _: None) == {}


def test_dvc_lists_it_with_its_scores() -> None:
    """`dvc exp show` has the run under its name with the metrics and params of the workspace."""
    Path("artifacts/evaluate/metrics.json").write_text('{"sum": 17}')
    set_number("evaluate", 8)
    save()
    (baseline,) = [row for row in json.loads(dvc("exp", "show", "--json")) if row["rev"] != "workspace"]
    (found,) = [state for experiment in baseline["experiments"] for state in experiment["revs"]]
    assert found["name"] == "brave-otter"
    assert found["data"]["metrics"]["artifacts/evaluate/metrics.json"]["data"] == {"sum": 17}
    assert found["data"]["params"]["params.yaml"]["data"]["evaluate"] == {"number": 8}


def test_dvc_restores_it() -> None:
    """`dvc exp apply` restores parameters, metrics and cached outputs after another run has changed them."""
    before = (number("evaluate"), Path("artifacts/evaluate/metrics.json").read_text(), Path("params.yaml").read_text())
    saved = save()
    set_number("evaluate", 5)
    dvc("repro", "--quiet", "--single-item", "evaluate")
    assert number("evaluate") != before[0]
    dvc("exp", "apply", saved.name)
    after = (number("evaluate"), Path("artifacts/evaluate/metrics.json").read_text(), Path("params.yaml").read_text())
    assert after == before
    assert graph.changes(graph.read(), lambda _: None) == {}


def test_ignored_metrics_are_saved() -> None:
    """Metrics are saved even if .gitignore excludes them."""
    Path(".gitignore").write_text("/artifacts/\n")
    git("rm", "-r", "--quiet", "--cached", "artifacts")
    git("commit", "--quiet", "--all", "--message=Ignored")
    assert json.loads(contents(save().commit, "artifacts/evaluate/metrics.json")) == {"sum": 1112}


def test_staged_and_unstaged_changes_are_saved() -> None:
    """The experiment has the present files, staged or not, and no deleted ones."""
    Path("tasks/download.py").write_text("staged")
    git("add", "tasks/download.py")
    Path("tasks/evaluate.py").write_text("unstaged")
    Path("tasks/train_head.py").unlink()
    commit = save().commit
    assert contents(commit, "tasks/download.py") == "staged"
    assert contents(commit, "tasks/evaluate.py") == "unstaged"
    assert "tasks/train_head.py" not in git("ls-tree", "-r", "--name-only", commit).splitlines()
    assert {*experiments.uncommitted()} == {"tasks/download.py", "tasks/evaluate.py", "tasks/train_head.py"}


def test_outputs_of_stages_are_no_uncommitted_changes() -> None:
    """dvc.lock and metrics differ after every run; only changes of the user are returned."""
    Path("baselines").mkdir()
    Path("baselines/dvc.lock").touch()
    git("add", "baselines")
    git("commit", "--quiet", "--message=Baselines")
    for path in ("dvc.lock", "baselines/dvc.lock", "artifacts/evaluate/metrics.json", "params.yaml"):
        Path(path).write_text(Path(path).read_text() + "\n")
    assert experiments.uncommitted() == ["params.yaml"]


def test_untracked_files_are_named() -> None:
    """An untracked file that a stage reads is not in the experiment and is named; ignored and tracked ones are not."""
    Path("tasks/new é.py").write_text("new")
    Path(".cache").mkdir()
    Path(".cache/scratch").write_text("ignored")
    assert "new" not in git("ls-tree", "-r", "--name-only", save().commit)
    files = [Path("tasks"), Path(".cache/scratch"), Path("params.yaml")]
    assert experiments.untracked(files) == ["tasks/new é.py"]


@pytest.mark.parametrize(
    ("name", "proper"),
    [
        ("brave-otter", "brave-otter"),
        ("night of 1.2: ä/b~c", "night-of-1-2-b-c"),
        ("..", "run"),
        ("-x.lock", "x-lock"),
    ],
)
def test_any_name_becomes_one_that_git_allows(name: str, proper: str) -> None:
    """Characters that Git does not allow in a name become dashes."""
    saved = save(name)
    assert saved.name == proper
    head = git("rev-parse", "HEAD")
    assert git("rev-parse", f"refs/exps/{head[:2]}/{head[2:]}/{proper}") == saved.commit


def test_a_name_that_exists_gets_the_id_of_the_run() -> None:
    """A second run of the same name does not replace the first, also if that started from another commit."""
    first = save()
    git("commit", "--quiet", "--allow-empty", "--message=Another baseline")
    second = save(run=ANOTHER)
    assert (first.name, second.name) == ("brave-otter", "brave-otter-c1d2e3f4")
    assert {*dvc("exp", "list", "--all-commits", "--name-only").split()} == {first.name, second.name}


def test_a_run_is_saved_without_a_git_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a server where Git has no user name and address, the run is saved under the project's name."""
    git("config", "--unset", "user.name")
    git("config", "--unset", "user.email")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("EMAIL", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(variable, raising=False)
    assert git("log", "-1", "--format=%an <%ae>", save().commit) == "dogs-vs-cats <dogs-vs-cats>"


def test_what_git_lacks_of_a_user_is_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an e-mail address but no name, the run is saved with that address and the project's name."""
    git("config", "--unset", "user.name")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.delenv(variable, raising=False)
    assert git("log", "-1", "--format=%an <%ae>", save().commit) == "dogs-vs-cats <somebody@example.org>"


@pytest.mark.reliability(
    "tampered", "a Git repository of another owner", "the run is not saved; the message has the command for Git"
)
def test_a_repository_of_another_owner_is_explained(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason has the command that lets Git use the repository."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert experiments.baseline() is None
    assert "git config --global --add safe.directory" in experiments.obstacle()
    assert str(project) in experiments.obstacle()


def test_nothing_hinders_saving_in_a_repository_with_a_commit() -> None:
    """There is no reason against saving in a repository with a commit; without Git in DVC there is one."""
    assert experiments.obstacle() == ""
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert experiments.obstacle() == "experiments need a Git repository with a commit."


def test_the_latest_is_the_newest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest run is the one saved last, with any name and from any commit."""
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2030-01-02T00:00:00Z")
    newest = save("a-newer")
    git("commit", "--quiet", "--allow-empty", "--message=Another baseline")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2030-01-01T00:00:00Z")
    save("z-older", ANOTHER)
    assert experiments.latest() == newest


def test_the_latest_of_two_runs_within_a_second_is_the_second() -> None:
    """Git's dates are whole seconds; a run that is saved within the second of another one is the later all the same."""
    for name in ("m-first", "z-second", "a-third"):
        saved = save(name)
        assert experiments.latest() == saved


def test_experiments_by_hand_are_not_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment saved with DVC is not the latest run, neither before the first run nor after it."""
    assert experiments.latest() is None
    dvc("exp", "save", "--name", "by-hand")
    assert experiments.latest() is None
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z")
    saved = save()
    assert experiments.latest() == saved


def test_a_run_that_was_applied_keeps_its_name() -> None:
    """DVC's own reference to the applied commit, refs/exps/exec/EXEC_APPLY, does not count as a run."""
    dates = itertools.count(10**9)
    while not git("rev-parse", "HEAD").startswith("f"):  # then Git lists that reference before the experiment
        git("commit", "--quiet", "--amend", "--no-edit", f"--date=@{next(dates)}")
    saved = save()
    dvc("exp", "apply", saved.name)
    assert git("rev-parse", "refs/exps/exec/EXEC_APPLY") == saved.commit
    assert experiments.latest() == saved


def test_metrics_and_params_are_compared() -> None:
    """Differences from a commit have both values; equal metrics are included with `everything`."""
    saved = save()
    assert experiments.differences("metrics", saved.commit, everything=False) == []
    Path("artifacts/evaluate/metrics.json").write_text('{"sum": 6, "new": 1}')
    set_number("download", 2)
    evaluation = "artifacts/evaluate/metrics.json"
    assert experiments.differences("params", saved.commit, everything=False) == [
        Difference("params.yaml", "download.number", 1, 2)
    ]
    assert {*experiments.differences("metrics", saved.commit, everything=False)} == {
        Difference(evaluation, "sum", 1112, 6),
        Difference(evaluation, "new", None, 1),
    }
    metrics = experiments.differences("metrics", saved.commit, everything=True)
    assert Difference("artifacts/download/metrics.json", "sum", 1, 1) in metrics
    assert len(metrics) == 5


def test_parameters_and_metrics_of_the_baselines_are_not_compared() -> None:
    """Parameters and metrics of another dvc.yaml are not among the differences."""
    stages = {"train": {"cmd": "true", "params": ["train"], "metrics": [{"metrics.json": {"cache": False}}]}}
    Path("baselines").mkdir()
    Path("baselines/dvc.yaml").write_text(json.dumps({"stages": stages}))
    Path("baselines/params.yaml").write_text("train:\n  epochs: 1\n")
    Path("baselines/metrics.json").write_text('{"sum": 1}')
    git("add", "baselines")
    git("commit", "--quiet", "--message=Baselines")
    Path("baselines/params.yaml").write_text("train:\n  epochs: 2\n")
    Path("baselines/metrics.json").write_text('{"sum": 2}')
    assert experiments.differences("params", "HEAD", everything=False) == []
    assert experiments.differences("metrics", "HEAD", everything=False) == []


def test_the_baseline_is_head() -> None:
    """Experiments start from the commit that is checked out."""
    assert experiments.baseline() == git("rev-parse", "HEAD")


def test_without_a_commit_there_is_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository without a commit has no baseline."""
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    git("init", "--quiet")
    assert experiments.baseline() is None


def test_without_git_in_dvc_there_is_no_baseline() -> None:
    """With `core.no_scm`, as in the demo, there is no baseline, inside and outside a Git repository."""
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert experiments.baseline() is None
    Path(".git").rename(".away")
    assert experiments.baseline() is None


def test_without_the_program_git_there_is_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without Git there is no baseline, so that the pipeline runs without saving."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert experiments.baseline() is None


def test_an_error_of_git_has_its_message() -> None:
    """The error has the command and Git's message."""
    Path(".git/index").write_text("damaged")
    with pytest.raises(GitError, match=r"^`git add` failed: .*index"):
        save()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), None),
        (("mine",), "mine"),
        (("mine", "origin"), "origin"),
        (("mine", "yours"), None),
        (("upstream",), None),
        (("mine", "upstream"), "mine"),
    ],
)
def test_experiments_go_to_origin_or_the_only_remote(names: tuple[str, ...], expected: str | None) -> None:
    """Of several remotes only `origin` is used; without it there has to be exactly one besides `upstream`."""
    for name in names:
        git("remote", "add", name, f"/nowhere/{name}")
    assert experiments.git_remote() == expected


def test_a_run_in_a_temporary_workspace_uses_the_projects_feature_cache(project: Path) -> None:
    """`dvc exp run --temp`, like a queued run, finds the rows that the project has computed."""
    program = "from transfer.runtime import paths\npaths.cache().mkdir(exist_ok=True)\npaths.cache('row').touch()\n"
    write_task("download", program + TASK)
    git("commit", "--quiet", "--all", "--message=A cache")
    dvc("exp", "run", "--temp", "--set-param", "download.number=7", "download")
    assert (project / ".cache/row").exists()
    assert "number: 1\n" in Path("params.yaml").read_text()


def test_a_remote_that_an_older_experiment_removes_can_be_restored() -> None:
    """An experiment made before the remote was named has no remote; `git restore` brings it back after applying it."""
    older = save()
    add_remote("/nowhere")
    dvc("exp", "apply", older.name)
    assert not graph.has_remote()
    git("restore", ".dvc/config")
    assert graph.has_remote()


def test_clones_share_experiments_by_git(tmp_path: Path) -> None:
    """An experiment that a clone sends replaces the remote's; another fetches it and keeps it only when asked to."""
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("push", "--quiet", "origin", "main")
    head = git("rev-parse", "HEAD")
    assert experiments.fetch(["a"], "origin", head) == {}
    for value in (2, 3):
        set_number("download", value)
        saved = experiments.save("a", [Path("params.yaml")])
        experiments.send(saved, "origin", head)
    experiments.send(experiments.save("ab", []), "origin", head)
    git("update-ref", "-d", experiments.ref("a", head))
    assert experiments.fetch(["a", "c"], "origin", head) == {"a": saved.commit}
    assert "number: 3" in experiments.read(saved.commit, Path("params.yaml"))
    assert experiments.present(["a", "ab", "c"], head).keys() == {"ab"}
    experiments.keep(saved, head)
    assert experiments.present(["a"], head) == {"a": saved.commit}
