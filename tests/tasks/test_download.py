import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ruamel.yaml import YAML

from tasks import __main__ as runner
from tasks import download
from tests import disks
from tests.servers import SIGNATURE, TOKEN, Fault, StandIn, serve
from transfer.runtime.errors import ChangedError, DataError
from transfer.runtime.params import parse
from transfer.sources import archives, inbox, kaggle, layouts
from transfer.sources.http import Checksum

ROOT = Path(__file__).parents[2]
PARAMS = """
download:
  source: {source}
  limits: {{members: 50, gigabytes: 0.001, expansion: 100}}
  generated: {{photographs: 11, size: 32, seed: 0}}
"""
DAMAGED = pytest.mark.reliability(
    "archives", "a changed byte in a member", "exit 65; the message has the name of the member"
)
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
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "DOGS_VS_CATS"))
        }
        return subprocess.run(
            [*(on.entering if on else []), sys.executable, "-m", "tasks", "download"],
            cwd=workspace,
            env=inherited | {"PYTHONPATH": str(ROOT), "HOME": str(workspace.parent / "home")} | environment,
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
    """The archive has the number of pictures in params, of two classes, and the same bytes in each run."""
    assert run("generated").returncode == 0
    first = _photos(workspace).read_bytes()
    names = _names(workspace)
    assert (len(names), sum(name.startswith("cat/") for name in names)) == (11, 6)
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


def test_class_folders_in_the_inbox(run: Run, workspace: Path) -> None:
    """The archive of class folders does not depend on dates, and has photographs only."""
    _fill(workspace / "inbox", "cats/1.jpg", "cats/b.PNG", "dogs/1.jpg")
    _fill(workspace / "inbox", "README.md", "vgg16.h5", ".hidden.jpg", "dogs/.x.jpg", "dogs/notes.txt")
    assert run("inbox").returncode == 0
    assert _names(workspace) == ["cats/1.jpg", "cats/b.PNG", "dogs/1.jpg"]
    assert _source(workspace)["from"] == "inbox"
    first = _photos(workspace).read_bytes()
    os.utime(workspace / "inbox" / "cats" / "1.jpg", (1, 1))
    assert run("inbox").returncode == 0
    assert _photos(workspace).read_bytes() == first


def test_files_that_are_left_out_of_the_inbox_are_counted(run: Run, workspace: Path) -> None:
    """Files of other endings are said in one line, and `subsample` learns their number from the archive."""
    _fill(workspace / "inbox", "home/train/cats/1.jpg", "home/train/dogs/1.jpg", "home/val/cats/1.JPE")
    _fill(workspace / "inbox", "home/val/cats/1.mov", "home/val/cats/2.mov", "home/train/dogs/Thumbs.db")
    done = run("inbox")
    assert done.stderr.splitlines() == [
        "`home/train`, `home/val` are merged, as `split` divides the photographs itself; left out: 2 .mov"
    ]
    with zipfile.ZipFile(_photos(workspace)) as archive:
        layout = layouts.read(archive)
    assert (len(layout.candidates), layout.left_out) == (3, {".mov": 2})


@pytest.mark.reliability(
    "photographs", "a class folder in the inbox is a link", "exit 65; DVC would not notice new photographs in it"
)
def test_linked_class_folder_is_refused(run: Run, workspace: Path) -> None:
    """The message has the link, and the instruction to move or copy the folder."""
    _fill(workspace.parent / "elsewhere", "1.jpg")
    _fill(workspace / "inbox", "dogs/1.jpg")
    (workspace / "inbox" / "cats").symlink_to(workspace.parent / "elsewhere", target_is_directory=True)
    _refused(run("inbox"), 65, "Received: the link `inbox/cats`", "Move or copy the folder there")


@pytest.mark.reliability(
    "photographs", "a pipe, a device or a link to one in the inbox", "exit 65 within seconds; the message has its name"
)
def test_pipe_in_the_inbox(run: Run, workspace: Path) -> None:
    """A pipe named as a photograph is not opened: that would wait for ever."""
    _fill(workspace / "inbox", "cats/1.jpg", "dogs/1.jpg")
    os.mkfifo(workspace / "inbox" / "dogs" / "2.jpg")
    _refused(run("inbox"), 65, "`inbox/dogs/2.jpg`, a pipe")


@pytest.mark.reliability(
    "tampered",
    "a file of the inbox, a parameter, code or an output of an earlier stage changes while a stage runs",
    "exit 75; the change is named, no output is left, and the next run uses the new one",
)
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "change",
    [
        lambda photo: photo.write_bytes(b"another photograph"),
        lambda photo: photo.unlink(),
        lambda photo: photo.with_name("new.jpg").write_bytes(b"a new photograph"),
        lambda photo: (photo.unlink(), photo.mkdir()),
        lambda photo: (photo.unlink(), os.mkfifo(photo)),
        lambda photo: (photo.unlink(), photo.symlink_to("/dev/zero")),
    ],
    ids=["replaced", "removed", "added", "folder", "pipe", "device"],
)
def test_inbox_that_changes_while_it_is_packed(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    """A change after the inbox was checked, also to what never ends when it is read; the next run has the new files."""
    _prepare_inbox(workspace, monkeypatch)
    _fill(workspace / "inbox", "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")
    photo, scan = workspace / "inbox/dogs/2.jpg", inbox.scan

    def scan_and_change(folder: Path) -> inbox.Content:
        content = scan(folder)
        change(photo)
        return content

    monkeypatch.setattr(inbox, "scan", scan_and_change)
    with pytest.raises(ChangedError, match=r"`inbox/` changed .*`inbox/dogs/\w+.jpg`"):
        runner.run("download")
    monkeypatch.setattr(inbox, "scan", scan)
    assert list((workspace / "artifacts/download").iterdir()) == []
    if photo.is_file():
        runner.run("download")
        assert set(_names(workspace)) == {str(path.relative_to("inbox")) for path in Path("inbox").rglob("*.jpg")}


@pytest.mark.reliability(
    "tampered",
    "a file of the inbox, a parameter, code or an output of an earlier stage changes while a stage runs",
    "exit 75; the change is named, no output is left, and the next run uses the new one",
)
def test_archive_that_is_replaced_between_check_and_copy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that was not checked does not become the output, also if it has the size and time of the other."""
    _prepare_inbox(workspace, monkeypatch)
    first, second = (io.BytesIO(), io.BytesIO())
    for file, text in ((first, "one"), (second, "two")):
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("cat/1.jpg", "dog/1.jpg"):
                archive.writestr(zipfile.ZipInfo(name), text)
    target, check = workspace / "inbox/photos.zip", archives.check
    target.parent.mkdir()
    target.write_bytes(first.getvalue())
    status = target.stat()

    def check_and_replace(path: Path, *, limits: archives.Limits, name: str | None = None) -> None:
        check(path, limits=limits, name=name)
        Path("new.zip").write_bytes(second.getvalue())
        os.utime("new.zip", ns=(status.st_atime_ns, status.st_mtime_ns))
        Path("new.zip").replace(target)

    monkeypatch.setattr(archives, "check", check_and_replace)
    with pytest.raises(ChangedError, match=r"`inbox/photos\.zip`"):
        runner.run("download")
    monkeypatch.setattr(archives, "check", check)
    assert list((workspace / "artifacts/download").iterdir()) == []
    runner.run("download")
    assert _photos(workspace).read_bytes() == second.getvalue()


def _prepare_inbox(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the workspace, with the source `inbox` and the project's dvc.yaml."""
    monkeypatch.chdir(workspace)
    shutil.copy(ROOT / "dvc.yaml", workspace)
    Path("params.yaml").write_text(PARAMS.format(source="inbox"), encoding="utf-8")


def test_inbox_may_be_a_link(run: Run, workspace: Path) -> None:
    """The inbox, archives and photographs may be links: DVC follows those."""
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
    """An archive is copied unchanged, or its train.zip if it is Kaggle's; the user's file is not moved or linked."""
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
        (["photos.zip"], ["photos.zip must be a complete zip archive", "10 bytes"]),
        (["cats/1.jpg", "dogs/1.jpg", "1.jpg"], ["`1.jpg`"]),
        (["cats/1.jpg", "dogs/1.jpg", "a/b/c/d/e/1.jpg"], ["`a/b/c/d/e/1.jpg`"]),
        (["cats/1.jpg", "dogs/1.jpg", "birds/1.mov"], ["`birds`", "1 of .mov"]),
    ],
)
def test_unusable_inbox(run: Run, workspace: Path, names: list[str], words: list[str]) -> None:
    """The message about an inbox without two classes has its content and what to do, and no archive is written."""
    _fill(workspace / "inbox", *names)
    _refused(run("inbox"), 65, *words)
    assert not _photos(workspace).exists()


