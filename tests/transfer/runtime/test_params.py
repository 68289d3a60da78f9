import io
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator
from ruamel import yaml

from transfer.runtime import params
from transfer.runtime.errors import ParamsError


class Oven(params.Section):
    """A section within a section."""

    heat: int = Field(ge=50, le=300)


class Bake(params.Section):
    """A section with one of everything."""

    cake: Literal["plum", "apple"]
    minutes: float = Field(gt=0, lt=100)
    eggs: int | None = Field(ge=1)
    oven: Oven

    @model_validator(mode="after")
    def _not_burnt(self) -> "Bake":
        if self.minutes * self.oven.heat > 12_000:
            raise ValueError(f"`minutes` x `oven.heat` must be at most 12000. Received: {self.minutes}")
        return self


GOOD: dict[str, Any] = {"cake": "plum", "minutes": 45.0, "eggs": 3, "oven": {"heat": 180}}


def refusal(**changes: Any) -> str:
    """What is said about good values with these changes."""
    with pytest.raises(ParamsError) as caught:
        params.parse("bake", GOOD | changes, Bake)
    return str(caught.value)


def test_values_that_are_allowed_are_taken_as_they_are() -> None:
    """Nothing is converted, and null is a value where it is allowed."""
    section = params.parse("bake", GOOD | {"eggs": None}, Bake)
    assert (section.cake, section.minutes, section.eggs, section.oven.heat) == ("plum", 45.0, None, 180)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cake": "stone"}, "`bake.cake` must be 'plum' or 'apple'. Received: 'stone'"),
        ({"minutes": 0}, "`bake.minutes` must be greater than 0. Received: 0"),
        ({"minutes": 100.0}, "`bake.minutes` must be less than 100. Received: 100.0"),
        ({"minutes": float("nan")}, "`bake.minutes` must be a finite number. Received: nan"),
        ({"minutes": "45"}, "`bake.minutes` must be a valid number. Received: '45'"),
        ({"eggs": 2.0}, "`bake.eggs` must be a valid integer. Received: 2.0"),
        ({"eggs": True}, "`bake.eggs` must be a valid integer. Received: True"),
        ({"oven": {"heat": 20}}, "`bake.oven.heat` must be greater than or equal to 50. Received: 20"),
        ({"oven": 180}, "`bake.oven` must be a section with `heat`. Received: 180"),
        ({"minutes": 99, "oven": {"heat": 300}}, "`bake`: `minutes` x `oven.heat` must be at most 12000. Received: 99"),
    ],
)
def test_a_refusal_names_the_parameter_what_is_allowed_and_what_came(changes: dict[str, Any], message: str) -> None:
    """The message is enough to mend params.yaml without looking into the code."""
    assert refusal(**changes).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"salt": 1}, "`bake.salt` is not a parameter; `bake` has `cake`, `minutes`, `eggs`, `oven`. Received: 1"),
        ({"oven": {"heat": 180, "fan": 1}}, "`bake.oven.fan` is not a parameter; `bake.oven` has `heat`. Received: 1"),
    ],
)
def test_an_unknown_parameter_is_refused_with_those_there_are(changes: dict[str, Any], message: str) -> None:
    """A slip of the pen is not ignored, and the right name is in the message."""
    assert refusal(**changes) == message


def test_a_key_that_is_no_text_is_refused_too() -> None:
    """YAML allows numbers as names; params do not."""
    with pytest.raises(ParamsError, match=r"`bake\.1` is not a parameter"):
        params.parse("bake", GOOD | {1: 2}, Bake)


def test_all_mistakes_are_told_at_once() -> None:
    """Three mistakes take one run to find, not three."""
    lines = refusal(cake="stone", minutes=-1, salt=1).splitlines()
    assert [line.split("`")[1] for line in lines] == ["bake.cake", "bake.minutes", "bake.salt"]


@pytest.mark.parametrize("name", list(GOOD))
def test_every_parameter_must_be_given(name: str) -> None:
    """There are no defaults but those of params.yaml."""
    with pytest.raises(ParamsError, match=f"`bake.{name}` is missing from params.yaml"):
        params.parse("bake", {key: value for key, value in GOOD.items() if key != name}, Bake)


@pytest.mark.parametrize("values", [None, [], "plum", 3])
def test_a_section_must_be_one(values: object) -> None:
    """An empty or misplaced section is named with what belongs in it."""
    with pytest.raises(
        ParamsError, match=r"params\.yaml needs a section `bake` with `cake`, `minutes`, `eggs`, `oven`"
    ):
        params.parse("bake", values, Bake)


@pytest.mark.parametrize("values", [None, {key: value for key, value in GOOD.items() if key != "eggs"}])
def test_another_file_is_named(values: object) -> None:
    """Sections of other files are checked alike, and their mistakes are not looked for in params.yaml."""
    with pytest.raises(ParamsError, match=r"cakes\.yaml") as caught:
        params.parse("bake", values, Bake, file=Path("cakes.yaml"))
    assert "params.yaml" not in str(caught.value)


def test_checked_params_cannot_be_changed() -> None:
    """What was checked is what is used."""
    with pytest.raises(ValueError, match="frozen"):
        params.parse("bake", GOOD, Bake).minutes = 1


YAML = "bake: {cake: apple, minutes: 1e-5, eggs: null, oven: {heat: 060}}\nother: {anything: [1, 2]}\n"


def test_params_are_read_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sections do not matter; `1e-5` is a number, as it is for DVC."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(YAML)
    assert params.load("bake", Bake) == Bake(cake="apple", minutes=1e-5, eggs=None, oven=Oven(heat=60))


@pytest.mark.reliability("tampered", "a damaged params.yaml, or one with code in it", "78: nothing of it is executed")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"bake: !!python/object/apply:os.mkdir ['ran']\n", "is no readable YAML"),
        (b"bake: {cake: ", "is no readable YAML"),
        (b"bake: {}\nbake: {}\n", "is no readable YAML"),
        (b"\xff\xfe\x00", "is no readable YAML"),
        (b"bake: {cake: 2024-13-45}\n", "is no readable YAML: month must be in 1..12"),
        (b"", "must hold sections"),
        (b"- 1\n", "must hold sections"),
        (b"other: {}\n", "needs a section `bake`"),
    ],
    ids=["code", "cut", "twice the same", "not UTF-8", "no date", "empty", "a list", "without the section"],
)
def test_an_unreadable_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """The message says what is wrong with the file itself."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=f"params.yaml {message}"):
        params.load("bake", Bake)
    assert not Path("ran").exists()


@pytest.mark.parametrize("comments", [False, True])
def test_a_file_can_be_read_with_its_comments(tmp_path: Path, comments: bool) -> None:  # noqa: FBT001
    """What is read is the same either way, and is written again as it was only if that is asked for."""
    file, written = tmp_path / "cakes.yaml", io.StringIO()
    file.write_text("bake:\n  cake: plum # or apple\n")
    read = params.read(file, comments=comments)
    yaml.YAML().dump(read, written)
    assert read == {"bake": {"cake": "plum"}}
    assert (written.getvalue() == file.read_text()) == comments


def test_a_missing_file_is_a_wrong_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says from where to run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"Run from the folder that holds dvc\.yaml"):
        params.load("bake", Bake)
