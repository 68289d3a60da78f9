import io
import os
import socket
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from transfer.images import decoding
from transfer.prediction import inputs
from transfer.runtime.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photographs and other files; the content of each file is its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("2.jpg", "photos/b.PNG", "photos/a.jpg", "photos/more/c.webp", "photos/notes.txt", "photos/.x.jpg"):
        write(name)
    write("photos/.hidden/1.jpg")
    write("photos/__MACOSX/1.jpg")
    return tmp_path


def write(name: str) -> None:
    """Write a file whose content is its name."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(os.fsencode(name))


def pack(path: str, *names: str, method: int = zipfile.ZIP_STORED, data: bytes | None = None) -> None:
    """Write an archive; the content of each member is its name, or `data` if given."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, name.encode() if data is None else data)


def names_of(*arguments: str) -> list[str]:
    """The names of the photographs that arguments name."""
    with inputs.photographs(arguments) as (photographs, _):
        return [photograph.name for photograph in photographs]


def skipped(*arguments: str) -> str:
    """The files that were skipped, as the command reports them."""
    with inputs.photographs(arguments) as (_, counts):
        return inputs.skipped_text(counts)


def reason(argument: str) -> str:
    """The reason why the only photograph of an argument cannot be read."""
    with inputs.photographs([argument]) as ([photograph], _), pytest.raises((DataError, OSError)) as refusal:
        photograph.read()
    return str(refusal.value)


def test_a_folder_gives_the_photographs_below_it() -> None:
    """Photographs are found by extension, files before folders, each sorted by name, without hidden ones."""
    assert names_of("photos") == names_of("photos/") == ["photos/a.jpg", "photos/b.PNG", "photos/more/c.webp"]
    assert names_of("photos/.hidden") == ["photos/.hidden/1.jpg"]


def test_a_pattern_gives_its_matches() -> None:
    """A pattern is expanded as in a shell; each photograph is found once."""
    assert names_of("photos/*.jpg") == ["photos/a.jpg"]
    assert names_of("photos/**/*.[jw]*") == ["photos/__MACOSX/1.jpg", "photos/a.jpg", "photos/more/c.webp"]
    assert names_of("photos/m*") == ["photos/more/c.webp"]


def test_an_existing_file_is_no_pattern() -> None:
    """An argument that names an existing file is not expanded."""
    write("photo[1].jpg")
    assert names_of("photo[1].jpg") == ["photo[1].jpg"]


def test_arguments_keep_their_order() -> None:
    """Photographs have the order of the arguments; a file may have any extension."""
    assert names_of("photos/notes.txt", "2.jpg", "photos/more", "2.jpg") == [
        "photos/notes.txt",
        "2.jpg",
        "photos/more/c.webp",
        "2.jpg",
    ]


def test_an_archive_gives_its_photographs_in_any_layout(folder: Path) -> None:
    """Members are read from the archive, sorted by name, and nothing is extracted."""
    pack("some.ZIP", "deep/er/2.jpg", "1.jpg", "notes.txt", "__MACOSX/1.jpg", "empty/", "deep/1.png")
    before = sorted(folder.rglob("*"))
    with inputs.photographs(["some.ZIP"]) as (photographs, _):
        read = {photograph.name: photograph.read() for photograph in photographs}
    assert read == {
        "some.ZIP/1.jpg": b"1.jpg",
        "some.ZIP/deep/1.png": b"deep/1.png",
        "some.ZIP/deep/er/2.jpg": b"deep/er/2.jpg",
    }
    assert sorted(folder.rglob("*")) == before


@pytest.mark.reliability(
    "archives",
    "damaged, as an input of the prediction",
    "the damaged members are named and counted, the others predicted",
)
def test_a_damaged_member_does_not_affect_the_others() -> None:
    """The checksum of each member is verified when it is read."""
    pack("some.zip", "1.jpg", "2.jpg")
    data = Path("some.zip").read_bytes()
    Path("some.zip").write_bytes(data.replace(b"1.jpg1.jpg", b"1.jpg1.jpX"))
    with inputs.photographs(["some.zip"]) as ([first, second], _):
        with pytest.raises(DataError, match="damaged in the archive"):
            first.read()
        assert second.read() == b"2.jpg"


def test_a_hostile_archive_is_refused_and_other_arguments_are_found() -> None:
    """An archive with a path outside of it, or with an extreme expansion, gives one photograph that cannot be read."""
    pack("out.zip", "1.jpg", "../evil.jpg")
    pack("bomb.zip", "1.jpg", method=zipfile.ZIP_DEFLATED, data=bytes(1 << 20))
    Path("cut.zip").write_bytes(b"PK\x03\x04")
    assert names_of("out.zip", "bomb.zip", "cut.zip", "2.jpg") == ["out.zip", "bomb.zip", "cut.zip", "2.jpg"]
    assert "'../evil.jpg'" in reason("out.zip")
    assert "bomb.zip may hold" in reason("bomb.zip")
    assert "must be a complete zip archive" in reason("cut.zip")


