"""Subsample: select readable photographs without duplicates, the same number of every class or in proportion."""

import itertools
import json
import logging
import math
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from transfer.images import corrections, filenames, manifest, selection
from transfer.images.corrections import Applied
from transfer.images.manifest import Rejected
from transfer.images.selection import Choice, Finding, Queues, Usable
from transfer.runtime import disk, files, params, paths, progress, seeding
from transfer.runtime.errors import DataError, ParamsError, rerun_hint
from transfer.sources import archives, layouts
from transfer.sources.layouts import Candidate

log = logging.getLogger(__name__)

STAGE = "subsample"

FEWEST = 3  # photographs of each class that come first, one for each split
_THREADS = min(4, os.cpu_count() or 1)


class Params(params.Section):
    """How many photographs are selected, and which count as duplicates.

    Args:
        photographs: in all classes together; if they do not divide evenly, the first classes get one more.
        balance: `equal`: the same number of every class; `as_they_are`: in the proportions in which there are
            candidates, but `FEWEST` of each class if there are so many.
        seed: of the selection.
        near_duplicates: in how many of the 256 bits of their perceptual hashes two photographs may differ and still
            count as duplicates, if small copies of the two agree as well. 0: only equal hashes do. null: hashes
            are not compared, only bytes are.
    """

    photographs: int = Field(ge=2)
    balance: Literal["equal", "as_they_are"]
    seed: int = Field(ge=0)
    near_duplicates: int | None = Field(ge=0, le=64)


def queue_candidates(candidates: Iterable[Candidate], *, seed: int) -> Queues:
    """Queue the candidates of each class in random order, classes sorted by name.

    A candidate's position follows from the seed and its name, so a smaller choice is the beginning of a larger one.
    """
    queues: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: (seeding.digest(STAGE, seed, candidate.name), candidate)):
        queues[candidate.class_name].append(candidate)
    return dict(sorted(queues.items()))


def merge(queues: Queues, *, seed: int) -> Queues:
    """Merge the queues of all classes to one, so that a choice has the proportions of the candidates.

    It begins with `FEWEST` candidates of each class in turn, so that a rare class is in every split; the others follow
    in random order. Like each queue it depends on the seed and the names alone.
    """
    first = itertools.chain(*itertools.zip_longest(*(queue[:FEWEST] for queue in queues.values())))
    others = sorted(
        (candidate for queue in queues.values() for candidate in queue[FEWEST:]),
        key=lambda candidate: (seeding.digest(STAGE, seed, candidate.name), candidate.member),
    )
    return {"all": [*filter(None, first), *others]}


def examine_and_choose(
    archive: zipfile.ZipFile, queues: Queues, rejected: Iterable[Rejected], settings: Params
) -> Choice:
    """Decode candidates in threads, as many as the choice needs and a few more, and choose.

    Args:
        archive: holds the candidates.
        queues: the candidates.
        rejected: the candidates that are rejected already.
        settings: how many photographs to take and which count as duplicates.
    """
    known = {rejection.name: rejection for rejection in rejected}

    def find(candidate: Candidate) -> Finding:
        return known.get(candidate.member) or selection.examine(archive, candidate)

    ahead = math.ceil(4 * _THREADS / len(queues))
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress.bar(total=settings.photographs, description="Checked", unit="photographs") as bar,
    ):
        findings = [selection.map_ahead(find, queue, pool, ahead=ahead) for queue in queues.values()]
        return selection.choose(
            findings, settings.photographs, near_duplicates=settings.near_duplicates, on_selected=bar.update
        )


def check_rejected(rejected: Sequence[Rejected], *, examined: int) -> None:
    """Check that at most half of the photographs examined were rejected, not counting those that the user excludes.

    Raises:
        DataError: more were rejected; the message lists the reasons, the most frequent first.
    """
    rejected = [photograph for photograph in rejected if photograph.reason != "excluded"]
    if 2 * len(rejected) > examined:
        near_duplicates = any(photograph.reason == "near_duplicate" for photograph in rejected)
        raise DataError(
            f"At least half of the photographs must be usable. Received: {len(rejected):,} of {examined:,} examined "
            f"are rejected: {_reasons(rejected)}. Repair the photographs or choose another `download.source`"
            f"{f', or lower `{STAGE}.near_duplicates`' if near_duplicates else ''}."
        )


def check_counts(settings: Params, queues: Queues, rejected: Sequence[Rejected]) -> None:
    """Check that there are enough photographs of every class that are not rejected.

    Raises:
        DataError: a class has none.
        ParamsError: there are too few, by `balance` of a class or of all, or more classes than photographs asked for.
    """
    names = {photograph.name for photograph in rejected}
    left = {name: sum(candidate.member not in names for candidate in queue) for name, queue in queues.items()}
    empty = ", ".join(f"`{name}`" for name, count in left.items() if count == 0)
    without = f" without those rejected: {_reasons(rejected)}" if rejected else ""
    if empty:
        raise DataError(
            f"Each class must have a usable photograph. Received: none of {empty}{without}. "
            "Repair the photographs or choose another `download.source`."
        )
    equal = settings.balance == "equal"
    largest = selection.largest_choice(list(left.values())) if equal else sum(left.values())
    if not len(left) <= settings.photographs <= largest:
        counts = ", ".join(f"{count} `{name}`" for name, count in left.items())
        raise ParamsError(
            f"`{STAGE}.photographs` must be from {len(left)} to {largest}: "
            f"{'every class gives the same number and ' if equal else ''}"
            f"there are {counts}{without}. Received: {settings.photographs}"
        )


