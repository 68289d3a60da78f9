import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.runtime import dependencies
from transfer.runtime.dependencies import unchanged
from transfer.runtime.errors import ChangedError, DataError, DiskError, ParamsError

DVC_FILE = """
stages:
  bake:
    cmd: bake
    params: [bake]
    deps: [inbox, kitchen/code.py, artifacts/dough]
    outs: [artifacts/bake/cake, artifacts/bake/folder]
    metrics:
    - artifacts/bake/metrics.json: {cache: false}
"""
PARAMS = "bake: {minutes: 40, oven: {heat: 200}}\nother: {salt: 1}\n"
FILES = {
    "dvc.yaml": DVC_FILE,
    "params.yaml": PARAMS,
    "inbox/a.jpg": "apple",
    "inbox/more/b.jpg": "berry",
    "kitchen/code.py": "x = 1",
    "artifacts/dough/1.npz": "dough",
}
OUTPUTS = ("artifacts/bake/cake", "artifacts/bake/folder/slice", "artifacts/bake/metrics.json")

stages_notice = pytest.mark.reliability(
    "tampered",
    "a file of the inbox, a parameter, code or an output of an earlier stage changes while a stage runs",
    "exit 75; the change is named, no output is left, and the next run uses the new one",
)


@pytest.fixture(autouse=True)
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a dvc.yaml, whose stage `bake` has dependencies of every kind."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        write(name, content)


