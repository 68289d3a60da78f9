"""Dependencies: fail a stage if a dependency or a parameter changes while the stage runs.

DVC hashes dependencies after a stage's command has ended. Without this check dvc.lock and the run-cache would record
the changed dependency as the one that the outputs were computed from.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transfer.runtime import disk, files, params, paths
from transfer.runtime.errors import ChangedError, DataError, ParamsError, StageError

DVC_FILE = Path("dvc.yaml")
_HASHED = 1 << 16  # bytes; a smaller file that was touched is unchanged if its content is
_LISTED = 5  # changes in a message
_ABSENT = object()
_IGNORED = "__pycache__"  # as in .dvcignore


class Declared(NamedTuple):
    """A stage's entry in dvc.yaml: paths of dependencies and outputs, and sections of parameters by file."""

    dependencies: list[Path]
    parameters: dict[Path, list[str]]
    outputs: list[Path]


class State(NamedTuple):
    """A file's size in bytes, time of its last change in nanoseconds, inode, and the sha256 of a small file."""

    size: int
    changed: int
    inode: int
    sha256: str | None


Snapshot = Mapping[str, object]  # a file's state or a parameter's value, by its name in messages


@contextmanager
def unchanged(stage: str, *, file: Path = DVC_FILE, item: Mapping[str, str] | None = None) -> Iterator[None]:
    """Fail if a stage's dependencies or parameters differ after the block from those before it.

    Enter the block before the stage's code is imported and its parameters are read. Without a dvc.yaml there is nothing
    to compare.

    Args:
        stage: its name in the file.
        file: the file that declares it.
        item: the values of a matrix stage, such as {"model": "cnn"}.

    Raises:
        ChangedError: something has changed. If the block succeeded, the outputs that it wrote are removed.
        ParamsError: dvc.yaml or a file of parameters cannot be read.
    """
    declared = read_declared(stage, file=file, item=item or {})
    before = snapshot(declared)
    try:
        yield
    except Exception as error:
        names = changes(before, snapshot(declared, known=before)) if _may_follow_from_change(error) else []
        if not names:
            raise
        raise ChangedError(_message(stage, names, "Run again.")) from error
    names = changes(before, snapshot(declared, known=before))
    if names:
        for output in declared.outputs:
            _remove(output)
        raise ChangedError(_message(stage, names, "Its outputs were removed; run again."))


def read_declared(stage: str, *, file: Path, item: Mapping[str, str]) -> Declared:
    """Read a stage's dependencies, parameters and outputs from a dvc.yaml; nothing if the file or the stage is missing.

    Raises:
        ParamsError: the file is not readable YAML.
    """
    entry: dict[str, Any] = (params.read(file).get("stages") or {}).get(stage) or {} if file.exists() else {}
    folder = file.parent / entry.get("wdir", ".")

    def filled(text: str) -> str:
        for name, value in item.items():
            text = text.replace(f"${{item.{name}}}", value)
        return text

    parameters: dict[Path, list[str]] = {}
    for declaration in entry.get("params", []):
        by_file = declaration if isinstance(declaration, dict) else {str(paths.PARAMS): [declaration]}
        for name, sections in by_file.items():
            parameters.setdefault(folder / name, []).extend(map(filled, sections))
    outputs = [output for kind in ("outs", "metrics", "plots") for output in entry.get(kind, [])]
    names = [output if isinstance(output, str) else next(iter(output)) for output in outputs]
    return Declared(
        dependencies=[folder / filled(name) for name in entry.get("deps", [])],
        parameters=parameters,
        outputs=[folder / filled(name) for name in names],
    )


def snapshot(declared: Declared, *, known: Snapshot | None = None) -> Snapshot:
    """Record the state of each file and the value of each parameter that a stage depends on.

    Args:
        declared: the stage's dependencies and parameters.
        known: an earlier snapshot; a file that was not touched since is not read again. With it, a file of parameters
            that cannot be read is recorded as changed.

    Raises:
        ParamsError: a file of parameters cannot be read, and `known` is None.
    """
    states: dict[str, object] = {}
    for dependency in declared.dependencies:
        for file in _files(dependency):
            states[str(file)] = _state(file, (known or {}).get(str(file)))
    for file, sections in declared.parameters.items():
        try:
            document = params.read(file)
        except ParamsError:
            if known is None:
                raise
            states[os.path.normpath(file)] = "unreadable"
            continue
        for section in sections:
            states |= _leaves(section, document.get(section))
    return states


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the names of the files and parameters that differ between two snapshots, sorted."""
    broken = {name for name, state in after.items() if state == "unreadable"}
    names = broken or {*before, *after}  # the parameters of an unreadable file are unknown
    return sorted(name for name in names if not _is_same(before.get(name, _ABSENT), after.get(name, _ABSENT)))


def _may_follow_from_change(error: Exception) -> bool:
    """Return whether a change may have caused an error: half-saved code raises anything, a full disk never."""
    if isinstance(error, StageError):
        return isinstance(error, DataError | ParamsError)
    return not (isinstance(error, OSError) and disk.is_disk_error(error))


def _is_same(before: object, after: object) -> bool:
    if isinstance(before, State) and isinstance(after, State) and before.sha256:
        return before.sha256 == after.sha256
    return type(before) is type(after) and before == after


def _files(dependency: Path) -> Iterator[Path]:
    """Yield every file at or below a path; the path itself if nothing is there."""
    dependency = Path(os.path.normpath(dependency))
    if not dependency.is_dir():
        yield dependency
    for folder, names, entries in os.walk(dependency):
        names[:] = [name for name in names if name != _IGNORED]
        yield from (Path(folder, name) for name in entries)


def _state(file: Path, known: object) -> State | None:
    """Return a file's state; None if there is no file. Artifacts are not hashed, and may get other links meanwhile."""
    is_artifact = file.is_relative_to(paths.ARTIFACTS)
    try:
        status = file.stat()
        state = State(status.st_size, status.st_mtime_ns if is_artifact else status.st_ctime_ns, status.st_ino, None)
        if isinstance(known, State) and known[:3] == state[:3]:
            return known
        is_hashed = not is_artifact and file.is_file() and status.st_size <= _HASHED
        return state._replace(sha256=files.sha256(file)) if is_hashed else state
    except OSError:
        return None


def _leaves(name: str, value: object) -> dict[str, object]:
    """Return every single value of a section by its dotted name."""
    if not (isinstance(value, dict) and value):
        return {name: value}
    return {leaf: part for key, inner in value.items() for leaf, part in _leaves(f"{name}.{key}", inner).items()}


def _message(stage: str, names: Sequence[str], hint: str) -> str:
    listed = ", ".join(f"`{''.join(c if c.isprintable() else '?' for c in name)}`" for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    inbox = all(Path(name).is_relative_to(paths.INBOX) for name in names)
    received = f"`{paths.INBOX}/` changed while it was read: {listed}" if inbox else f"a change of {listed}"
    return f"The dependencies of `{stage}` must not change while it runs. Received: {received}{more}. {hint}"


def _remove(output: Path) -> None:
    if output.is_dir() and not output.is_symlink():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
