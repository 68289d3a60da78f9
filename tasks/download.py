"""Download: bring an archive of labelled photographs to `artifacts/download/photos.zip`."""

import io
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple

from pydantic import Field

from transfer.runtime import disk, files, params, paths
from transfer.runtime.errors import DataError
from transfer.sources import archives, http, kaggle, layouts, synthetic
from transfer.sources.http import Checksum

STAGE = "download"
MICROSOFT = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
)
MICROSOFT_BYTES = 824_887_076
MICROSOFT_SHA256 = Checksum("sha256", "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9")
LABELLED = "train.zip"  # in Kaggle's archive, the one with the labelled photographs

GENERATED_CLASSES = ("circle", "triangle")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip archive knows


class Generated(params.Section):
    """How the source `generated` draws."""

    photographs: int = Field(ge=2, le=1_000_000)
    size: int = Field(ge=16, le=4096)
    seed: int = Field(ge=0)


class Params(params.Section):
    """Where photographs come from."""

    source: Literal["kaggle", "microsoft", "inbox", "generated"]
    limits: archives.Limits
    generated: Generated


class Origin(NamedTuple):
    """An archive of photographs, checked unless it was made here, and where they came from.

    That is an address, or a path relative to the project.
    """

    archive: Path
    place: str


def from_kaggle(folder: Path, *, limits: archives.Limits) -> Origin:
    """Fetch the competition's archive and unwrap the labelled photographs.

    Args:
        folder: where the archive and what was fetched of it are kept.
        limits: what an archive may hold.
    """
    kept = folder / "kaggle.zip"
    if not http.is_complete(kept):
        wrapped = folder / "kaggle-wrapped.zip"
        kaggle.download(wrapped)
        with _forgotten_if_damaged(wrapped), files.atomic_write(kept) as beside:
            _unwrap(wrapped, beside, limits=limits)
            _refuse_unknown_layout(beside)
        http.mark_complete(kept)
        http.discard(wrapped)
    return Origin(kept, kaggle.PAGE)


def from_microsoft(
    folder: Path,
    *,
    limits: archives.Limits,
    address: str = MICROSOFT,
    checksum: Checksum = MICROSOFT_SHA256,
    size: int = MICROSOFT_BYTES,
) -> Origin:
    """Fetch Microsoft's archive of the same photographs; it needs no account.

    Args:
        folder: where the archive and what was fetched of it are kept.
        limits: what an archive may hold.
        address: where it lies.
        checksum: what it must be.
        size: its bytes; another file is refused before it is fetched.
    """
    kept = folder / "microsoft.zip"
    http.download(address, kept, checksum=checksum, size=size)
    with _forgotten_if_damaged(kept):
        archives.check(kept, limits=limits)
    return Origin(kept, address)


def from_inbox(inbox: Path, target: Path, *, limits: archives.Limits) -> Origin:
    """Take a user's own photographs: class folders, or the one archive.

    Args:
        inbox: the folder they lie in.
        target: the archive to make.
        limits: what the user's archive may hold.

    Raises:
        DataError: there is nothing, several archives, or both folders and an archive; a folder is a link; or the
            archive is refused.
    """
    zips = sorted(path for path in inbox.glob("*.[zZ][iI][pP]") if not path.name.startswith("."))
    photographs = _photographs(inbox)
    _refuse_linked_folders(inbox, photographs)
    if len(zips) + bool(photographs) != 1:
        received = [*zips, *sorted({path.parent for path in photographs})]
        raise DataError(
            "Put photographs into a folder a class (`inbox/cats/1.jpg`, `inbox/dogs/1.jpg`), or one zip archive into "
            f"`inbox/`, not both and not several. Received: {_names(received) or _contents(inbox)}."
        )
    if zips:
        _unwrap(zips[0], target, limits=limits)
        return Origin(target, zips[0].as_posix())
    with disk.space_for({target.parent: sum(path.stat().st_size for path in photographs)}):
        _pack(target, ((path.relative_to(inbox).as_posix(), path.open("rb")) for path in photographs))
    return Origin(target, inbox.as_posix())


