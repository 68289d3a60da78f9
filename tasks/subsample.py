"""Subsample: take the photographs asked for, whole, each once, the same number of every class."""

import itertools
import logging
import math
import os
import zipfile
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import Field

from transfer.images import decoding, filenames, manifest
from transfer.images.decoding import UnreadablePhoto
from transfer.images.near_duplicates import BITS, HashIndex, PerceptualHash, group_duplicates, perceptual_hash
from transfer.runtime import disk, params, paths, progress, seeding
from transfer.runtime.errors import DataError, ParamsError, rerun_hint
from transfer.runtime.files import atomic_folder, write_json
from transfer.sources import archives, layouts
from transfer.sources.layouts import Candidate

log = logging.getLogger(__name__)

STAGE = "subsample"

_THREADS = min(4, os.cpu_count() or 1)

Reason = Literal["unreadable", "same_bytes", "same_bytes_two_classes", "near_duplicate"]
Queues = Mapping[str, Sequence[Candidate]]  # candidates by class, in the order in which they are looked at

InT = TypeVar("InT")
OutT = TypeVar("OutT")


class Params(params.Section):
    """How many photographs, and which of them count as one.

    Args:
        photographs: of all classes together; the first classes have one more where they do not divide.
        seed: what the choice follows from.
        near_duplicates: in how many of the 256 bits of the perceptual hash two photographs may differ and
            still count as one. 0: in none. null: looks are not compared, bytes still are.
    """

    photographs: int = Field(ge=2)
    seed: int = Field(ge=0)
    near_duplicates: int | None = Field(ge=0, le=64)


class Photograph(NamedTuple):
    """A candidate that is whole: its content's digest, its pixels when upright, its looks."""

    candidate: Candidate
    sha256: str
    width: int
    height: int
    fingerprint: PerceptualHash


class Rejection(NamedTuple):
    """A candidate that is not taken, and why."""

    candidate: Candidate
    reason: Reason
    detail: str


Finding = Photograph | Rejection


class Choice(NamedTuple):
    """What became of the candidates looked at, in the order in which they were."""

    taken: list[Photograph]
    rejected: list[Rejection]


def ordered(candidates: Iterable[Candidate], *, seed: int) -> Queues:
    """Queue the candidates of each class, classes by name.

    A candidate's place follows from the seed and its name, so a smaller choice is the beginning of a larger one.
    """
    queues: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda one: (seeding.digest(STAGE, seed, one.name), one)):
        queues[candidate.class_name].append(candidate)
    return dict(sorted(queues.items()))


def contents(archive: zipfile.ZipFile, member: str) -> bytes:
    """Read a member of an archive, and no more of it than it announces.

    Raises:
        UnreadablePhoto: it is larger than `photos.MAX_BYTES`, or damaged.
        OSError: the disk refuses.
    """
    try:
        return archives.read_member(archive, archive.getinfo(member), most=decoding.MAX_BYTES)
    except DataError as reason:
        raise UnreadablePhoto(str(reason)) from None


def copies(archive: zipfile.ZipFile, candidates: Iterable[Candidate]) -> list[Rejection]:
    """Find the candidates that are not taken because others have the same bytes.

    Of copies in one class the first by name stays. Copies under two classes contradict each other: none stays.
    Only those that agree in size and checksum in the archive's index are read.
    """

    def indexed(candidate: Candidate) -> tuple[int, int] | None:
        info = archive.getinfo(candidate.member)
        return (info.file_size, info.CRC) if info.file_size else None

    def content(candidate: Candidate) -> bytes | None:
        try:
            return sha256(contents(archive, candidate.member)).digest()
        except UnreadablePhoto:
            return None

    by_name = sorted(candidates, key=lambda one: (one.name, one.member))
    groups = group_duplicates(by_name, first=indexed, then=content)
    return [rejection for group in groups for rejection in _rejected_copies(group)]


def _rejected_copies(group: Sequence[Candidate]) -> Iterator[Rejection]:
    first, *others = group
    if len({one.class_name for one in group}) == 1:
        yield from (Rejection(other, "same_bytes", f"those of {first.member}") for other in others)
        return
    for one in group:
        other = next(other for other in group if other.class_name != one.class_name)
        yield Rejection(one, "same_bytes_two_classes", f"those of {other.member}, of class {other.class_name}")


def examine(archive: zipfile.ZipFile, candidate: Candidate) -> Finding:
    """Decode a candidate fully and describe it."""
    try:
        data = contents(archive, candidate.member)
        image = decoding.decode(data)
    except UnreadablePhoto as reason:
        return Rejection(candidate, "unreadable", str(reason))
    return Photograph(candidate, sha256(data).hexdigest(), *image.size, perceptual_hash(image))