@pytest.mark.reliability(
    "archives",
    "Kaggle's archive without train.zip",
    "exit 65; the message has the files in it, and the next run downloads it again",
)
def test_kaggles_archive_without_train_zip(run: Run, workspace: Path, server: StandIn) -> None:
    """An archive without labelled photographs is refused, from Kaggle and from the inbox."""
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
    "exit 65 before it is unpacked; the message has the limits of `download.limits` and the sizes",
)
def test_archive_over_the_limits(run: Run, workspace: Path) -> None:
    """The message about a bomb in an archive has its name, and the parameter that would allow it."""
    bomb = _zip({"cat/1.jpg": bytes(2_000_000), "dog/1.jpg": b""}, zipfile.ZIP_DEFLATED)
    (workspace / "inbox").mkdir()
    (workspace / "inbox" / "all.zip").write_bytes(_zip({"train.zip": bomb}))
    words = (
        "all.zip/train.zip may hold at most 50 members",
        "2 members",
        "unpack to 2,000,000",
        "raise `download.limits`",
    )
    _refused(run("inbox"), 65, *words)
    assert list((workspace / "artifacts" / "download").iterdir()) == []


def test_default_limits_allow_the_real_archives() -> None:
    """The limits in params.yaml are above those of the archives of Kaggle and Microsoft."""
    section = YAML(typ="safe").load(ROOT / "params.yaml")["download"]
    limits = parse("download", section, download.Params).limits
    assert limits.members > 25_000 * 2
    assert limits.gigabytes * 1e9 > download.MICROSOFT_BYTES * 10
    assert limits.expansion > 10


