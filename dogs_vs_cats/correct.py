"""Correct: turn the decisions of a marked-up suspects.csv into lines of corrections.csv."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.images import corrections, manifest
from transfer.images.corrections import EXCLUDE, Correction, is_sha256
from transfer.runtime import paths, spreadsheets
from transfer.runtime.errors import DataError
from transfer.runtime.spreadsheets import Row

REQUIRED = ("sha256", "decision")  # columns of a marked-up table; `class`, `suggested`, `split` and `note` are optional


class Decisions(NamedTuple):
    """What a user has decided: the corrections, how many rows are left undecided, and the test photographs among them.

    The corrections of two equal rows are one.
    """

    corrections: list[Correction]
    undecided: int
    tests: int


def correct(folder: Path, marked: Path) -> str:
    """Add the decisions of a marked-up table to the corrections of a project, and return what was done.

    Lines of earlier corrections stay in their order with their notes; a later decision about the same photograph
    replaces the class, and the note if it has one.

    Args:
        folder: the project.
        marked: a copy of suspects.csv with decisions, as a spreadsheet program saves it.

    Raises:
        DataError: a row has neither a class nor `exclude` as decision though it has a note, another word, a damaged
            SHA-256, or a contradiction to another row; or no row has a decision, or the earlier corrections cannot be
            read.
    """
    rows = spreadsheets.read(marked, required=REQUIRED)
    decisions = decide(rows, known_classes(folder, rows), marked)
    file = folder / paths.CORRECTIONS
    before = corrections.read(file)
    after = merge(before, decisions.corrections)
    corrections.write(file, after)
    return _summary(before, after, decisions)


def known_classes(folder: Path, rows: Iterable[Row]) -> list[str]:
    """Return the classes of the project's photographs; before a run, those that the rows name."""
    file = folder / paths.artifact("split", "manifest.csv")
    if file.exists():
        return manifest.classes(manifest.read(file))
    named = {cells.get(column, "") for _, cells in rows for column in ("class", "suggested")}
    return sorted(named - {""})


def decide(rows: Sequence[Row], classes: Sequence[str], file: Path) -> Decisions:
    """Read the decisions of a table.

    Args:
        rows: the table's rows.
        classes: the classes that there are; a decision may differ from them in upper and lower case.
        file: the table's file, for messages.

    Raises:
        DataError: a decision cannot be understood, or there is none; see `correct`.
    """
    spelled = {name.casefold(): name for name in (*classes, EXCLUDE)}
    decided = [(line, cells) for line, cells in rows if cells["decision"]]
    mistakes = [
        f"line {line}: a note without a decision" for line, cells in rows if cells.get("note") and not cells["decision"]
    ]
    mistakes += [
        f"line {line}: `{cells['decision']}`" for line, cells in decided if cells["decision"].casefold() not in spelled
    ]
    mistakes += [
        f"line {line}: the sha256 `{cells['sha256']}`" for line, cells in decided if not is_sha256(cells["sha256"])
    ]
    mistakes += _contradictions(decided)
    if mistakes or not decided:
        raise DataError(
            f"{file} must have in its column `decision` a class ({', '.join(classes)}) or `{EXCLUDE}`, beside the "
            "sha256 as suspects.csv has it, and nothing in rows to be left alone. "
            f"Received: {'; '.join(mistakes) or 'no decision'}. Mend these rows, then try again."
        )
    found = {
        cells["sha256"].lower(): Correction(
            cells["sha256"].lower(), spelled[cells["decision"].casefold()], cells.get("note", "")
        )
        for _, cells in decided
    }
    tests = sum(cells.get("split") == "test" for _, cells in decided)
    return Decisions(list(found.values()), len(rows) - len(decided), tests)


def _contradictions(decided: Iterable[Row]) -> list[str]:
    first: dict[str, Row] = {}
    found = []
    for line, cells in decided:
        other, earlier = first.setdefault(cells["sha256"].lower(), (line, cells))
        if earlier["decision"].casefold() != cells["decision"].casefold():
            found.append(f"line {line}: `{cells['decision']}`, and `{earlier['decision']}` in line {other}")
    return found


def merge(before: Sequence[Correction], decided: Iterable[Correction]) -> list[Correction]:
    """Return earlier corrections with later ones in their places, and new ones at the end."""
    merged = {correction.sha256: correction for correction in before}
    for correction in decided:
        earlier = merged.get(correction.sha256, correction)
        merged[correction.sha256] = correction._replace(note=correction.note or earlier.note)
    return list(merged.values())


def _summary(before: Sequence[Correction], after: Sequence[Correction], decisions: Decisions) -> str:
    earlier: Mapping[str, Correction] = {correction.sha256: correction for correction in before}
    later = {correction.sha256: correction for correction in after}
    counts = Counter(
        "as before" if earlier.get(sha256) == later[sha256] else "changed" if sha256 in earlier else "added"
        for sha256, *_ in decisions.corrections
    )
    listed = ", ".join(f"{counts[kind]} {kind}" for kind in ("added", "changed", "as before") if counts[kind])
    lines = [
        f"{paths.CORRECTIONS}: {listed}; {len(after)} in all. {decisions.undecided} rows without a decision.",
        "`dogs-vs-cats run` applies them; features of photographs that stay are not computed again.",
    ]
    if decisions.tests:
        lines.append(f"{decisions.tests} are of test photographs, so scores before and after are of different labels.")
    return "\n".join(lines)