def write(name: str, content: str) -> None:
    """Write a file and its folder."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)


def bake(change: Callable[[], object]) -> None:
    """Run the stage, which makes its outputs, with a change meanwhile."""
    with unchanged("bake"):
        change()
        for output in OUTPUTS:
            write(output, "made")


def replace(name: str, content: str) -> None:
    """Replace a file by one with the same size and time of modification, as `cp -p` does."""
    status = Path(name).stat()
    write(f"{name}.new", content)
    os.utime(f"{name}.new", ns=(status.st_atime_ns, status.st_mtime_ns))
    Path(f"{name}.new").replace(name)


@stages_notice
@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda: write("inbox/c.jpg", "cherry"), "`inbox/` changed while it was read: `inbox/c.jpg`"),
        (lambda: write("inbox/a.jpg", "APPLE"), "`inbox/` changed while it was read: `inbox/a.jpg`"),
        (lambda: replace("inbox/a.jpg", "APPLE"), "`inbox/` changed while it was read: `inbox/a.jpg`"),
        (lambda: Path("inbox/more/b.jpg").unlink(), "`inbox/` changed while it was read: `inbox/more/b.jpg`"),
        (lambda: Path("inbox").rename("outbox"), "`inbox/` changed while it was read: `inbox`, `inbox/a.jpg`, "),
        (lambda: write("kitchen/code.py", "x = 2"), "a change of `kitchen/code.py`"),
        (lambda: Path("kitchen/code.py").unlink(), "a change of `kitchen/code.py`"),
        (lambda: replace("artifacts/dough/1.npz", "bread"), "a change of `artifacts/dough/1.npz`"),
        (lambda: write("params.yaml", PARAMS.replace("40", "7")), "a change of `bake.minutes`"),
        (lambda: write("params.yaml", PARAMS.replace("200", "200.0")), "a change of `bake.oven.heat`"),
        (lambda: write("params.yaml", PARAMS.replace("minutes", "hours")), "a change of `bake.hours`, `bake.minutes`"),
        (lambda: write("params.yaml", "other: {salt: 1}"), "a change of `bake`, `bake.minutes`, `bake.oven.heat`"),
        (lambda: write("params.yaml", "bake: {"), "a change of `params.yaml`"),
    ],
    ids=[
        "added",
        "edited",
        "replaced",
        "removed",
        "moved",
        "code",
        "no-code",
        "artifact",
        "parameter",
        "type",
        "name",
        "no-section",
        "unreadable",
    ],
)
def test_a_change_meanwhile_fails_the_stage(change: Callable[[], object], received: str) -> None:
    """The message names the change, and every output is removed."""
    with pytest.raises(ChangedError, match=f"of `bake` must not change while it runs. Received: {re.escape(received)}"):
        bake(change)
    assert not any(Path(output).exists() for output in OUTPUTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        lambda: Path("inbox/a.jpg").touch(),
        lambda: replace("inbox/a.jpg", "apple"),
        lambda: write("kitchen/code.py", "x = 1"),
        lambda: write("params.yaml", f"# salted\n{PARAMS.replace('salt: 1', 'salt: 2')}"),
        lambda: os.link("artifacts/dough/1.npz", "linked"),
        lambda: write("other.txt", "1"),
        lambda: write("dvc.yaml", DVC_FILE.replace("[inbox, ", "[")),
    ],
    ids=["nothing", "touched", "same content", "saved", "another stage's", "linked", "no dependency", "dvc.yaml"],
)
def test_other_changes_are_allowed(change: Callable[[], object]) -> None:
    """A file with the same content, comments, parameters of other stages and other files do not fail the stage."""
    bake(change)
    assert all(Path(output).exists() for output in OUTPUTS)


def test_a_change_is_named_if_it_made_the_stage_fail() -> None:
    """A photograph that was removed while the stage read it is not reported as missing; earlier outputs stay."""
    write(OUTPUTS[0], "earlier")

    def read() -> None:
        for path in (Path("inbox/a.jpg"), Path("inbox/more/b.jpg")):
            path.read_text()
            Path("inbox/more/b.jpg").unlink(missing_ok=True)

    with pytest.raises(ChangedError, match=r"`inbox/` changed while it was read: `inbox/more/b.jpg`. Run again."):
        bake(read)
    assert Path(OUTPUTS[0]).read_text() == "earlier"


@pytest.mark.parametrize(
    ("error", "is_hidden"),
    [
        (DataError("damaged"), True),
        (ParamsError("wrong"), True),
        (SyntaxError("half saved"), True),
        (TypeError("of two versions"), True),
        (IsADirectoryError(errno.EISDIR, "a folder", "inbox/a.jpg"), True),
        (DiskError("full"), False),
        (OSError(errno.ENOSPC, "full", "artifacts"), False),
    ],
)
def test_an_error_that_no_change_can_cause_stays(error: Exception, *, is_hidden: bool) -> None:
    """A full disk is reported as such; damaged data and any error of half-saved code may come from the change."""

    def fail() -> None:
        raise error

    def change_and_fail() -> None:
        write("params.yaml", PARAMS.replace("40", "7"))
        fail()

    with pytest.raises(ChangedError if is_hidden else type(error)):
        bake(change_and_fail)
    write("params.yaml", PARAMS)
    with pytest.raises(type(error)):
        bake(fail)


def test_many_changes_are_cut_to_a_line() -> None:
    """The message has the first names, with control characters replaced, and the number of the others."""

    def change() -> None:
        for number in range(12):
            write(f"inbox/{number}\n.jpg", "new")

    with pytest.raises(ChangedError) as caught:
        bake(change)
    assert "`inbox/0?.jpg`, `inbox/1?.jpg`, `inbox/10?.jpg`, " in str(caught.value)
    assert " and 7 more. Its outputs were removed; run again." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_compared_without_a_dvc_file() -> None:
    """A stage in a folder without dvc.yaml, or one that it does not have, runs as before."""
    with unchanged("boil"):
        write("inbox/c.jpg", "cherry")
    Path("dvc.yaml").unlink()
    bake(lambda: write("inbox/a.jpg", "APPLE"))
    assert all(Path(output).exists() for output in OUTPUTS)


def test_a_matrix_stage_depends_on_its_own_section() -> None:
    """Another model's parameters may change; paths are relative to `wdir`."""
    content = (
        "stages:\n  bake:\n    matrix: {model: [pie, tart]}\n    wdir: ..\n    cmd: bake\n    deps: [inbox]\n"
        '    params:\n      - kitchen/params.yaml: [bake, "${item.model}"]\n    outs: ["out/${item.model}"]\n'
    )
    write("kitchen/dvc.yaml", content)
    write("kitchen/params.yaml", "bake: {}\npie: {eggs: 1}\ntart: {eggs: 2}\n")
    declared = dependencies.read_declared("bake", file=Path("kitchen/dvc.yaml"), item={"model": "pie"})
    assert [os.path.normpath(path) for path in declared.outputs] == ["out/pie"]
    with unchanged("bake", file=Path("kitchen/dvc.yaml"), item={"model": "pie"}):
        write("kitchen/params.yaml", "bake: {}\npie: {eggs: 1}\ntart: {eggs: 3}\n")
    with (
        pytest.raises(ChangedError, match=r"a change of `pie.eggs`"),
        unchanged("bake", file=Path("kitchen/dvc.yaml"), item={"model": "pie"}),
    ):
        write("kitchen/params.yaml", "bake: {}\npie: {eggs: 4}\ntart: {eggs: 3}\n")