@DAMAGED
def test_damaged_archive_in_an_archive(run: Run, workspace: Path) -> None:
    """The message about a damaged train.zip has the name of the outer archive, not a temporary path."""
    (workspace / "inbox").mkdir()
    damaged = TRAIN[:5000] + b"!?!?" + TRAIN[5004:]
    (workspace / "inbox" / "all.zip").write_bytes(_zip(OUTER | {"train.zip": damaged}))
    done = run("inbox")
    _refused(done, 65, "all.zip/train.zip must be a complete zip archive")
    assert ".photos.zip" not in done.stderr


def test_failure_keeps_the_earlier_archive(run: Run, workspace: Path) -> None:
    """A run that fails does not change the archive of an earlier run."""
    assert run("generated").returncode == 0
    first = _photos(workspace).read_bytes()
    _refused(run("inbox"), 65)
    assert _photos(workspace).read_bytes() == first


def test_kaggle(run: Run, workspace: Path, server: StandIn) -> None:
    """The labelled photographs are downloaded, and a second run needs neither network nor account."""
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN
    assert _source(workspace)["from"] == kaggle.PAGE
    before = len(server.requests)
    assert run("kaggle").returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN
    assert len(server.requests) == before


@pytest.mark.reliability(
    "network",
    "an error while a token or a signed URL is used",
    "neither is in any line, message, traceback, artifact or file",
)
def test_secrets_of_kaggle_are_not_shown(run: Run, workspace: Path, server: StandIn) -> None:
    """Neither the token nor the signature of the URL is in a file or a message, after a success or an error."""
    server.faults = [Fault(), Fault(cut_after=70_000)]
    done = run("kaggle", **server.environment)
    assert done.returncode == 0
    server.faults = [Fault(), Fault(status=404)]
    failed = run("kaggle", DOGS_VS_CATS_CACHE="other", **server.environment)
    _refused(failed, 65, "status 404")
    output = f"{done.stdout}{done.stderr}{failed.stdout}{failed.stderr}".encode()
    content = b"".join(path.read_bytes() for path in workspace.parent.rglob("*") if path.is_file())
    for secret in (TOKEN.encode(), SIGNATURE.encode()):
        assert secret not in output + content


