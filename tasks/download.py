"""Download: put an archive of labelled photographs at `artifacts/download/photos.zip`."""

import io
import logging
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple

from pydantic import Field

from transfer.runtime import disk, files, params, paths
from transfer.runtime.errors import DataError
from transfer.sources import archives, http, inbox, kaggle, layouts, synthetic
from transfer.sources.http import Checksum

log = logging.getLogger(__name__)

STAGE = "download"
MICROSOFT = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
)
MICROSOFT_BYTES = 824_887_076
MICROSOFT_SHA256 = Checksum("sha256", "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9")
LABELLED = "train.zip"  # the archive with the labelled photographs in Kaggle's archive

GENERATED_CLASSES = ("cat", "dog")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date in a zip archive
_INBOX_HINT = (
    "Put photographs into one folder per class (`inbox/cats/1.jpg`, `inbox/dogs/1.jpg`), or one zip archive into "
    "`inbox/`, not both and not several."
)


class Generated(params.Section):
    """The pictures of the source `generated`: their number, width and height in pixels, and seed."""

    photographs: int = Field(ge=2, le=1_000_000)
    size: int = Field(ge=16, le=4096)
    seed: int = Field(ge=0)


class Params(params.Section):
    """The source of the photographs, and the limits of their archive."""

    source: Literal["kaggle", "microsoft", "inbox", "generated"]
    limits: archives.Limits
    generated: Generated


class Origin(NamedTuple):
    """A checked archive of photographs, and its origin: a URL, a path relative to the project, or a module."""

    archive: Path
    place: str


def from_kaggle(folder: Path, *, limits: archives.Limits) -> Origin:
    """Download the archive of the competition, and extract the archive of labelled photographs from it.

    Args:
        folder: the folder for complete and partial downloads.
        limits: of each archive.
    """
    target = folder / "kaggle.zip"
    if not http.is_complete(target):
        outer = folder / "kaggle-wrapped.zip"
        kaggle.download(outer)
        with _discard_if_damaged(outer), files.atomic_write(target) as temporary:
            _extract_labelled(outer, temporary, limits=limits)
            _check_layout(temporary)
        http.mark_complete(target)
        http.discard(outer)
    return Origin(target, kaggle.PAGE)


def from_microsoft(
    folder: Path,
    *,
    limits: archives.Limits,
    address: str = MICROSOFT,
    checksum: Checksum = MICROSOFT_SHA256,
    size: int = MICROSOFT_BYTES,
) -> Origin:
    """Download Microsoft's archive of the same photographs; it needs no account.

    Args:
        folder: the folder for complete and partial downloads.
        limits: of the archive.
        address: its URL.
        checksum: of the archive.
        size: of the archive in bytes.
    """
    target = folder / "microsoft.zip"
    http.download(address, target, checksum=checksum, size=size)
    with _discard_if_damaged(target):
        archives.check(target, limits=limits)
    return Origin(target, address)


def from_inbox(folder: Path, target: Path, *, limits: archives.Limits) -> Origin:
    """Pack the user's photographs in class folders into an archive, or copy the user's archive.

    Args:
        folder: the inbox, with the class folders or the archive.
        target: the path of the new archive.
        limits: of the user's archive.

    Raises:
        DataError: the inbox is empty, or has several archives, or both folders and an archive; a folder is a link, or
            a file is not a regular one; the layout is unknown; or the archive is damaged, hostile or too large.
    """
    content = inbox.scan(folder)
    visible = [path for path in content.files if not archives.is_hidden(path)]
    zips = [folder / path for path in visible if len(path.parts) == 1 and path.suffix.lower() == ".zip"]
    photographs = [path for path in visible if archives.is_photograph(path)]
    if len(zips) + bool(photographs) != 1:
        received = [*zips, *sorted({(folder / path).parent for path in photographs})]
        raise DataError(f"{_INBOX_HINT} Received: {_join(received) or _describe_content(folder)}.")
    if zips:
        _extract_labelled(zips[0], target, limits=limits)
        return Origin(target, zips[0].as_posix())
    left_out = layouts.arrange(content.files, content.folders).left_out
    with disk.space_for({target.parent: sum((folder / path).stat().st_size for path in photographs)}):
        members = ((str(path), inbox.open_file(folder / path)) for path in photographs)
        _pack(target, members, comment=layouts.encode_counts(left_out))
    return Origin(target, folder.as_posix())


