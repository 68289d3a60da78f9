"""Corrections: decisions of a person about photographs, in a file that Git keeps.

A correction names a photograph by the SHA-256 of its file, so it stays right whatever the file is called, whichever
photographs are selected, and wherever they come from.
"""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.images import selection
from transfer.images.formats import UnreadablePhoto
from transfer.images.manifest import Rejected
from transfer.images.selection import Queues
from transfer.runtime import files, progress, spreadsheets
from transfer.runtime.errors import DataError
from transfer.sources.layouts import Candidate

EXCLUDE = "exclude"  # in the place of a class: the photograph is not used
COLUMNS = ("sha256", "class", "note")

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Correction(NamedTuple):
    """A photograph by the SHA-256 of its file, the class that it belongs to or `EXCLUDE`, and the user's note."""

    sha256: str
    class_name: str
    note: str = ""


class Applied(NamedTuple):
    """Corrections of the photographs of an archive.

    Args:
        classes: the corrected class of members.
        excluded: the members that are excluded.
    """

    classes: Mapping[str, str]
    excluded: list[Rejected]

    def relabel(self, queues: Queues) -> Queues:
        """Give the candidates in queues their corrected classes.

        Each stays in its place, so that a correction changes neither which photographs are selected nor their order.
        """
        return {
            name: [each._replace(class_name=self.classes.get(each.member, each.class_name)) for each in queue]
            for name, queue in queues.items()
        }


def read(path: Path) -> list[Correction]:
    """Read corrections, in any form in which a spreadsheet program saves a table; a missing file has none.

    Raises:
        DataError: a line has no SHA-256 or no class, two lines are about one photograph, or there is another column.
    """
    if not path.exists():
        return []
    rows = spreadsheets.read(path, required=COLUMNS[:2], optional=COLUMNS[2:])
    corrections = [Correction(row["sha256"].lower(), row["class"], row.get("note", "")) for _, row in rows]
    times = Counter(correction.sha256 for correction in corrections)
    mistakes = [
        f"line {line}: {mistake}"
        for (line, _), correction in zip(rows, corrections, strict=True)
        for mistake in _mistakes(correction, times)
    ]
    if mistakes:
        raise DataError(
            f"Each line of {path} must have the sha256 of a photograph, 64 digits from 0 to f, that no other line has, "
            f"and a class or `{EXCLUDE}`. Received: {'; '.join(mistakes)}. Mend or remove these lines."
        )
    return corrections


def _mistakes(correction: Correction, times: Mapping[str, int]) -> Iterator[str]:
    if not is_sha256(correction.sha256):
        yield f"the sha256 `{correction.sha256}`"
    elif times[correction.sha256] > 1:
        yield f"{correction.sha256}, which {times[correction.sha256]} lines have"
    if not correction.class_name:
        yield "no class"


def is_sha256(text: str) -> bool:
    """Return whether a text is a SHA-256 in hexadecimal digits, in lower or upper case."""
    return _SHA256.fullmatch(text.lower()) is not None


def write(path: Path, corrections: Iterable[Correction]) -> None:
    """Write corrections atomically."""
    rows = ([sha256, *map(spreadsheets.protect, (class_name, note))] for sha256, class_name, note in corrections)
    files.write_csv(path, COLUMNS, rows)


def apply(corrections: Sequence[Correction], archive: zipfile.ZipFile, candidates: Sequence[Candidate]) -> Applied:
    """Find the photographs that corrections name.

    Args:
        corrections: what `read` returned; if there are any, all photographs of the archive are hashed.
        archive: holds the photographs.
        candidates: the photographs with the classes that their source gives them.

    Raises:
        DataError: there is no such photograph, or no such class; the message has all of them.
    """
    if not corrections:
        return Applied({}, [])
    members = _members(archive, candidates)
    classes = sorted({candidate.class_name for candidate in candidates})
    _check(corrections, members, classes)
    decided = [(member, correction) for correction in corrections for member in members[correction.sha256]]
    return Applied(
        {member: correction.class_name for member, correction in decided if correction.class_name != EXCLUDE},
        [
            Rejected(member, "excluded", correction.note or "by corrections.csv")
            for member, correction in decided
            if correction.class_name == EXCLUDE
        ],
    )


def _members(archive: zipfile.ZipFile, candidates: Sequence[Candidate]) -> dict[str, list[str]]:
    """Return the members with each SHA-256; those that cannot be read have none."""
    members: dict[str, list[str]] = {}
    with progress.bar(total=len(candidates), description="Looked up corrections", unit="photographs") as bar:
        for candidate in candidates:
            try:
                data = selection.read_bytes(archive, candidate.member)
                members.setdefault(hashlib.sha256(data).hexdigest(), []).append(candidate.member)
            except UnreadablePhoto:
                pass
            bar.update()
    return members


def _check(corrections: Iterable[Correction], members: Mapping[str, object], classes: Sequence[str]) -> None:
    unknown = [correction.sha256 for correction in corrections if correction.sha256 not in members]
    others = {correction.class_name for correction in corrections} - {*classes, EXCLUDE}
    received = [f"no photograph with the sha256 {sha256}" for sha256 in unknown]
    received += [f"no class `{name}`" for name in sorted(others)]
    if received:
        raise DataError(
            f"corrections.csv must name photographs that `download` has found, and their classes {', '.join(classes)} "
            f"or `{EXCLUDE}`. Received: {', '.join(received)}. Mend or remove these lines, or put the photographs back."
        )