@DAMAGED
@pytest.mark.reliability(
    "network",
    "an archive of the correct size with a changed byte",
    "exit 65; nothing is kept, so that the next run starts anew",
)
def test_damaged_archive_of_kaggle(run: Run, workspace: Path, server: StandIn) -> None:
    """An archive of the correct size with a changed byte is refused, and the next run downloads it again."""
    server.body = KAGGLE.replace(TRAIN, TRAIN[:5000] + b"!?!?" + TRAIN[5004:])
    _refused(run("kaggle", **server.environment), 65, "complete zip archive", "train.zip")
    assert not _photos(workspace).exists()
    server.body = KAGGLE
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN


def test_damaged_train_zip_of_kaggle(run: Run, workspace: Path, server: StandIn) -> None:
    """An undamaged archive with a damaged train.zip in it is refused, and the next run downloads it again."""
    server.body = _zip(OUTER | {"train.zip": TRAIN[:5000] + b"!?!?" + TRAIN[5004:]})
    _refused(run("kaggle", **server.environment), 65, "complete zip archive", "train.zip")
    server.body = KAGGLE
    assert run("kaggle", **server.environment).returncode == 0
    assert _photos(workspace).read_bytes() == TRAIN


@pytest.mark.reliability(
    "network",
    "no credentials",
    "exit 77; the message has the ways to provide them, and the sources without an account",
)
def test_no_credentials(run: Run) -> None:
    """The message has the ways to provide credentials, and the sources without an account."""
    _refused(run("kaggle"), 77, "KAGGLE_API_TOKEN", "~/.kaggle/kaggle.json", "`microsoft`", "`inbox`", "`generated`")


@pytest.mark.reliability(
    "network",
    "the rules of the competition are not accepted (status 403 of Kaggle)",
    "exit 77; the message has the page to accept them, and the sources without an account",
)
def test_rules_not_accepted(run: Run, server: StandIn) -> None:
    """The message about status 403 of Kaggle has the page to accept the rules."""
    server.api_faults = [Fault(status=403)]
    _refused(run("kaggle", **server.environment), 77, "https://www.kaggle.com/c/dogs-vs-cats/rules", "`microsoft`")


@pytest.mark.reliability("network", "Retry-After of more than two minutes", "exit 75; the message has the seconds")
def test_long_retry_after(run: Run, server: StandIn) -> None:
    """A server that asks to wait longer than two minutes ends the stage with 75."""
    server.api_faults = [Fault(status=429, headers={"Retry-After": "999"})]
    _refused(run("kaggle", **server.environment), 75, "wait 999 s")


def test_microsoft(server: StandIn, tmp_path: Path) -> None:
    """A cut download of Microsoft's archive is resumed, its checksum compared, and a second call sends no request."""
    server.body = MICROSOFT
    server.faults = [Fault(cut_after=5000)]
    checksum = Checksum("sha256", hashlib.sha256(MICROSOFT).hexdigest())
    from_microsoft = partial(download.from_microsoft, tmp_path, limits=LIMITS, address=server.address)
    for _ in range(2):
        origin = from_microsoft(checksum=checksum, size=len(MICROSOFT))
        assert origin.archive.read_bytes() == MICROSOFT
    assert len(server.gets) == 2


@pytest.mark.reliability(
    "archives", "a complete downloaded archive exceeds a limit", "kept; with a higher limit it is not downloaded again"
)
def test_archive_over_a_limit_is_not_downloaded_again(server: StandIn, tmp_path: Path) -> None:
    """A limit that is too low does not cause a second download."""
    server.body = MICROSOFT
    checksum = Checksum("sha256", hashlib.sha256(MICROSOFT).hexdigest())
    from_microsoft = partial(download.from_microsoft, tmp_path, address=server.address, checksum=checksum)
    with pytest.raises(archives.LimitExceeded):
        from_microsoft(limits=LIMITS.model_copy(update={"members": 1}), size=len(MICROSOFT))
    from_microsoft(limits=LIMITS, size=len(MICROSOFT))
    assert len(server.gets) == 1


