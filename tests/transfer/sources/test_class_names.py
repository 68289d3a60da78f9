import io
import zipfile
from pathlib import Path

import pytest

from transfer.runtime.errors import DataError
from transfer.sources import archives, class_names, layouts

CYRILLIC = "c\u0430t"


@pytest.mark.reliability(
    "photographs",
    "two class names that look the same",
    "exit 65; the message has both names, with escapes where letters are of another alphabet",
)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "Cat"), "`Cat` and `cat`"),
        (("cat", "cat "), "`cat` and `cat `"),
        (("cat", CYRILLIC), r"`cat` and `.*` \('c\\u0430t'\)"),
        (("CAT", CYRILLIC), r"`CAT` and"),
        (("cat", "\uff43at"), r"`cat` and .*uff43at"),
        (("TAG", "\u0422AG"), r"`TAG` and .*u0422AG"),
        (("NET", "\u039dET"), r"`NET` and .*u039dET"),
        (("BEE", "\u0412EE"), r"`BEE` and .*u0412EE"),
        (("dog", "do\u0261"), r"`dog` and .*do\\u0261"),
        (("a dog", "a  dog"), "`a  dog` and `a dog`"),
    ],
)
def test_class_names_that_look_the_same_are_refused(names: tuple[str, ...], message: str) -> None:
    """A reader of a report could not tell the two classes apart."""
    with pytest.raises(DataError, match=f"must differ in more than case.*{message}"):
        class_names.check(names)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("c,s", "'c,s'"),
        ("cat\u200f", r"'cat\\u200f'"),
        ("-a", "'-a'"),
        ("😺", "U0"),
        ("cat\ufe0f", "ufe0f"),
        ("c\u034fat", "u034f"),
    ],
)
def test_invalid_class_name_is_refused(name: str, shown: str) -> None:
    """Marks for the direction of writing, symbols and characters that are not visible are not part of a class name."""
    with pytest.raises(DataError, match=f"letters, digits, spaces, .*{shown}"):
        class_names.check([name, "dog"])


def test_letters_of_any_script_are_valid() -> None:
    """Letters, combining marks and digits of all scripts make class names."""
    class_names.check(["แมว", "สุนัข", "बिल्ली", "猫", "Füchse", "кот", "γάτα", "٣", "wasp sp-1", "_x"])


@pytest.mark.reliability(
    "archives", "class names in an encoding that the archive does not tell", "exit 65; the message has what to do"
)
@pytest.mark.parametrize(("name", "encoding"), [("猫", "cp932"), ("Füchse", "cp437"), ("кот", "cp866")])
def test_class_name_in_an_unknown_encoding_is_refused(name: str, encoding: str, tmp_path: Path) -> None:
    """A class does not get the name that another encoding makes of it; file names may be in any encoding."""
    file = io.BytesIO()
    raw = name.encode(encoding)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{'_' * len(raw)}/0.jpg"), b"photo")
        archive.writestr(zipfile.ZipInfo(f"dog/{'_' * len(raw)}.jpg"), b"photo")
    path = tmp_path / "photos.zip"
    path.write_bytes(file.getvalue().replace(b"_" * len(raw), raw))
    with archives.open_archive(path) as archive, pytest.raises(DataError, match=r"tell the encoding.*Pack.*7-Zip"):
        layouts.read(archive)
    path.write_bytes(
        file.getvalue().replace(b"_" * len(raw) + b"/", b"x" * len(raw) + b"/").replace(b"_" * len(raw), raw)
    )
    with archives.open_archive(path) as archive:
        assert len(layouts.read(archive).candidates) == 2
