import io
import os
import sys
import zipfile
from pathlib import Path

import pytest

from transfer.images import decoding
from transfer.prediction import inputs
from transfer.runtime.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photographs and other things, the current one; each file holds its own name."""
    monkeypatch.chdir(tmp_path)
    for name in ("2.jpg", "photos/b.PNG", "photos/a.jpg", "photos/more/c.webp", "photos/notes.txt", "photos/.x.jpg"):
        write(name)
    write("photos/.hidden/1.jpg")
    write("photos/__MACOSX/1.jpg")
    return tmp_path


def write(name: str) -> None:
    """Leave a file that holds its own name."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(os.fsencode(name))


def pack(path: str, *names: str, method: int = zipfile.ZIP_STORED, data: bytes | None = None) -> None:
    """Leave an archive whose members hold their own names, or what is given."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, name.encode() if data is None else data)


def found(*given: str) -> list[str]:
    """The names of what is found."""
    with inputs.photographs(given) as photographs:
        return [photograph.name for photograph in photographs]


def reason(argument: str) -> str:
    """Why the only photograph that an argument leads to cannot be read."""
    with inputs.photographs([argument]) as [photograph], pytest.raises((DataError, OSError)) as refusal:
        photograph.read()
    return str(refusal.value)


def test_a_folder_gives_what_is_below_it() -> None:
    """Photographs by their ending, files before folders, each in order of names; nothing hidden."""
    assert found("photos") == found("photos/") == ["photos/a.jpg", "photos/b.PNG", "photos/more/c.webp"]
    assert found("photos/.hidden") == ["photos/.hidden/1.jpg"]


def test_a_pattern_gives_what_a_shell_would_put_in_its_place() -> None:
    """A pattern's matches are treated as if they had been given, each photograph once."""
    assert found("photos/*.jpg") == ["photos/a.jpg"]
    assert found("photos/**/*.[jw]*") == ["photos/__MACOSX/1.jpg", "photos/a.jpg", "photos/more/c.webp"]
    assert found("photos/m*") == ["photos/more/c.webp"]


def test_a_name_that_looks_like_a_pattern_is_a_name() -> None:
    """A file that is there is taken, whatever its name looks like."""
    write("photo[1].jpg")
    assert found("photo[1].jpg") == ["photo[1].jpg"]


def test_arguments_keep_their_order_and_files_their_endings() -> None:
    """Output follows input; a file that is named is taken whatever it is called."""
    assert found("photos/notes.txt", "2.jpg", "photos/more", "2.jpg") == [
        "photos/notes.txt",
        "2.jpg",
        "photos/more/c.webp",
        "2.jpg",
    ]


def test_an_archive_gives_its_photographs_in_any_layout(folder: Path) -> None:
    """Members are read from the archive, in order of their names, and nothing is unpacked."""
    pack("some.ZIP", "deep/er/2.jpg", "1.jpg", "notes.txt", "__MACOSX/1.jpg", "empty/", "deep/1.png")
    before = sorted(folder.rglob("*"))
    with inputs.photographs(["some.ZIP"]) as photographs:
        read = {photograph.name: photograph.read() for photograph in photographs}
    assert read == {
        "some.ZIP/1.jpg": b"1.jpg",
        "some.ZIP/deep/1.png": b"deep/1.png",
        "some.ZIP/deep/er/2.jpg": b"deep/er/2.jpg",
    }
    assert sorted(folder.rglob("*")) == before


@pytest.mark.reliability(
    "archives",
    "damaged, and given to the prediction",
    "the damaged members are named and counted, the others predicted",
)
def test_one_damaged_member_does_not_spoil_the_others() -> None:
    """Each member is checked as it is read."""
    pack("some.zip", "1.jpg", "2.jpg")
    data = Path("some.zip").read_bytes()
    Path("some.zip").write_bytes(data.replace(b"1.jpg1.jpg", b"1.jpg1.jpX"))
    with inputs.photographs(["some.zip"]) as [first, second]:
        with pytest.raises(DataError, match="damaged in the archive"):
            first.read()
        assert second.read() == b"2.jpg"


def test_a_hostile_archive_is_refused_and_the_rest_is_found() -> None:
    """An archive that leads out of itself or unpacks without end gives one photograph that cannot be read."""
    pack("out.zip", "1.jpg", "../evil.jpg")
    pack("bomb.zip", "1.jpg", method=zipfile.ZIP_DEFLATED, data=bytes(1 << 20))
    Path("cut.zip").write_bytes(b"PK\x03\x04")
    assert found("out.zip", "bomb.zip", "cut.zip", "2.jpg") == ["out.zip", "bomb.zip", "cut.zip", "2.jpg"]
    assert "'../evil.jpg'" in reason("out.zip")
    assert "bomb.zip may hold" in reason("bomb.zip")
    assert "must be a whole zip archive" in reason("cut.zip")


def test_what_leads_nowhere_is_a_photograph_that_cannot_be_read() -> None:
    """No argument is passed over in silence."""
    Path("empty").mkdir()
    pack("empty.zip", "notes.txt")
    for argument in ("empty", "empty.zip", "none*.jpg"):
        assert reason(argument) == "no photographs there"
    for argument in ("none.jpg", "", "2.jpg/1.jpg", "x" * 300):
        with inputs.photographs([argument]) as [photograph], pytest.raises(OSError, match=r"\[Errno"):
            photograph.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named() -> None:
    """A folder below that cannot be looked into is told, not passed over."""
    Path("photos/more").chmod(0)
    try:
        assert found("photos")[-1] == "photos/more"
    finally:
        Path("photos/more").chmod(0o755)


def test_links_and_pipes_in_a_folder_do_no_harm() -> None:
    """A folder that links to itself ends, a named pipe, which would be waited for, is passed over, a link is read."""
    Path("photos/more/loop").symlink_to(Path("photos").resolve())
    os.mkfifo("photos/pipe.jpg")
    Path("photos/z.jpg").symlink_to("nowhere.jpg")
    assert found("photos") == ["photos/a.jpg", "photos/b.PNG", "photos/z.jpg", "photos/more/c.webp"]


def test_standard_input_is_one_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads the bytes of a photograph."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photo")))
    with inputs.photographs(["-"]) as [photograph]:
        assert photograph == ("-", photograph.read)
        assert photograph.read() == b"photo"


def test_a_file_of_any_size_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large for a photograph is not read whole."""
    monkeypatch.setattr(decoding, "MAX_BYTES", 4)
    assert reason("2.jpg") == "larger than 0 MiB"