def from_drawings(generated: Generated, target: Path) -> Origin:
    """Draw pictures of two classes."""
    size, seed = generated.size, generated.seed
    _pack(
        target,
        (
            (f"{class_name}/{index:06}.jpg", io.BytesIO(synthetic.draw(class_name, index, size=size, seed=seed)))
            for number, class_name in enumerate(GENERATED_CLASSES)
            for index in range((generated.photographs + 1 - number) // len(GENERATED_CLASSES))
        ),
    )
    return Origin(target, synthetic.__name__)


def main() -> None:
    """Bring the photographs of the chosen source; leave `photos.zip` and `source.json`."""
    settings = params.load(STAGE, Params)
    target = paths.artifact(STAGE, "photos.zip")
    with files.atomic_write(target) as beside:
        with _cure_named():
            origin = _origin(settings, beside)
        _refuse_unknown_layout(origin.archive)
        if origin.archive != beside:
            files.link(origin.archive, beside)
    description = {
        "source": settings.source,
        "from": origin.place,
        "bytes": target.stat().st_size,
        "sha256": files.sha256(target),
    }
    files.write_json(paths.artifact(STAGE, "source.json"), description)


def _origin(settings: Params, target: Path) -> Origin:
    match settings.source:
        case "kaggle":
            return from_kaggle(paths.cache(STAGE), limits=settings.limits)
        case "microsoft":
            return from_microsoft(paths.cache(STAGE), limits=settings.limits)
        case "inbox":
            return from_inbox(paths.INBOX, target, limits=settings.limits)
        case "generated":
            return from_drawings(settings.generated, target)


@contextmanager
def _cure_named() -> Iterator[None]:
    """Have an archive that holds too much for the block refused with the param that would let it pass."""
    try:
        yield
    except archives.LimitExceeded as error:
        raise DataError(f"{error} If you trust it, raise `{STAGE}.limits` in {paths.PARAMS} instead.") from None


@contextmanager
def _forgotten_if_damaged(fetched: Path) -> Iterator[None]:
    """Have an archive that the block refuses fetched anew next time."""
    try:
        yield
    except archives.LimitExceeded:  # which is whole, and let through by other limits
        raise
    except DataError:
        http.discard(fetched)
        raise


def _unwrap(archive: Path, target: Path, *, limits: archives.Limits) -> None:
    """Copy the labelled photographs out of an archive of Kaggle's, or the archive itself if it is no such wrapping.

    Raises:
        DataError: one of both is damaged or hostile, or holds too much.
        DiskError: the disk has no room for it, or refuses.
    """
    archives.check(archive, limits=limits)
    with archives.open_archive(archive) as outer:
        inner = [one for one in outer.infolist() if PurePosixPath(one.filename).name == LABELLED and not one.is_dir()]
        if len(inner) != 1:
            with disk.space_for({target.parent: archive.stat().st_size}):
                shutil.copyfile(archive, target)
            return
        name = f"{archive.name}/{inner[0].filename}"
        archives.unpack(outer, inner[0], target, limits=limits, name=name)
    archives.check(target, limits=limits, name=name)


def _refuse_unknown_layout(archive: Path) -> None:
    with archives.open_archive(archive) as photographs:
        layouts.candidates(photographs)


def _photographs(folder: Path) -> list[Path]:
    """The photographs down to a level deeper than any layout has, so that those are refused and not passed over."""
    return sorted(
        path
        for pattern in ("*", "*/*", "*/*/*", "*/*/*/*")
        for path in folder.glob(pattern)
        if archives.is_photograph(PurePosixPath(path.relative_to(folder))) and path.is_file()
    )


def _refuse_linked_folders(inbox: Path, photographs: Iterable[Path]) -> None:
    """DVC does not look behind them: it would never see that a photograph was added."""
    folders = {inbox / folder for path in photographs for folder in path.relative_to(inbox).parents} - {inbox}
    if linked := sorted(folder for folder in folders if folder.is_symlink()):
        raise DataError(
            "A class folder must be a folder itself, or DVC sees no change in it. "
            f"Received: the link {_names(linked)}. "
            f"Move or copy the folder there; `{inbox.as_posix()}` itself, and an archive, may be links."
        )


def _contents(inbox: Path) -> str:
    names = _names(sorted(path for path in inbox.glob("*") if not path.name.startswith(".")))
    return f"no photographs, only {names}" if names else f"an empty `{inbox.as_posix()}/`"


def _names(found: list[Path]) -> str:
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(f"`{path.as_posix()}`" for path in found[:5]) + more


def _pack(target: Path, members: Iterable[tuple[str, IO[bytes]]]) -> None:
    """Write an archive, the same bytes for the same members; uncompressed, as photographs hardly shrink.

    Args:
        target: where to.
        members: the names and their contents, which are closed when read.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, source in members:
            member = zipfile.ZipInfo(name, _EPOCH)
            with source:
                member.file_size = source.seek(0, io.SEEK_END)
                source.seek(0)
                try:
                    with archive.open(member, "w") as packed:
                        shutil.copyfileobj(source, packed, 1 << 20)
                except UnicodeEncodeError:
                    raise DataError(f"A file's name must be UTF-8. Received: {name!r}. Rename the file.") from None
