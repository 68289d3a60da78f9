"""Selection: which photographs of an archive are used, and why the others are rejected."""

import hashlib
import itertools
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

from transfer.images import decoding
from transfer.images.formats import UnreadablePhoto
from transfer.images.manifest import Rejected
from transfer.images.near_duplicates import BITS, Fingerprint, HashIndex, fingerprint
from transfer.runtime.errors import DataError
from transfer.sources import archives
from transfer.sources.layouts import Candidate

Reason = Literal["unreadable", "same_bytes", "same_bytes_two_classes", "near_duplicate", "excluded"]
Queues = Mapping[str, Sequence[Candidate]]  # candidates by class, in the order in which they are examined

InputT = TypeVar("InputT")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Usable(NamedTuple):
    """A candidate that can be decoded.

    Args:
        candidate: the candidate.
        sha256: of its bytes, in hexadecimal.
        width: pixels, after rotation by the EXIF orientation.
        height: likewise.
        fingerprint: to compare it with others.
    """

    candidate: Candidate
    sha256: str
    width: int
    height: int
    fingerprint: Fingerprint


Finding = Usable | Rejected


class Choice(NamedTuple):
    """The candidates examined, divided into those selected and those rejected, each in the order of examination."""

    selected: list[Usable]
    rejected: list[Rejected]


def find_copies(archive: zipfile.ZipFile, candidates: Iterable[Candidate]) -> list[Rejected]:
    """Reject candidates that have the same bytes as others.

    Of copies in one class the first by name is kept. Copies in two classes contradict each other: none is kept.
    Only candidates that agree in size and checksum, according to the archive's index, are read.
    """

    def size_and_checksum(candidate: Candidate) -> tuple[int, int] | None:
        info = archive.getinfo(candidate.member)
        return (info.file_size, info.CRC) if info.file_size else None

    def digest(candidate: Candidate) -> bytes | None:
        try:
            return hashlib.sha256(read_bytes(archive, candidate.member)).digest()
        except UnreadablePhoto:
            return None

    by_name = sorted(candidates, key=lambda candidate: (candidate.name, candidate.member))
    groups = group_duplicates(by_name, cheap_key=size_and_checksum, exact_key=digest)
    return [rejected for group in groups for rejected in _rejected_copies(group)]


def group_duplicates(
    items: Iterable[ItemT], *, cheap_key: Callable[[ItemT], Hashable], exact_key: Callable[[ItemT], Hashable]
) -> list[list[ItemT]]:
    """Group the items that have equal keys.

    Args:
        items: in any order, which is kept within a group.
        cheap_key: a key that is fast to compute, such as size and checksum. An item with the key None is in no group.
        exact_key: the key that decides, such as a digest of the content; computed only for items whose cheap keys are
            equal. An item with the key None is in no group.

    Returns:
        Groups of two items or more.
    """
    return [group for similar in _groups(items, cheap_key) for group in _groups(similar, exact_key)]


def read_bytes(archive: zipfile.ZipFile, member: str) -> bytes:
    """Read a photograph from an archive, and never more bytes than the archive's index announces.

    Raises:
        UnreadablePhoto: it is larger than `decoding.MAX_BYTES`, or damaged.
        OSError: the disk cannot be read.
    """
    try:
        return archives.read_member(archive, archive.getinfo(member), most=decoding.MAX_BYTES)
    except DataError as error:
        raise UnreadablePhoto(str(error)) from None


def examine(archive: zipfile.ZipFile, candidate: Candidate) -> Finding:
    """Decode a candidate completely; return its description, or the reason why it cannot be decoded."""
    try:
        data = read_bytes(archive, candidate.member)
        image = decoding.decode(data)
    except UnreadablePhoto as error:
        return _reject(candidate, "unreadable", str(error))
    return Usable(candidate, hashlib.sha256(data).hexdigest(), *image.size, fingerprint(image))


def choose(
    findings: Sequence[Iterator[Finding]],
    photographs: int,
    *,
    near_duplicates: int | None,
    on_selected: Callable[[], object] = lambda: None,
) -> Choice:
    """Take photographs from each class in turn until there are enough, or a class has no more.

    Taking turns makes a smaller choice the beginning of a larger one, even with near duplicates between classes.

    Args:
        findings: for each class, the results of `examine` in the order of its candidates.
        photographs: how many to take, in all classes together.
        near_duplicates: in how many bits the perceptual hashes of near duplicates may differ; None: only bytes are
            compared.
        on_selected: called for each photograph selected.
    """
    index = HashIndex()
    choice = Choice([], [])
    for turn in range(photographs):
        usable = _next_usable(findings[turn % len(findings)], choice.rejected, index, near_duplicates)
        if usable is None:
            break
        index.add(usable.candidate.member, usable.fingerprint)
        choice.selected.append(usable)
        on_selected()
    return choice


def first_choice(queues: Queues, photographs: int) -> list[str]:
    """Return the members of the archive that `choose` takes if it rejects none."""
    in_turn = itertools.chain(*itertools.zip_longest(*queues.values()))
    return [candidate.member for candidate in itertools.islice(filter(None, in_turn), photographs)]


def largest_choice(available: Sequence[int]) -> int:
    """Return how many photographs `choose` can take at most.

    Args:
        available: the number of photographs of each class, in the order of turns.
    """
    return min(count * len(available) + turn for turn, count in enumerate(available))


def map_ahead(
    function: Callable[[InputT], ResultT], items: Iterable[InputT], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[ResultT]:
    """Apply a function to items in the threads of a pool.

    Args:
        function: called in the pool's threads.
        items: in the order of the results.
        pool: runs the calls.
        ahead: how many items are submitted before their results are needed.

    Yields:
        The results, in the order of the items.
    """
    pending: deque[Future[ResultT]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _reject(candidate: Candidate, reason: Reason, detail: str) -> Rejected:
    return Rejected(candidate.member, reason, detail)


def _rejected_copies(group: Sequence[Candidate]) -> Iterator[Rejected]:
    """Yield the rejected ones of a group of copies."""
    first, *others = group
    if len({candidate.class_name for candidate in group}) == 1:
        yield from (_reject(other, "same_bytes", f"those of {first.member}") for other in others)
        return
    for candidate in group:
        other = next(other for other in group if other.class_name != candidate.class_name)
        detail = f"those of {other.member}, of class {other.class_name}"
        yield _reject(candidate, "same_bytes_two_classes", detail)


def _groups(items: Iterable[ItemT], key: Callable[[ItemT], Hashable]) -> list[list[ItemT]]:
    """Group the items by a key other than None; groups of one item are left out."""
    groups: defaultdict[Hashable, list[ItemT]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [group for value, group in groups.items() if value is not None and len(group) > 1]


def _next_usable(
    findings: Iterator[Finding], rejected: list[Rejected], index: HashIndex, near_duplicates: int | None
) -> Usable | None:
    """Return the next photograph that is no near duplicate; add those before it to `rejected`."""
    for finding in findings:
        compared = _compare(finding, index, near_duplicates) if isinstance(finding, Usable) else finding
        if isinstance(compared, Usable):
            return compared
        rejected.append(compared)
    return None


def _compare(photograph: Usable, index: HashIndex, near_duplicates: int | None) -> Finding:
    """Reject a photograph if it is a near duplicate of one in the index."""
    if near_duplicates is None:
        return photograph
    nearest = index.find(photograph.fingerprint, max_bits=near_duplicates)
    if nearest is None:
        return photograph
    detail = f"of {nearest.name}, {nearest.bits} of {BITS} bits differ"
    return _reject(photograph.candidate, "near_duplicate", detail)
