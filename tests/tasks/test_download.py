import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ruamel.yaml import YAML

from tasks import download
from tests import disks
from tests.servers import SIGNATURE, TOKEN, Fault, StandIn, serve
from transfer.runtime.errors import DataError
from transfer.runtime.params import parse
from transfer.sources import archives, kaggle
from transfer.sources.http import Checksum

ROOT = Path(__file__).parents[2]
PARAMS = """
download:
  source: {source}
  limits: {{members: 50, gigabytes: 0.001, expansion: 100}}
  generated: {{photographs: 11, size: 32, seed: 0}}
"""
DAMAGED = pytest.mark.reliability("archives", "damaged: one byte changed in a member", "refused with the member's name")
LIMITS = archives.Limits(members=50, gigabytes=0.001, expansion=100)
Run = Callable[..., "CompletedProcess[str]"]


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


PHOTOGRAPHS = {f"train/{name}.{number}.jpg": os.urandom(9_000) for name in ("cat", "dog") for number in range(5)}
TRAIN = _zip(PHOTOGRAPHS)
OUTER = {"test1.zip": _zip({"test1/1.jpg": b"?"}), "train.zip": TRAIN, "sampleSubmission.csv": b"id,label\n"}
KAGGLE = _zip(OUTER)
MICROSOFT = _zip(
    {"PetImages/Cat/0.jpg": os.urandom(9_000), "PetImages/Dog/0.jpg": b"", "PetImages/Dog/Thumbs.db": b"?"}
)


@pytest.fixture(name="workspace")
def _workspace(tmp_path: Path) -> Path:
    workspace = tmp_path / "a project"
    workspace.mkdir()
    return workspace


@pytest.fixture(name="run")
def _run(workspace: Path) -> Run:
    def run(
        source: str, params: str = PARAMS, on: disks.Disk | None = None, **environment: str
    ) -> "CompletedProcess[str]":
        ((on.path if on else workspace) / "params.yaml").write_text(params.format(source=source), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "DOGS_VS_CATS"))}
        return subprocess.run(
            [*(on.entering if on else []), sys.executable, "-m", "tasks", "download"],
            cwd=workspace,
            env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(workspace.parent / "home")} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(KAGGLE) as server:
        yield server


def _photos(workspace: Path) -> Path:
    return workspace / "artifacts" / "download" / "photos.zip"


def _names(workspace: Path) -> list[str]:
    with zipfile.ZipFile(_photos(workspace)) as archive:
        return archive.namelist()


def _source(workspace: Path) -> dict[str, object]:
    source: dict[str, object] = json.loads((workspace / "artifacts" / "download" / "source.json").read_bytes())
    return source


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _refused(done: "CompletedProcess[str]", code: int, *words: str) -> None:
    last = done.stderr.splitlines()[-1]
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in last for word in words), last


def test_generated(run: Run, workspace: Path) -> None:
    """Drawings of two classes, as many as asked for, the same bytes each time, with their description."""
    assert run("generated").returncode == 0
    first = _photos(workspace).read_bytes()
    names = _names(workspace)
    assert (len(names), sum(name.startswith("circle/") for name in names)) == (11, 6)
    digest = hashlib.sha256(first).hexdigest()
    assert _source(workspace) == {
        "source": "generated",
        "from": "transfer.sources.synthetic",
        "bytes": len(first),
        "sha256": digest,
    }
    assert run("generated").returncode == 0
    assert _photos(workspace).read_bytes() == first
    assert sorted(path.name for path in _photos(workspace).parent.iterdir()) == ["photos.zip", "source.json"]


def test_folders_in_the_inbox(run: Run, workspace: Path) -> None:
    """Class folders become an archive that does not depend on dates; what is no photograph stays out."""
    _fill(workspace / "inbox", "cats/1.jpg", "cats/b.PNG", "dogs/1.jpg")
    _fill(workspace / "inbox", "README.md", "vgg16.h5", ".hidden.jpg", "dogs/.x.jpg", "dogs/notes.txt")
    assert run("inbox").returncode == 0
    assert _names(workspace) == ["cats/1.jpg", "cats/b.PNG", "dogs/1.jpg"]
    assert _source(workspace)["from"] == "inbox"
    first = _photos(workspace).read_bytes()
    os.utime(workspace / "inbox" / "cats" / "1.jpg", (1, 1))
    assert run("inbox").returncode == 0
    assert _photos(workspace).read_bytes() == first