@pytest.mark.reliability("network", "a wrong checksum", "exit 65; nothing is kept, so that the next run starts anew")
def test_another_archive_at_microsofts_url(server: StandIn, tmp_path: Path) -> None:
    """Only the archive with the known checksum is accepted."""
    with pytest.raises(DataError, match=download.MICROSOFT_SHA256.digest):
        download.from_microsoft(tmp_path, limits=LIMITS, address=server.address, size=len(server.body))
    assert not (tmp_path / "microsoft.zip").exists()


@pytest.mark.reliability("network", "a Content-Length other than the known size", "exit 65 before a byte is downloaded")
def test_another_size_at_microsofts_url(server: StandIn, tmp_path: Path) -> None:
    """A file of another size is refused before it is downloaded."""
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
    """The message about a wrong parameter has its name, the allowed values and the received one; exit 78."""
    done = run(source, params=PARAMS.replace(*change))
    assert done.returncode == 78
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.reliability(
    "disk", "too little space for a download", "exit 74 before a byte is downloaded; the message has the size"
)
def test_too_little_space_for_a_download(run: Run, tmp_path: Path, server: StandIn) -> None:
    """The announced size is compared with the free space; with more space the archive is downloaded."""
    server.body = _zip({**OUTER, "more": os.urandom(90_000)})
    with disks.small(tmp_path / "disk", "size=120k") as disk:
        _refused(run("kaggle", on=disk, **server.environment), 74, "The disk of `.cache/download` must have 1")
        assert sum(part.stat().st_size for part in disk.path.glob(".cache/download/*")) == 0
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN


@pytest.mark.reliability(
    "disk", "full during a download", "exit 74; the partial file is kept, and the next run resumes it"
)
def test_full_during_a_download(run: Run, tmp_path: Path, server: StandIn) -> None:
    """Without an announced size the download fills the disk; with more space only the missing bytes are requested."""
    server.faults = [Fault(), Fault(headers={"Content-Length": "unknown"})]  # the first is for Kaggle's client
    with disks.small(tmp_path / "disk", "size=80k") as disk:
        done = run("kaggle", on=disk, **server.environment)
        _refused(done, 74, "The disk of `.cache/download` must have space", "no space left on device, 0 bytes free")
        assert not _photos(disk.path).exists()
        [part] = disk.path.glob(".cache/download/*.part")
        assert (received := part.stat().st_size) > 50_000
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN
    assert server.gets[-1].headers["Range"] == f"bytes={received}-"


@pytest.mark.reliability(
    "disk", "too little space to unpack a downloaded archive", "exit 74 with the size; the archive is kept"
)
def test_too_little_space_to_unpack(run: Run, tmp_path: Path, server: StandIn) -> None:
    """The downloaded archive is not downloaded again by the next run."""
    with disks.small(tmp_path / "disk", "size=120k") as disk:
        _refused(run("kaggle", on=disk, **server.environment), 74, "The disk of `.cache/download` must have 9")
        before = len(server.requests)
        disk.mount("remount,size=1m")
        assert run("kaggle", on=disk, **server.environment).returncode == 0
        assert _photos(disk.path).read_bytes() == TRAIN
    assert len(server.requests) == before


@pytest.mark.reliability(
    "disk", "too little space for a copy of the inbox", "exit 74 with the size; no partial file is left"
)
@pytest.mark.parametrize("names", [["all.zip"], ["cats/1.jpg", "dogs/1.jpg"]])
def test_too_little_space_for_the_inbox(run: Run, tmp_path: Path, names: list[str]) -> None:
    """Photographs on another disk, with a link in the inbox, are copied when there is enough space."""
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
    """Importing the stage imports neither TensorFlow, Keras nor Kaggle's client, which connects to Kaggle."""
    code = "import sys, tasks.download; print({'tensorflow', 'keras', 'kaggle'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
