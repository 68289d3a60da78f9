"""The ways a stage can fail, and the exit code that tells the caller which it was.

The codes are those of BSD's sysexits.h, so a scheduler can act on them without reading words.
"""

from typing import ClassVar


class StageError(Exception):
    """A failure the user can act on; its text is the whole message, no traceback is needed."""

    exit_code: ClassVar[int] = 1


class DataError(StageError):
    """The data is unusable (EX_DATAERR): it will fail again until the data changes."""

    exit_code = 65


class DiskError(StageError):
    """The disk refuses (EX_IOERR): it is full, read-only, fails, or is closed to this user."""

    exit_code = 74


class NetworkError(StageError):
    """A passing trouble of the network (EX_TEMPFAIL): worth a retry."""

    exit_code = 75


class LockedError(StageError):
    """Another process has the same work in hand (EX_TEMPFAIL): worth a retry when it is done."""

    exit_code = 75


class AccessError(StageError):
    """Permission is missing (EX_NOPERM): credentials or a competition's rules."""

    exit_code = 77


class ParamsError(StageError):
    """params.yaml asks for something that is not allowed (EX_CONFIG)."""

    exit_code = 78


def rerun_hint(*stages: str) -> str:
    """The cure for a stage's damaged output, as a sentence.

    The output and DVC's cached copy may be one file, which DVC believes whole as long as it is read-only.
    """
    folders = " ".join(f"artifacts/{stage}" for stage in stages)
    return f"Run `chmod -R u+w {folders} && dvc repro --single-item --force {' '.join(stages)}`."