@pytest.mark.reliability(
    "photographs", "a class folder in the inbox that is a link", "65 with its name: DVC would see no change in it"
)
def test_linked_folders_in_the_inbox(run: Run, workspace: Path) -> None:
    """A class folder must be one, or photographs that are added to it would never be noticed."""
    _fill(workspace.parent / "elsewhere", "1.jpg")
    _fill(workspace / "inbox", "dogs/1.jpg")
    (workspace / "inbox" / "cats").symlink_to(workspace.parent / "elsewhere", target_is_directory=True)
    _refused(run("inbox"), 65, "Received: the link `inbox/cats`", "Move or copy the folder there")


def test_an_inbox_that_is_a_link(run: Run, workspace: Path) -> None:
    """The inbox, archives and photographs may be links to where they are: DVC looks behind those."""
    _fill(workspace.parent, "elsewhere/cats/1.jpg", "elsewhere/dogs/1.jpg", "2.jpg")
    (workspace / "inbox").symlink_to(workspace.parent / "elsewhere", target_is_directory=True)
    (workspace / "inbox/dogs/2.jpg").symlink_to(workspace.parent / "2.jpg")
    assert run("inbox").returncode == 0
    assert _names(workspace) == ["cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg"]


@pytest.mark.parametrize(
    ("archive", "photos"),
    [
        (KAGGLE, TRAIN),
        (_zip(OUTER, zipfile.ZIP_DEFLATED), TRAIN),
        (_zip({f"dogs-vs-cats/{name}": data for name, data in OUTER.items()}), TRAIN),
        (TRAIN, TRAIN),
        (MICROSOFT, MICROSOFT),
    ],
    ids=["kaggle", "kaggle compressed", "kaggle in a folder", "kaggle unwrapped", "microsoft"],
)
def test_archive_in_the_inbox(run: Run, workspace: Path, archive: bytes, photos: bytes) -> None:
    """An archive is taken as it is; of Kaggle's, the labelled photographs. The user's own file is left alone."""
    (workspace / "inbox").mkdir()
    (workspace / "inbox" / "my photos.ZIP").write_bytes(archive)
    assert run("inbox").returncode == 0
    assert _photos(workspace).read_bytes() == photos
    assert _source(workspace)["from"] == "inbox/my photos.ZIP"
    assert not _photos(workspace).samefile(workspace / "inbox" / "my photos.ZIP")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ["inbox/cats/1.jpg", "an empty `inbox/`"]),
        (["README.md", "cats/1.txt"], ["no photographs", "`inbox/README.md`"]),
        (["cats/1.jpg"], ["two classes or more", "only `cats`"]),
        (["cats/1.jpg", "dogs/1.jpg", "photos.zip"], ["not both", "`inbox/photos.zip`", "`inbox/cats`"]),
        (["a.zip", "b.zip"], ["not several", "`inbox/a.zip`", "`inbox/b.zip`"]),
        (["photos.zip"], ["photos.zip must be a whole zip archive", "10 bytes"]),
        (["cats/1.jpg", "dogs/1.jpg", "1.jpg"], ["`1.jpg`"]),
        (["a/b/cats/1.jpg", "a/b/dogs/1.jpg"], ["`a/b/cats/1.jpg`"]),
    ],
)
def test_unusable_inbox(run: Run, workspace: Path, names: list[str], words: list[str]) -> None:
    """An inbox that tells no two classes is refused with what was found and what to do, and leaves nothing."""
    _fill(workspace / "inbox", *names)
    _refused(run("inbox"), 65, *words)
    assert not _photos(workspace).exists()


@pytest.mark.reliability(
    "archives", "Kaggle's archive without train.zip", "refused with what is in it, and fetched again by the next run"
)
def test_kaggles_archive_without_train_zip(run: Run, workspace: Path, server: StandIn) -> None:
    """An archive without the labelled photographs is not kept, wherever it comes from."""
    server.body = _zip({name: data for name, data in OUTER.items() if name != "train.zip"})
    words = "`train.zip`", "1 of .zip (`test1.zip`), 1 of .csv (`sampleSubmission.csv`)"
    _refused(run("kaggle", **server.environment), 65, *words)
    (workspace / "inbox").mkdir()
    (workspace / "inbox" / "all.zip").write_bytes(server.body)
    _refused(run("inbox"), 65, *words)
    server.body = KAGGLE
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN


@pytest.mark.reliability(
    "archives",
    "a bomb: too many members, or few bytes that unpack to many",
    "refused before it is unpacked, with the limits of `download.limits` and what was found",
)
def test_more_than_the_limits_allow(run: Run, workspace: Path) -> None:
    """A bomb within an archive ends the stage with 65, its name and the param that would let it pass."""
    bomb = _zip({"cat/1.jpg": bytes(2_000_000), "dog/1.jpg": b""}, zipfile.ZIP_DEFLATED)
    (workspace / "inbox").mkdir()
    (workspace / "inbox" / "all.zip").write_bytes(_zip({"train.zip": bomb}))
    words = "all.zip/train.zip may hold 50 members", "2 members", "unpack to 2,000,000", "raise `download.limits`"
    _refused(run("inbox"), 65, *words)
    assert list((workspace / "artifacts" / "download").iterdir()) == []


def test_the_real_archives_are_within_the_limits() -> None:
    """The limits of params.yaml let Kaggle's and Microsoft's archives pass, ten times over."""
    section = YAML(typ="safe").load(ROOT / "params.yaml")["download"]
    limits = parse("download", section, download.Params).limits
    assert limits.members > 25_000 * 2
    assert limits.gigabytes * 1e9 > download.MICROSOFT_BYTES * 10
    assert limits.expansion > 10


@DAMAGED
def test_damaged_archive_within_an_archive(run: Run, workspace: Path) -> None:
    """A damaged train.zip in Kaggle's archive is named as the user would find it."""
    (workspace / "inbox").mkdir()
    damaged = TRAIN[:5000] + b"!?!?" + TRAIN[5004:]
    (workspace / "inbox" / "all.zip").write_bytes(_zip(OUTER | {"train.zip": damaged}))
    done = run("inbox")
    _refused(done, 65, "all.zip/train.zip must be a whole zip archive")
    assert ".photos.zip" not in done.stderr


def test_failure_leaves_the_earlier_photographs(run: Run, workspace: Path) -> None:
    """What an earlier run left is still whole after a run that fails."""
    assert run("generated").returncode == 0
    first = _photos(workspace).read_bytes()
    _refused(run("inbox"), 65)
    assert _photos(workspace).read_bytes() == first


def test_kaggle(run: Run, workspace: Path, server: StandIn) -> None:
    """Kaggle's labelled photographs arrive, a second run needs neither network nor account."""
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN
    assert _source(workspace)["from"] == kaggle.PAGE
    before = len(server.requests)
    assert run("kaggle").returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN
    assert len(server.requests) == before


@pytest.mark.reliability(
    "network",
    "trouble, with a token or a signed address at hand",
    "neither is in any line, message, traceback, artifact or file",
)
def test_kaggle_keeps_secrets(run: Run, workspace: Path, server: StandIn) -> None:
    """Neither the token nor the signature of an address appear in files or messages, in success or trouble."""
    server.faults = [Fault(), Fault(cut_after=70_000)]
    done = run("kaggle", **server.environment)
    assert done.returncode == 0
    server.faults = [Fault(), Fault(status=404)]
    failed = run("kaggle", DOGS_VS_CATS_CACHE="other", **server.environment)
    _refused(failed, 65, "status 404")
    said = f"{done.stdout}{done.stderr}{failed.stdout}{failed.stderr}".encode()
    written = b"".join(path.read_bytes() for path in workspace.parent.rglob("*") if path.is_file())
    for secret in (TOKEN.encode(), SIGNATURE.encode()):
        assert secret not in said + written


@DAMAGED
@pytest.mark.reliability(
    "network",
    "an archive of the right size with a changed byte",
    "ends with 65; nothing is kept, so that the next run starts anew",
)
def test_damaged_kaggle_archive(run: Run, workspace: Path, server: StandIn) -> None:
    """An archive of the right size with a changed byte is refused, and fetched again by the next run."""
    server.body = KAGGLE.replace(TRAIN, TRAIN[:5000] + b"!?!?" + TRAIN[5004:])
    _refused(run("kaggle", **server.environment), 65, "whole zip archive", "train.zip")
    assert not _photos(workspace).exists()
    server.body = KAGGLE
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN


def test_kaggle_mends_its_archive(run: Run, workspace: Path, server: StandIn) -> None:
    """An archive that arrived as Kaggle has it, but with a damaged train.zip in it, is not kept either."""
    server.body = _zip(OUTER | {"train.zip": TRAIN[:5000] + b"!?!?" + TRAIN[5004:]})
    _refused(run("kaggle", **server.environment), 65, "whole zip archive", "train.zip")
    server.body = KAGGLE
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN


@pytest.mark.reliability(
    "network", "no credentials", "ends with 77; the ways to give them and the sources without an account are named"
)
def test_no_credentials(run: Run) -> None:
    """Without credentials the stage ends with 77 and names the ways to give them and the sources without."""
    _refused(run("kaggle"), 77, "KAGGLE_API_TOKEN", "~/.kaggle/kaggle.json", "`microsoft`", "`inbox`", "`generated`")


@pytest.mark.reliability(
    "network",
    "rules not accepted (status 403 of Kaggle)",
    "ends with 77; where to accept them and the sources without an account are named",
)
def test_rules_not_accepted(run: Run, server: StandIn) -> None:
    """A 403 of Kaggle ends the stage with 77 and the page where its rules are accepted."""
    server.api_faults = [Fault(status=403)]
    _refused(run("kaggle", **server.environment), 77, "https://www.kaggle.com/c/dogs-vs-cats/rules", "`microsoft`")


@pytest.mark.reliability("network", "Retry-After of more than two minutes", "ends with 75; the wait is named")
def test_long_pause(run: Run, server: StandIn) -> None:
    """A server that asks for a long pause ends the stage with 75, worth a retry."""
    server.api_faults = [Fault(status=429, headers={"Retry-After": "999"})]
    _refused(run("kaggle", **server.environment), 75, "wait 999 s")


def test_microsoft(server: StandIn, tmp_path: Path) -> None:
    """Microsoft's archive arrives with its checksum compared, is resumed when cut, and is fetched once."""
    server.body = MICROSOFT
    server.faults = [Fault(cut_after=5000)]
    checksum = Checksum("sha256", hashlib.sha256(MICROSOFT).hexdigest())
    from_microsoft = partial(download.from_microsoft, tmp_path, limits=LIMITS, address=server.address)
    for _ in range(2):
        origin = from_microsoft(checksum=checksum, size=len(MICROSOFT))
        assert origin.archive.read_bytes() == MICROSOFT
    assert len(server.gets) == 2


@pytest.mark.reliability(
    "archives", "a fetched archive that is whole, over a limit", "kept: with a higher limit it is not fetched again"
)
def test_what_is_over_a_limit_is_not_fetched_again(server: StandIn, tmp_path: Path) -> None:
    """A limit that is too low costs no second transfer."""
    server.body = MICROSOFT
    checksum = Checksum("sha256", hashlib.sha256(MICROSOFT).hexdigest())
    from_microsoft = partial(download.from_microsoft, tmp_path, address=server.address, checksum=checksum)
    with pytest.raises(archives.LimitExceeded):
        from_microsoft(limits=LIMITS.model_copy(update={"members": 1}), size=len(MICROSOFT))
    from_microsoft(limits=LIMITS, size=len(MICROSOFT))
    assert len(server.gets) == 1


@pytest.mark.reliability("network", "wrong checksum", "ends with 65; nothing is kept, so that the next run starts anew")
def test_another_file_than_microsofts(server: StandIn, tmp_path: Path) -> None:
    """Whatever lies at Microsoft's address now, only the known archive is taken."""
    with pytest.raises(DataError, match=download.MICROSOFT_SHA256.digest):
        download.from_microsoft(tmp_path, limits=LIMITS, address=server.address, size=len(server.body))
    assert not (tmp_path / "microsoft.zip").exists()


@pytest.mark.reliability(
    "network", "another length announced than the known file has", "ends with 65 before a byte is taken"
)
def test_another_size_than_microsofts(server: StandIn, tmp_path: Path) -> None:
    """A file of another size is refused when the server announces it, before it is fetched."""
    with pytest.raises(DataError, match="must be a file of 824,887,076 bytes"):
        download.from_microsoft(tmp_path, limits=LIMITS, address=server.address)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


