"""Sweep: train with varied parameters, save each point as an experiment of DVC, and compare them all.

`python -m flows.sweep NAME` runs a sweep of sweeps.yaml here, with `--on-workers` on Prefect workers in other clones. A
sweep that was stopped continues.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import comparison, experiments, git, parameters, processes, sweep_settings, trials, workspace
from flows.comparison import Result
from flows.sweep_settings import SWEEPS, Trial
from flows.trials import LOCK, StoppedError
from transfer.runtime import paths
from transfer.runtime.errors import AccessError, DataError, ParamsError, StageError
from transfer.runtime.files import write_text

COMPARISONS = Path("sweeps")
_PERMANENT = {DataError.exit_code, AccessError.exit_code, ParamsError.exit_code}  # the same command fails again


def check(listed: Sequence[Trial]) -> None:
    """Check the parameters of all trials before the first one runs.

    Raises:
        ParamsError: parameters of a point are not allowed; the message has a line for each mistake.
        StageError: the check itself failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        points = {trial.point: trial for trial in listed}  # one seed of each
        files = {str(Path(folder, f"{experiments.allowed(point)}.yaml")): point for point in points}
        for file, point in files.items():
            Path(file).write_text(points[point].params, encoding="utf-8")
        try:
            parameters.check(map(Path, files))
        except ParamsError as error:
            mistakes = [line.partition(": ") for line in str(error).splitlines()]
            raise ParamsError("\n".join(f"Point `{files[file]}`: {text}" for file, _, text in mistakes)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from a command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Run a sweep and draw its comparison.")
    parser.add_argument("name", metavar="NAME", help=f"of a sweep in {SWEEPS}")
    parser.add_argument("--on-workers", action="store_true", help="on the Prefect workers for sweeps")
    options = parser.parse_args(arguments)
    processes.interrupt_on_signals()
    try:
        compared = _compare(options.name, on_workers=options.on_workers)
        picture, table = (paths.displayed(COMPARISONS / f"{options.name}.{kind}") for kind in ("svg", "csv"))
        print(f"{compared}\n\nPicture: {picture}\nTable:   {table}")
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (StoppedError, git.GitError, workspace.WorkspaceBusyError) as error:
        code = error.exit_code if isinstance(error, StoppedError) else 1
        advice = "" if code in _PERMANENT else "; run the same command to continue"
        print(f"{error}\nCompleted points are saved{advice}.", file=sys.stderr)
        return code
    return 0


def _compare(name: str, *, on_workers: bool) -> str:
    """Run a sweep, write its comparison, and return it as a text table."""
    sweep = sweep_settings.read(name)
    listed = sweep_settings.trials(sweep)
    check(listed)
    if not LOCK.exists():
        raise DataError(f"A sweep varies the parameters of a run. Received: no {LOCK}. Run `dogs-vs-cats run` first.")
    results = _runner(on_workers=on_workers)(name, sweep.stage, listed)
    scores = comparison.by_point(results)
    write_text(COMPARISONS / f"{name}.csv", comparison.csv_text(results))
    write_text(COMPARISONS / f"{name}.svg", comparison.picture(sweep, scores))
    return comparison.table(sweep, scores)


def _runner(*, on_workers: bool) -> Callable[[str, str, Sequence[Trial]], list[Result]]:
    if not on_workers:
        return trials.run
    from flows import sweep_workers  # noqa: PLC0415 - imports Prefect, which takes seconds

    return sweep_workers.run


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
