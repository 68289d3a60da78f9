"""The ways a stage can fail, and the exit code that tells the caller which it was.

The codes are those of BSD's sysexits.h, so a scheduler can act on them without reading words.
"""

from typing import ClassVar


class StageError(Exception):
    """A failure the user can act on; its text is the complete message, no traceback is needed."""

    exit_code: ClassVar[int] = 1


class DataError(StageError):
    """The data is unusable (EX_DATAERR): it will fail again until the data changes."""

    exit_code = 65


class ResourceError(StageError):
    """The system refused memory (EX_OSERR): smaller parameters or a larger machine are needed."""

    exit_code = 71


class DiskError(StageError):
    """The disk refused (EX_IOERR): it is full, read-only, failing, or closed to this user."""

    exit_code = 74


class NetworkError(StageError):
    """A transient error of the network (EX_TEMPFAIL): worth a retry."""

    exit_code = 75


class LockedError(StageError):
    """Another process is doing the same work (EX_TEMPFAIL): worth a retry when it has ended."""

    exit_code = 75


class ChangedError(StageError):
    """A dependency or a parameter changed while the stage ran (EX_TEMPFAIL): the next run uses the new one."""

    exit_code = 75


class AccessError(StageError):
    """A permission is missing (EX_NOPERM): credentials, accepted rules of a competition, or the user's name."""

    exit_code = 77


class ParamsError(StageError):
    """params.yaml has a value that is not allowed (EX_CONFIG)."""

    exit_code = 78


def rerun_hint(*stages: str) -> str:
    """Return a sentence with the command that makes the damaged output of stages anew.

    The output and DVC's cached copy may be one file; DVC hashes it again only if it is writable.
    """
    folders = " ".join(f"artifacts/{stage}" for stage in stages)
    return f"Run `chmod -R u+w {folders} && dvc repro --single-item --force {' '.join(stages)}`."