@pytest.mark.parametrize(
    ("source", "change", "words"),
    [
        ("flickr", ("", ""), ["`download.source`", "'kaggle', 'microsoft', 'inbox' or 'generated'", "'flickr'"]),
        ("inbox", ("11", "1"), ["`download.generated.photographs`", "equal to 2", "Received: 1"]),
        ("inbox", ("50", "0"), ["`download.limits.members`", "equal to 1", "Received: 0"]),
        ("inbox", ("size", "sise"), ["`download.generated.sise`", "not a parameter"]),
    ],
)
def test_wrong_params(run: Run, source: str, change: tuple[str, str], words: list[str]) -> None:
    """Params that are not allowed end the stage with 78: the parameter, what is allowed, what was received."""
    done = run(source, params=PARAMS.replace(*change))
    assert done.returncode == 78
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.reliability("disk", "no room for a download", "exit 74 before a byte is fetched, with what is needed")
def test_no_room_for_a_download(run: Run, tmp_path: Path, server: StandIn) -> None:
    """The server says how long the archive is: the folder and that length are named; with more room it is fetched."""
    server.body = _zip({**OUTER, "more": os.urandom(90_000)})
    with disks.small(tmp_path / "disk", "size=120k") as disk:
        _refused(run("kaggle", on=disk, **server.environment), 74, "The disk of `.cache/download` must have 1")
        assert sum(part.stat().st_size for part in disk.path.glob(".cache/download/*")) == 0
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN


@pytest.mark.reliability("disk", "full in the middle of a download", "exit 74; what arrived is kept; it goes on")
def test_full_in_the_middle_of_a_download(run: Run, tmp_path: Path, server: StandIn) -> None:
    """Of an archive whose length is not known what fits arrives, and with more room only the rest is asked for."""
    server.faults = [Fault(), Fault(headers={"Content-Length": "unknown"})]  # the first to Kaggle's client
    with disks.small(tmp_path / "disk", "size=80k") as disk:
        done = run("kaggle", on=disk, **server.environment)
        _refused(done, 74, "The disk of `.cache/download` must have room", "no space left on device, 0 bytes free")
        assert not _photos(disk.path).exists()
        [kept] = disk.path.glob(".cache/download/*.part")
        assert (arrived := kept.stat().st_size) > 50_000
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN
    assert server.gets[-1].headers["Range"] == f"bytes={arrived}-"


@pytest.mark.reliability("disk", "no room to unwrap a fetched archive", "exit 74 with what is needed; it is kept")
def test_no_room_to_unwrap(run: Run, tmp_path: Path, server: StandIn) -> None:
    """The archive that arrived is not fetched again: the next run begins with it."""
    with disks.small(tmp_path / "disk", "size=120k") as disk:
        _refused(run("kaggle", on=disk, **server.environment), 74, "The disk of `.cache/download` must have 9")
        before = len(server.requests)
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN
    assert len(server.requests) == before


@pytest.mark.reliability("disk", "no room for a copy of the inbox", "exit 74 with what is needed; nothing half is left")
@pytest.mark.parametrize("names", [["all.zip"], ["cats/1.jpg", "dogs/1.jpg"]])
def test_no_room_for_the_inbox(run: Run, tmp_path: Path, names: list[str]) -> None:
    """Photographs on another disk, here linked into the inbox, are copied once there is room for them."""
    for name in names:
        (tmp_path / "elsewhere" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / name).write_bytes(TRAIN)
    with disks.small(tmp_path / "disk", "size=64k") as disk:
        (disk.path / "inbox").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        _refused(run("inbox", on=disk), 74, "The disk of `artifacts/download` must have ", " kB free. Received: ")
        assert list(disk.path.glob("artifacts/download/*")) == []
        disk.mount("remount,size=1m")
        assert run("inbox", on=disk).returncode == 0


def test_import_is_light() -> None:
    """Importing the stage brings in no TensorFlow, no Keras, no Kaggle client, which calls out."""
    code = "import sys, tasks.download; print({'tensorflow', 'keras', 'kaggle'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