def from_drawings(generated: Generated, target: Path) -> Origin:
    """Draw synthetic pictures of two classes into an archive."""
    _pack(target, _draw(generated))
    return Origin(target, synthetic.__name__)


def main() -> None:
    """Get the archive from the chosen source, and write `photos.zip` and `source.json`."""
    settings = params.load(STAGE, Params)
    target = paths.artifact(STAGE, "photos.zip")
    with files.atomic_write(target) as temporary:
        origin = _get(settings, temporary)
        _check_layout(origin.archive)
        if origin.archive != temporary:
            files.link(origin.archive, temporary)
    description = {
        "source": settings.source,
        "from": origin.place,
        "bytes": target.stat().st_size,
        "sha256": files.sha256(target),
    }
    files.write_json(paths.artifact(STAGE, "source.json"), description)


def _get(settings: Params, target: Path) -> Origin:
    """Get the archive from the chosen source; sources that need no cache write it to `target`."""
    limits = settings.limits
    try:
        match settings.source:
            case "kaggle":
                return from_kaggle(paths.cache(STAGE), limits=limits)
            case "microsoft":
                return from_microsoft(paths.cache(STAGE), limits=limits)
            case "inbox":
                return from_inbox(paths.INBOX, target, limits=limits)
            case "generated":
                return from_drawings(settings.generated, target)
    except archives.LimitExceeded as error:
        raise DataError(f"{error} If you trust it, raise `{STAGE}.limits` in {paths.PARAMS} instead.") from None


@contextmanager
def _discard_if_damaged(archive: Path) -> Iterator[None]:
    """Discard a downloaded archive if the block finds it damaged, so that the next run downloads it again."""
    try:
        yield
    except archives.LimitExceeded:  # the archive is not damaged, and larger limits accept it
        raise
    except DataError:
        http.discard(archive)
        raise


def _extract_labelled(archive: Path, target: Path, *, limits: archives.Limits) -> None:
    """Extract the archive of labelled photographs from Kaggle's archive, or copy any other archive.

    Raises:
        DataError: an archive is damaged, hostile or too large.
        DiskError: the disk has too little space, or fails.
    """
    archives.check(archive, limits=limits)
    with archives.open_archive(archive) as outer:
        members = [member for member in outer.infolist() if not member.is_dir()]
        labelled = [member for member in members if PurePosixPath(member.filename).name == LABELLED]
        if len(labelled) != 1:
            with disk.space_for({target.parent: archive.stat().st_size}):
                _copy(archive, target)
            return
        name = f"{archive.name}/{labelled[0].filename}"
        archives.unpack(outer, labelled[0], target, limits=limits, name=name)
    archives.check(target, limits=limits, name=name)


def _copy(archive: Path, target: Path) -> None:
    with files.open_regular(archive) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _check_layout(archive: Path) -> None:
    with archives.open_archive(archive) as photographs:
        layout = layouts.read(photographs)
    if line := layout.describe():
        log.info("%s", line)


def _describe_content(folder: Path) -> str:
    names = _join(sorted(path for path in folder.glob("*") if not path.name.startswith(".")))
    return f"no photographs, only {names}" if names else f"an empty `{folder.as_posix()}/`"


def _join(names: list[Path]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"`{path.as_posix()}`" for path in names[:5]) + more


def _draw(generated: Generated) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name and the content of each synthetic picture, class by class."""
    for number, class_name in enumerate(GENERATED_CLASSES):
        for index in range((generated.photographs + 1 - number) // len(GENERATED_CLASSES)):
            picture = synthetic.draw(class_name, index, size=generated.size, seed=generated.seed)
            yield f"{class_name}/{index:06}.jpg", io.BytesIO(picture)


def _pack(target: Path, members: Iterable[tuple[str, IO[bytes]]], *, comment: bytes = b"") -> None:
    """Write an archive, the same bytes for the same members; it is not compressed, as photographs hardly shrink.

    Args:
        target: the path of the archive.
        members: the name and the content of each member; the content is closed after it is read.
        comment: of the archive.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, content in members:
            with content:
                _add(archive, name, content)


def _add(archive: zipfile.ZipFile, name: str, content: IO[bytes]) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.file_size = content.seek(0, io.SEEK_END)
    content.seek(0)
    try:
        with archive.open(member, "w") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    except UnicodeEncodeError:
        raise DataError(f"A file's name must be UTF-8. Received: {name!r}. Rename the file.") from None