def target_paths(queues: Queues) -> dict[str, str]:
    """Map the member of each candidate to its path below `artifacts/subsample/photos/`, whatever is chosen."""
    folders = filenames.safe(queues)
    candidates = list(itertools.chain(*queues.values()))
    names = filenames.safe(sorted(candidate.name for candidate in candidates))
    return {candidate.member: f"{folders[candidate.class_name]}/{names[candidate.name]}" for candidate in candidates}


def size_on_disk(archive: zipfile.ZipFile, members: Iterable[str]) -> int:
    """Return how many bytes of disk space these members take as files."""
    return disk.size_on_disk(archive.getinfo(member).file_size for member in members)


def manifest_entries(selected: Iterable[Usable], targets: Mapping[str, str], place: str) -> list[manifest.Entry]:
    """Return the manifest of the photographs selected, sorted by path; for `place`, see `user_place`."""
    return sorted(
        manifest.Entry(
            path=f"photos/{targets[photograph.candidate.member]}",
            class_name=photograph.candidate.class_name,
            sha256=photograph.sha256,
            width=photograph.width,
            height=photograph.height,
            source=place and f"{place}/{photograph.candidate.member}",
        )
        for photograph in selected
    )


def metrics(choice: Choice, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Count the candidates examined, those selected of each class, those rejected, and other files by their ending."""
    selected = Counter(photograph.candidate.class_name for photograph in choice.selected)
    rejected = Counter(photograph.reason for photograph in choice.rejected)
    return {
        "examined": len(choice.selected) + len(choice.rejected),
        "selected": dict(sorted(selected.items())),
        "rejected": {reason: rejected[reason] for reason in get_args(selection.Reason)},
        **({"left_out": dict(left_out)} if left_out else {}),
    }


def write_photographs(archive: zipfile.ZipFile, selected: Sequence[Usable], targets: Mapping[str, str]) -> None:
    """Write the bytes of the photographs selected to artifacts/subsample/photos/, unchanged."""
    target = paths.artifact(STAGE, "photos")
    members = [photograph.candidate.member for photograph in selected]
    with disk.space_for({target: size_on_disk(archive, members)}), files.atomic_folder(target) as folder:
        for member in members:
            file = folder / targets[member]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(selection.read_bytes(archive, member))


def user_place(source: Path) -> str:
    """Return the folder or archive of the user's that the photographs come from; empty if they come from elsewhere.

    Args:
        source: `source.json` of the stage `download`.
    """
    try:
        origin = json.loads(source.read_bytes())
        return str(origin["from"]) if origin["source"] == "inbox" else ""
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return ""  # the names in the archive still identify the photographs


def choose(archive: zipfile.ZipFile, queues: Queues, corrected: Applied, settings: Params) -> Choice:
    """Choose photographs; each check runs as soon as what it needs is known, the slow decoding comes last.

    Each class of the source gives the same number, so a corrected class makes no other photograph come or go.

    Raises:
        DataError: too many candidates are rejected.
        ParamsError: there are fewer usable photographs than asked for.
        DiskError: the disk has too little space for the photographs.
    """
    check_counts(settings, queues, corrected.excluded)
    queues = corrected.relabel(queues)
    excluded = {photograph.name for photograph in corrected.excluded}
    candidates = [each for each in itertools.chain(*queues.values()) if each.member not in excluded]
    copies = selection.find_copies(archive, candidates)
    check_rejected(copies, examined=len(candidates))
    unused = [*corrected.excluded, *copies]
    check_counts(settings, queues, unused)
    turns = queues if settings.balance == "equal" else merge(queues, seed=settings.seed)
    members = selection.first_choice(turns, settings.photographs)
    disk.require_space({paths.artifact(STAGE): size_on_disk(archive, members)})
    choice = examine_and_choose(archive, turns, unused, settings)
    check_rejected(choice.rejected, examined=len(choice.selected) + len(choice.rejected))
    check_counts(settings, queues, list(dict.fromkeys([*unused, *choice.rejected])))
    return choice


def main() -> None:
    """Select photographs from artifacts/download/photos.zip and write artifacts/subsample/."""
    settings = params.load(STAGE, Params)
    with _open_archive(paths.artifact("download", "photos.zip")) as archive:
        layout = layouts.read(archive)
        queues = queue_candidates(layout.candidates, seed=settings.seed)
        corrected = corrections.apply(corrections.read(paths.CORRECTIONS), archive, layout.candidates)
        choice = choose(archive, queues, corrected, settings)
        targets = target_paths(corrected.relabel(queues))
        write_photographs(archive, choice.selected, targets)
    place = user_place(paths.artifact("download", "source.json"))
    manifest.write(paths.artifact(STAGE, "manifest.csv"), manifest_entries(choice.selected, targets, place))
    rejected = [photograph._replace(path=place and f"{place}/{photograph.name}") for photograph in choice.rejected]
    manifest.write_rejected(paths.artifact(STAGE, "rejected.csv"), rejected)
    files.write_json(paths.artifact(STAGE, "metrics.json"), metrics(choice, layout.left_out))
    reasons = f": {_reasons(choice.rejected)}" if choice.rejected else ""
    log.info("%d photographs selected, %d rejected%s", len(choice.selected), len(choice.rejected), reasons)


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive that `download` made.

    Raises:
        DataError: it is damaged; errors raised while it is open pass through unchanged.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(archives.open_archive(path))
        except DataError as error:
            raise DataError(f"{error} {rerun_hint('download')}") from None
        yield archive


def _reasons(rejected: Iterable[Rejected]) -> str:
    """List the reasons, the most frequent first, each with its count and an example."""
    by_reason: defaultdict[str, list[Rejected]] = defaultdict(list)
    for photograph in rejected:
        by_reason[photograph.reason].append(photograph)
    most_frequent = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return ", ".join(
        f"{len(examples):,} {reason} ({examples[0].name}: {examples[0].detail})" for reason, examples in most_frequent
    )
