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
    """A section with a field of each kind."""

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


def message_for(**changes: Any) -> str:
    """Return the error message for valid values with these changes."""
    with pytest.raises(ParamsError) as caught:
        params.parse("bake", GOOD | changes, Bake)
    return str(caught.value)


def test_allowed_values_are_not_converted() -> None:
    """Values keep their types, and null is a value if it is allowed."""
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
def test_a_message_has_the_parameter_what_is_allowed_and_the_value(changes: dict[str, Any], message: str) -> None:
    """The message suffices to correct params.yaml without reading the code."""
    assert message_for(**changes).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"salt": 1}, "`bake.salt` is not a parameter; `bake` has `cake`, `minutes`, `eggs`, `oven`. Received: 1"),
        ({"oven": {"heat": 180, "fan": 1}}, "`bake.oven.fan` is not a parameter; `bake.oven` has `heat`. Received: 1"),
    ],
)
def test_an_unknown_parameter_is_rejected_with_the_known_ones(changes: dict[str, Any], message: str) -> None:
    """A typo is not ignored, and the right name is in the message."""
    assert message_for(**changes) == message


def test_a_key_that_is_not_a_string_is_rejected() -> None:
    """YAML allows numbers as keys; params.yaml does not."""
    with pytest.raises(ParamsError, match=r"`bake\.1` is not a parameter"):
        params.parse("bake", GOOD | {1: 2}, Bake)


def test_all_mistakes_are_reported_at_once() -> None:
    """Three mistakes need one run to be found, not three."""
    lines = message_for(cake="stone", minutes=-1, salt=1).splitlines()
    assert [line.split("`")[1] for line in lines] == ["bake.cake", "bake.minutes", "bake.salt"]


@pytest.mark.parametrize("name", list(GOOD))
def test_every_parameter_must_be_given(name: str) -> None:
    """The only defaults are the values in params.yaml."""
    with pytest.raises(ParamsError, match=f"`bake.{name}` is missing from params.yaml"):
        params.parse("bake", {key: value for key, value in GOOD.items() if key != name}, Bake)


@pytest.mark.parametrize("values", [None, [], "plum", 3])
def test_a_section_must_be_a_mapping(values: object) -> None:
    """The message for an empty or misplaced section has the names of its parameters."""
    with pytest.raises(
        ParamsError, match=r"params\.yaml needs a section `bake` with `cake`, `minutes`, `eggs`, `oven`"
    ):
        params.parse("bake", values, Bake)


@pytest.mark.parametrize("values", [None, {key: value for key, value in GOOD.items() if key != "eggs"}])
def test_another_file_is_named(values: object) -> None:
    """A mistake in another file of parameters is reported with that file's name."""
    with pytest.raises(ParamsError, match=r"cakes\.yaml") as caught:
        params.parse("bake", values, Bake, file=Path("cakes.yaml"))
    assert "params.yaml" not in str(caught.value)


def test_checked_params_cannot_be_changed() -> None:
    """The values used are those that were checked."""
    with pytest.raises(ValueError, match="frozen"):
        params.parse("bake", GOOD, Bake).minutes = 1


YAML = "bake: {cake: apple, minutes: 1e-5, eggs: null, oven: {heat: 060}}\nother: {anything: [1, 2]}\n"


def test_params_are_read_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sections are not read; `1e-5` is a number, as for DVC."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(YAML)
    assert params.load("bake", Bake) == Bake(cake="apple", minutes=1e-5, eggs=None, oven=Oven(heat=60))


@pytest.mark.reliability(
    "tampered", "a damaged params.yaml, or one with code in it", "exit 78; no code in it is executed"
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"bake: !!python/object/apply:os.mkdir ['ran']\n", "must be readable YAML"),
        (b"bake: {cake: ", "must be readable YAML"),
        (b"bake: {}\nbake: {}\n", "must be readable YAML"),
        (b"\xff\xfe\x00", "must be readable YAML"),
        (b"bake: {cake: 2024-13-45}\n", "must be readable YAML. Received: month must be in 1..12"),
        (b"", "must hold sections"),
        (b"- 1\n", "must hold sections"),
        (b"other: {}\n", "needs a section `bake`"),
    ],
    ids=["code", "cut", "duplicate key", "not UTF-8", "invalid date", "empty", "a list", "without the section"],
)
def test_an_unreadable_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """The message has the reason why the file cannot be read."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=f"params.yaml {message}"):
        params.load("bake", Bake)
    assert not Path("ran").exists()


@pytest.mark.parametrize("comments", [False, True])
def test_a_file_can_be_read_with_its_comments(tmp_path: Path, comments: bool) -> None:  # noqa: FBT001
    """The values are the same with comments or without, and only with them the file can be written again unchanged."""
    file, written = tmp_path / "cakes.yaml", io.StringIO()
    file.write_text("bake:\n  cake: plum # or apple\n")
    read = params.read(file, comments=comments)
    yaml.YAML().dump(read, written)
    assert read == {"bake": {"cake": "plum"}}
    assert (written.getvalue() == file.read_text()) == comments


def test_a_missing_file_means_a_wrong_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder to run from."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"Run from the folder that holds dvc\.yaml"):
        params.load("bake", Bake)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 1e-60}, "`bake.minutes` must be greater than 0, also after rounding to single precision. "),
        (
            {"minutes": 99.9999999, "oven": {"heat": 60}},
            "`bake.minutes` must be less than 100, also after rounding to single precision. ",
        ),
        ({"oven": {"heat": 2**70}}, "`bake.oven.heat` must be at most 9223372036854775807 in magnitude. "),
        ({"cake": "x" * 10_000}, "`bake.cake` must be 'plum' or 'apple'. Received: 'xxx"),
        ({"oven": {"x" * 10_000: 1}}, "`bake.oven.xxx"),
        ({str(number): 1 for number in range(1000)}, "`bake.0` is not a parameter; "),
    ],
    ids=["tiny", "near a limit", "integer", "text", "name", "many"],
)
def test_an_extreme_value_is_rejected(change: dict[str, object], message: str) -> None:
    """A value with which a stage would fail after hours is rejected at once; each message is short."""
    with pytest.raises(ParamsError) as caught:
        params.parse("bake", {**GOOD, **change}, Bake)
    assert message in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 600
    assert len(str(caught.value).splitlines()) <= 22