def choose(
    findings: Sequence[Iterator[Finding]],
    photographs: int,
    *,
    near_duplicates: int | None,
    tick: Callable[[], object] = lambda: None,
) -> Choice:
    """Let the classes take turns until there are enough photographs or a class has no more.

    Taking turns keeps a smaller choice the beginning of a larger one, near duplicates between classes included.

    Args:
        findings: for each class, what its candidates were found to be, in their order.
        photographs: how many to take in all.
        near_duplicates: as in `Params`.
        tick: called for each one taken.
    """
    seen = HashIndex()
    choice = Choice([], [])
    for turn in range(photographs):
        one = _next_taken(findings[turn % len(findings)], choice.rejected, seen, near_duplicates)
        if one is None:
            break
        seen.add(one.candidate.member, one.fingerprint)
        choice.taken.append(one)
        tick()
    return choice


def _next_taken(
    findings: Iterator[Finding], rejected: list[Rejection], seen: HashIndex, near_duplicates: int | None
) -> Photograph | None:
    for finding in findings:
        one = finding if isinstance(finding, Rejection) else _compared(finding, seen, near_duplicates)
        if isinstance(one, Photograph):
            return one
        rejected.append(one)
    return None


def _compared(one: Photograph, seen: HashIndex, near_duplicates: int | None) -> Finding:
    nearest = seen.nearest(one.fingerprint)
    if near_duplicates is None or nearest is None or nearest.bits > near_duplicates:
        return one
    detail = f"of {nearest.name}, {nearest.bits} of {BITS} bits differ"
    return Rejection(one.candidate, "near_duplicate", detail)


def expected(queues: Queues, photographs: int) -> list[str]:
    """The members that are taken if none is rejected."""
    turns = itertools.chain(*itertools.zip_longest(*queues.values()))
    return [one.member for one in itertools.islice(filter(None, turns), photographs)]


def look(archive: zipfile.ZipFile, queues: Queues, known: Iterable[Rejection], settings: Params) -> Choice:
    """Decode candidates, some ahead of need and none longer than to describe it, and choose.

    Args:
        archive: where the candidates are.
        queues: the candidates.
        known: those that are rejected already.
        settings: how many to take and what counts as the same.
    """
    rejections = {rejection.candidate.member: rejection for rejection in known}

    def find(candidate: Candidate) -> Finding:
        return rejections.get(candidate.member) or examine(archive, candidate)

    steps = math.ceil(4 * _THREADS / len(queues))
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress.bar(total=settings.photographs, description="Checked", unit="photographs") as bar,
    ):
        findings = [ahead(find, queue, pool, steps=steps) for queue in queues.values()]
        return choose(findings, settings.photographs, near_duplicates=settings.near_duplicates, tick=bar.update)


