from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from flows import sweep_settings
from tasks.__main__ import sections
from tests.conftest import ROOT
from transfer.runtime import params
from transfer.runtime.errors import ParamsError

SWEEPS = """\
widths:
  stage: train_head
  seeds: [0, 1]
  given: {train_head.training.epochs: 1}
  grid:
    train_head.head.dense: [[4], []]
"""


def of_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return YAML(typ="safe").load(path)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (SWEEPS, "heights", r"one of sweeps\.yaml: widths\. Received: 'heights'"),
        (
            SWEEPS.replace("train_head\n", "evaluate\n"),
            "widths",
            r"`widths\.stage` must be 'train_head' or 'fine_tune'",
        ),
        (SWEEPS.replace("  stage: train_head\n", ""), "widths", r"`widths\.stage` is missing from sweeps\.yaml"),
        ("widths:", "widths", r"sweeps\.yaml needs a section `widths`"),
        (SWEEPS.partition("  grid")[0], "widths", "either `grid` or `points`.*Received: neither"),
        (f"{SWEEPS}  points: {{a: {{}}}}", "widths", "either `grid` or `points`.*Received: both"),
        (SWEEPS.replace("[[4], []]", "[]"), "widths", r"`train_head\.head\.dense` must have .* Received: \[\]"),
        (SWEEPS.replace("[[4], []]", "[[4], [4]]"), "widths", r"each once\. Received: \[\[4\], \[4\]\]"),
        (SWEEPS.replace("[0, 1]", "[]"), "widths", r"`seeds` must have .* Received: \[\]"),
        (SWEEPS.replace("[0, 1]", "[1, 1]"), "widths", r"`seeds` must have .* Received: \[1, 1\]"),
        (SWEEPS.replace("[0, 1]", "[0, -1]"), "widths", r"`widths\.seeds\.1` must be greater than or equal to 0"),
        (f"{SWEEPS.replace('[[4], []]', '[a b, a]')}    c.d: [c, b c]", "widths", r"Received: a b c, a b c\. "),
        (SWEEPS.replace("[[4], []]", "[-1, 1, 2]"), "widths", r"Received: -1, 1\. Name them"),
        (SWEEPS * 2, "widths", r"sweeps\.yaml must be readable YAML.*duplicate key"),
        ("widths: {", "widths", r"sweeps\.yaml must be readable YAML"),
        ("", "widths", r"sweeps\.yaml must hold sections"),
        (None, "widths", r"sweeps\.yaml is missing"),
    ],
)
def test_an_invalid_sweep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str, message: str
) -> None:
    """The message names the sweeps that exist, or the mistake."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("sweeps.yaml").write_text(text)
    with pytest.raises(ParamsError, match=f"(?s){message}"):
        sweep_settings.read(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^params\.yaml is missing"),
        ("train_head: {", r"^params\.yaml must be readable YAML"),
        ("train_head: {seed: 2024-13-45}", r"^params\.yaml must be readable YAML"),
        ("train_head: {seed: 0}", r"^Point `\[4\]`: .*Received: `train_head\.training\.epochs`"),
    ],
)
def test_a_params_file_that_cannot_be_varied_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    """The message names params.yaml if that is wrong, and the point if its changes are."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("params.yaml").write_text(text)
    sweep = sweep_settings.Sweep(
        stage="train_head",
        seeds=[0],
        given={"train_head.training.epochs": 1},
        grid={"train_head.head.dense": [[4]]},
    )
    with pytest.raises(ParamsError, match=message):
        sweep_settings.trials(sweep)


def test_only_params_that_exist_are_varied() -> None:
    """A misspelt name in a sweep is refused, instead of adding a parameter that no stage reads."""
    with pytest.raises(ParamsError, match=r"Received: `train_head\.head\.droput`"):
        sweep_settings.changed({"train_head": {"head": {"dropout": 0.5}}}, {"train_head.head.droput": 0.1})


@pytest.mark.parametrize("dense", ["[256] # units", "# units\n  - 256\n  - 16"])
@pytest.mark.parametrize("value", [[], [4], {"a": 1}, 3])
def test_written_params_read_as_what_was_set(dense: str, value: object) -> None:
    """Whatever replaces a value with a comment, the written file reads as that value."""
    text = f"head:\n  dense:  {dense}\n  activation: relu\n  dropout: 0.5 # before\n"
    written = sweep_settings.in_yaml(sweep_settings.changed(YAML().load(text), {"head.dense": value}))
    expected = {"head": {"dense": value, "activation": "relu", "dropout": 0.5}}
    assert YAML(typ="safe").load(written) == expected


def test_the_projects_params_have_the_form_in_which_dvc_writes_them(tmp_path: Path) -> None:
    """`dvc exp run --set-param` changes the lines of the parameters that it sets in params.yaml, and no other line."""
    file = tmp_path / "params.yaml"
    before = (ROOT / "params.yaml").read_text()
    file.write_text(before)
    with modify_yaml(file) as document:
        document["split"]["seed"] = document["split"]["seed"]
    assert file.read_text() == before
    with modify_yaml(file) as document:
        document["train_head"]["head"]["dropout"] = 0.25
    changed = [
        pair for pair in zip(before.splitlines(), file.read_text().splitlines(), strict=True) if len({*pair}) > 1
    ]
    assert [new.split("#")[0].strip() for _, new in changed] == ["dropout: 0.25"]


def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of sweeps are named for them: a name with a slash would be in another folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/b", "../a", ".", ""):
        YAML().dump({name: {}}, Path("sweeps.yaml"))
        with pytest.raises(ParamsError, match=r"^The name of a sweep must"):
            sweep_settings.read(name)


def test_a_grid_has_every_combination() -> None:
    """Points are in the order of the file; the last parameter varies fastest."""
    grid = sweep_settings.Sweep(stage="train_head", seeds=[0], grid={"a.b": [1, 2], "a.c": [3, 4]})
    assert [point.name for point in sweep_settings.points(grid)] == ["1 3", "1 4", "2 3", "2 4"]
    assert sweep_settings.points(grid)[1].changes == {"a.b": 1, "a.c": 4}


@pytest.mark.parametrize("name", list(of_yaml(ROOT / "sweeps.yaml")))
def test_the_projects_sweeps_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages accept the parameters of every point of every sweep in sweeps.yaml."""
    monkeypatch.chdir(ROOT)
    sweep, known = sweep_settings.read(name), sections()
    assert len({point.name for point in sweep_settings.points(sweep)}) == len(sweep_settings.points(sweep)) > 2
    for point in sweep_settings.points(sweep):
        document = sweep_settings.changed(of_yaml(ROOT / "params.yaml"), {**sweep.given, **point.changes})
        for stage, section in document.items():
            params.parse(stage, section, known[stage])