def test_an_argument_without_photographs_is_reported() -> None:
    """An argument without photographs gives one photograph that cannot be read."""
    Path("empty").mkdir()
    pack("empty.zip", "notes.txt")
    for argument in ("empty", "empty.zip", "none*.jpg"):
        assert reason(argument) == "no photographs there"
    for argument in ("none.jpg", "", "2.jpg/1.jpg", "x" * 300):
        with inputs.photographs([argument]) as ([photograph], _), pytest.raises(OSError, match=r"\[Errno"):
            photograph.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_reported() -> None:
    """A folder without read permission gives one photograph that cannot be read."""
    Path("photos/more").chmod(0)
    try:
        assert names_of("photos")[-1] == "photos/more"
    finally:
        Path("photos/more").chmod(0o755)


def test_links_and_pipes_in_a_folder_are_safe() -> None:
    """A link to a parent folder is not followed, a named pipe is skipped, a link to a file is read."""
    Path("photos/more/loop").symlink_to(Path("photos").resolve())
    os.mkfifo("photos/pipe.jpg")
    Path("photos/z.jpg").symlink_to("nowhere.jpg")
    assert names_of("photos") == ["photos/a.jpg", "photos/b.PNG", "photos/z.jpg", "photos/more/c.webp"]


@pytest.mark.reliability(
    "photographs",
    "named pipes, sockets and devices among the photographs to predict, also behind links",
    "skipped and counted; named directly, reported in one line",
)
@pytest.mark.timeout(20)
def test_files_that_may_never_end_are_not_opened() -> None:
    """Named pipes and devices are skipped in folders and patterns, and reported if an argument names them."""
    os.mkfifo("photos/pipe.jpg")
    Path("photos/link.jpg").symlink_to("pipe.jpg")
    Path("photos/zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("photos/socket.jpg")
        assert names_of("photos/*.[jp]*") == ["photos/a.jpg"]
        assert skipped("photos/*.[jp]*") == "4 named pipe or device"
        assert skipped("photos") == "4 named pipe or device, 3 hidden, 1 .txt"
        for name in ("photos/pipe.jpg", "photos/link.jpg", "photos/zero.png", "photos/socket.jpg"):
            assert reason(name) == (
                "a named pipe or device, which may never end; use `-` to read a photograph from standard input"
            )


@pytest.mark.timeout(20)
def test_a_file_that_became_a_pipe_is_not_read() -> None:
    """A photograph that is replaced by a named pipe after it was found is reported."""
    with inputs.photographs(["2.jpg"]) as ([photograph], _):
        Path("2.jpg").unlink()
        os.mkfifo("2.jpg")
        with pytest.raises(DataError, match="a named pipe or device"):
            photograph.read()


def test_skipped_files_are_counted_by_extension() -> None:
    """Every file of a folder or archive that is not predicted is counted, by its extension or kind."""
    for name in ("photos/1.PSD", "photos/2.psd", "photos/README", "photos/.DS_Store"):
        write(name)
    Path("photos/more/loop").symlink_to(Path("photos").resolve())
    kinds = ["1 .txt", "1 linked folder", "1 without an extension", "2 .psd", "4 hidden"]
    assert sorted(skipped("photos").split(", ")) == kinds
    pack("some.zip", "1.jpg", "notes.txt", "__MACOSX/1.jpg", ".x.jpg", "empty/", "a.psd")
    assert sorted(skipped("some.zip").split(", ")) == ["1 .psd", "1 .txt", "2 hidden"]
    assert skipped("2.jpg", "photos/*.jpg") == ""


def test_many_kinds_of_skipped_files_are_summed_up() -> None:
    """The most frequent eight extensions are listed."""
    counts = Counter({f".{number}": number for number in range(1, 11)})
    assert inputs.skipped_text(counts) == "10 .10, 9 .9, 8 .8, 7 .7, 6 .6, 5 .5, 4 .4, 3 .3, 3 others"


def test_standard_input_is_one_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads the bytes of one photograph from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photo")))
    with inputs.photographs(["-"]) as ([photograph], _):
        assert (photograph.name, photograph.error) == ("-", None)
        assert photograph.read() == b"photo"


def test_a_file_above_the_limit_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is larger than the limit is refused; no more than the limit is read."""
    monkeypatch.setattr(decoding, "MAX_BYTES", 4)
    assert reason("2.jpg") == "larger than 0 MiB"