def ahead(
    function: Callable[[InT], OutT], items: Iterable[InT], pool: ThreadPoolExecutor, *, steps: int
) -> Iterator[OutT]:
    """Apply a function to items, in their order, to `steps` of them before they are asked for."""
    pending: deque[Future[OutT]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > steps:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def refuse_mostly_rejected(rejected: Sequence[Rejection], *, looked_at: int) -> None:
    """Stop where more than half of the photographs looked at were rejected: that is no accident.

    Raises:
        DataError: with the commonest reasons.
    """
    if 2 * len(rejected) > looked_at:
        alike = any(rejection.reason == "near_duplicate" for rejection in rejected)
        raise DataError(
            f"At least half of the photographs must be usable. Received: {len(rejected):,} of {looked_at:,} looked at "
            f"are rejected: {_reasons(rejected)}. Mend the photographs or choose another `download.source`"
            f"{f', or lower `{STAGE}.near_duplicates`' if alike else ''}."
        )


def refuse_shortage(photographs: int, queues: Queues, rejected: Sequence[Rejection]) -> None:
    """Stop where the photographs that are not rejected cannot be as many as asked for.

    Raises:
        DataError: a class has none.
        ParamsError: a class has too few, or there are more classes than photographs asked for.
    """
    gone = Counter(rejection.candidate.class_name for rejection in rejected)
    left = {name: len(queue) - gone[name] for name, queue in queues.items()}
    empty = ", ".join(f"`{name}`" for name, count in left.items() if count == 0)
    without = f" without those rejected: {_reasons(rejected)}" if rejected else ""
    if empty:
        raise DataError(
            f"Each class must have a usable photograph. Received: none of {empty}{without}. "
            "Mend the photographs or choose another `download.source`."
        )
    if not len(left) <= photographs <= most(list(left.values())):
        counts = ", ".join(f"{count} `{name}`" for name, count in left.items())
        raise ParamsError(
            f"`{STAGE}.photographs` must be from {len(left)} to {most(list(left.values()))}: every class gives the "
            f"same number and there are {counts}{without}. Received: {photographs}"
        )


def most(available: Sequence[int]) -> int:
    """How many photographs there are when classes take turns, given those of each class in the order of turns."""
    return min(count * len(available) + turn for turn, count in enumerate(available))


def _reasons(rejected: Iterable[Rejection]) -> str:
    """The reasons, the commonest first, each with its count and an example."""
    by_reason: defaultdict[Reason, list[Rejection]] = defaultdict(list)
    for rejection in rejected:
        by_reason[rejection.reason].append(rejection)
    commonest = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return ", ".join(
        f"{len(some):,} {reason} ({some[0].candidate.member}: {some[0].detail})" for reason, some in commonest
    )


def places(queues: Queues) -> dict[str, str]:
    """Where each candidate's bytes go below `artifacts/subsample/photos/`, by member; the same for every choice."""
    folders = filenames.safe(queues)
    candidates = list(itertools.chain(*queues.values()))
    files = filenames.safe(sorted(candidate.name for candidate in candidates))
    return {one.member: f"{folders[one.class_name]}/{files[one.name]}" for one in candidates}


def bytes_of(archive: zipfile.ZipFile, members: Iterable[str]) -> int:
    """How many bytes these members take of a disk once they are files."""
    return disk.size_on_disk(archive.getinfo(member).file_size for member in members)


def write(archive: zipfile.ZipFile, choice: Choice, place: Mapping[str, str]) -> None:
    """Write the photographs taken, their manifest, the rejections and the counts.

    Args:
        archive: where the photographs are; their bytes are copied as they are.
        choice: what became of the candidates.
        place: as from `places`.
    """
    target = paths.artifact(STAGE, "photos")
    members = [one.candidate.member for one in choice.taken]
    with disk.space_for({target: bytes_of(archive, members)}), atomic_folder(target) as folder:
        for one in choice.taken:
            file = folder / place[one.candidate.member]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(contents(archive, one.candidate.member))
    manifest.write(paths.artifact(STAGE, "manifest.csv"), entries(choice.taken, place))
    reasons = [manifest.Rejected(one.candidate.member, one.reason, one.detail) for one in choice.rejected]
    manifest.write_rejected(paths.artifact(STAGE, "rejected.csv"), reasons)
    write_json(paths.artifact(STAGE, "metrics.json"), counts(choice))


def entries(taken: Iterable[Photograph], place: Mapping[str, str]) -> list[manifest.Entry]:
    """The manifest of the photographs taken, in the order of their paths."""
    return sorted(
        manifest.Entry(
            path=f"photos/{place[one.candidate.member]}",
            class_name=one.candidate.class_name,
            sha256=one.sha256,
            width=one.width,
            height=one.height,
        )
        for one in taken
    )


def counts(choice: Choice) -> dict[str, Any]:
    """How many candidates were looked at, taken of each class and rejected for each reason."""
    taken = Counter(one.candidate.class_name for one in choice.taken)
    rejected = Counter(one.reason for one in choice.rejected)
    return {
        "looked_at": len(choice.taken) + len(choice.rejected),
        "taken": dict(sorted(taken.items())),
        "rejected": {reason: rejected[reason] for reason in get_args(Reason)},
    }


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(archives.open_archive(path))
        except DataError as error:
            raise DataError(f"{error} {rerun_hint('download')}") from None
        yield archive


def main() -> None:
    """Choose from artifacts/download/photos.zip and write artifacts/subsample/."""
    settings = params.load(STAGE, Params)
    with _opened(paths.artifact("download", "photos.zip")) as archive:
        candidates = layouts.candidates(archive)
        queues = ordered(candidates, seed=settings.seed)
        refuse_shortage(settings.photographs, queues, [])
        known = copies(archive, candidates)
        refuse_mostly_rejected(known, looked_at=len(candidates))
        refuse_shortage(settings.photographs, queues, known)
        disk.require_space({paths.artifact(STAGE): bytes_of(archive, expected(queues, settings.photographs))})
        choice = look(archive, queues, known, settings)
        refuse_mostly_rejected(choice.rejected, looked_at=len(choice.taken) + len(choice.rejected))
        refuse_shortage(settings.photographs, queues, list(dict.fromkeys([*known, *choice.rejected])))
        write(archive, choice, places(queues))
    log.info(
        "%d photographs taken, %d rejected%s",
        len(choice.taken),
        len(choice.rejected),
        f": {_reasons(choice.rejected)}" if choice.rejected else "",
    )
