"""Diagnosis: decide from a training history whether the run over-fitted, under-fitted, diverged or is healthy.

A training loss above the validation loss is not a symptom: during training, photographs are augmented and dropout is
active.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from transfer.evaluation import remedies
from transfer.evaluation.loss_curves import RELATIVE_CHANGE, LossCurve, Series, loss_curve, smoothed
from transfer.evaluation.remedies import Remedy
from transfer.training.history import Phase

Verdict = Literal["few epochs", "diverging", "over-fitting", "under-fitting", "healthy"]

MIN_EPOCHS = 4  # needed to distinguish a trend from noise
ACCURACY_GAP = 0.1  # training accuracy minus validation accuracy: from here on, the run over-fits
UNDERFIT_FRACTION = 0.5  # of the chance level: a higher loss means that little was learned
CONVERGED_FRACTION = 0.05  # of the chance level: a lower loss leaves nearly nothing to learn
DIVERGENCE_FACTOR = 3.0  # times the chance level: above the loss of an untrained network
NOISY_FRACTION = 0.05  # of the chance level: stronger noise comes from large optimizer steps


class Diagnosis(NamedTuple):
    """The diagnosis of a training run: the verdict, the evidence in sentences, and parameters to change.

    `over_fits_from` is the first epoch, from 1, that improved the training split alone; None if there is none.
    """

    verdict: Verdict
    evidence: list[str]
    remedies: list[Remedy]
    over_fits_from: int | None = None


class TrainingRun(NamedTuple):
    """A training run: its stage, the epoch whose weights were kept, and its curves by epoch."""

    stage: str
    kept: int | None
    train: LossCurve
    validation: LossCurve
    train_accuracy: Series  # smoothed
    validation_accuracy: Series  # smoothed

    def is_underfitted(self) -> bool:
        """Return whether both losses stayed above `UNDERFIT_FRACTION` of the chance level."""
        return min(self.train.end, self.validation.lowest) > UNDERFIT_FRACTION * self.train.chance


def diagnose(phase: Phase, *, classes: int) -> Diagnosis:
    """Diagnose a training run from its history.

    - Diverging: both losses rose, or the training loss once was far above the chance level and the run under-fits.
    - Over-fitting: the validation loss rose from its lowest point and the training loss did not, or the training
      accuracy is far above the validation accuracy.
    - Under-fitting: both losses were still falling at the end and had not converged, or both stayed above
      `UNDERFIT_FRACTION` of the chance level.

    Args:
        phase: stage, history (log losses without penalties) and the epoch kept, if any.
        classes: number of classes; the chance level of the log loss is ln(classes).

    Returns:
        "healthy" if none of these applies, and "few epochs" for fewer than `MIN_EPOCHS` epochs. If several apply, a
        rising loss takes precedence over a falling one, and both over the level that was reached.
    """
    if len(phase.history) < MIN_EPOCHS:
        return _few_epochs(phase)
    run = _training_run(phase, classes=classes)
    checks = (_both_rose, _diverged, _validation_rose, _still_falling, _accuracy_gap, _underfitted)
    return next((diagnosis for check in checks if (diagnosis := check(run))), _healthy(run))


def verdict_text(diagnosis: Diagnosis) -> str:
    """Return the verdict, with the first over-fitting epoch if there is one."""
    start = diagnosis.over_fits_from
    return diagnosis.verdict if start is None else f"{diagnosis.verdict} from epoch {start} on"


def _training_run(phase: Phase, *, classes: int) -> TrainingRun:
    loss, accuracy, val_loss, val_accuracy = (
        np.array([epoch[column] for epoch in phase.history])
        for column in ("loss", "accuracy", "val_loss", "val_accuracy")
    )
    return TrainingRun(
        stage=phase.stage,
        kept=phase.best_epoch,
        train=loss_curve(loss, classes=classes),
        validation=loss_curve(val_loss, classes=classes),
        train_accuracy=smoothed(accuracy),
        validation_accuracy=smoothed(val_accuracy),
    )


def _few_epochs(phase: Phase) -> Diagnosis:
    losses = [epoch["val_loss"] for epoch in phase.history]
    received = f"{len(losses)} epoch{'s' * (len(losses) > 1)}"
    evidence = [
        f"{received} cannot show a trend; from {MIN_EPOCHS} on ({phase.stage}.training.epochs) there is a diagnosis.",
        f"Validation loss was {_loss(losses[0])} after the first epoch, and {_loss(min(losses))} at its lowest.",
        _kept_epoch(phase.best_epoch, losses),
    ]
    return Diagnosis("few epochs", evidence, [])


def _both_rose(run: TrainingRun) -> Diagnosis | None:
    train, validation = run.train, run.validation
    if not (train.has_risen() and validation.has_risen()):
        return None
    rise = (
        f"Training loss rose from {_loss(train.lowest)} to {_loss(train.end)}, and validation loss from "
        f"{_loss(validation.lowest)} to {_loss(validation.end)}: the optimizer steps are too large."
    )
    return Diagnosis("diverging", [rise, _kept(run)], remedies.smaller_steps(run.stage))


def _diverged(run: TrainingRun) -> Diagnosis | None:
    chance, highest = run.train.chance, float(run.train.raw.max())
    if highest < DIVERGENCE_FACTOR * chance or not run.is_underfitted():
        return None
    peak = (
        f"Training loss reached {_loss(highest)}, far above the chance level of {_loss(chance)}, and ended at "
        f"{_loss(run.train.end)}: too large an optimizer step destroyed the weights."
    )
    return Diagnosis("diverging", [peak, _kept(run)], remedies.smaller_steps(run.stage))


def _validation_rose(run: TrainingRun) -> Diagnosis | None:
    train, validation = run.train, run.validation
    if not validation.has_risen():
        return None
    start = validation.rise_start()
    before = float(train.smooth[start - 2])
    rise = (
        f"Validation loss was lowest at {_loss(validation.lowest)} and rose from epoch {start} on to "
        f"{_loss(validation.end)}; {_noise(validation)}."
    )
    verb = "fell" if train.end < before else "went"
    meanwhile = f"Meanwhile training loss {verb} from {_loss(before)} to {_loss(train.end)}."
    evidence = [rise, meanwhile, *_chance_level(run), _selected(run, start)]
    kept_too_late = run.kept is not None and run.kept >= start
    suggestions = remedies.regularization(run.stage)
    if kept_too_late:
        suggestions = [*remedies.early_stopping(run.stage), *suggestions]
    return Diagnosis("over-fitting", evidence, suggestions, over_fits_from=start)


def _still_falling(run: TrainingRun) -> Diagnosis | None:
    train, validation = run.train, run.validation
    converged = validation.end < CONVERGED_FRACTION * validation.chance
    if not (train.is_falling() and validation.is_falling()) or converged:
        return None
    train_tail, validation_tail = train.last(4), validation.last(4)
    fall = (
        f"Both losses were still falling at the end: in the last {len(train_tail)} epochs training loss went from "
        f"{_loss(train_tail[0])} to {_loss(train.end)}, validation loss from {_loss(validation_tail[0])} to "
        f"{_loss(validation.end)}."
    )
    return Diagnosis("under-fitting", [fall, _kept(run)], remedies.more_steps(run.stage))


def _accuracy_gap(run: TrainingRun) -> Diagnosis | None:
    gap = run.train_accuracy - run.validation_accuracy
    if gap[-1] < ACCURACY_GAP:
        return None
    small = np.flatnonzero(gap < ACCURACY_GAP)
    start = int(small[-1]) + 2 if small.size else 1
    accuracies = (
        f"At the end accuracy is {_percent(run.train_accuracy[-1])} on the training split and "
        f"{_percent(run.validation_accuracy[-1])} on the validation split: the network has partly memorized the "
        "training photographs."
    )
    steady = "Validation loss did not rise meanwhile, so early stopping did not react."
    evidence = [accuracies, steady, *_chance_level(run), _selected(run, start)]
    return Diagnosis("over-fitting", evidence, remedies.regularization(run.stage), over_fits_from=start)


def _underfitted(run: TrainingRun) -> Diagnosis | None:
    if not run.is_underfitted():
        return None
    levels = (
        f"Neither split was learned well: training loss ended at {_loss(run.train.end)} (accuracy "
        f"{_percent(run.train_accuracy[-1])}), validation loss at {_loss(run.validation.end)} (accuracy "
        f"{_percent(run.validation_accuracy[-1])}); the chance level is {_loss(run.train.chance)}."
    )
    noise = _large_noise(run)
    suggestions = remedies.smaller_steps(run.stage) if noise else remedies.capacity(run.stage)
    return Diagnosis("under-fitting", [levels, *noise, _kept(run)], suggestions)


def _healthy(run: TrainingRun) -> Diagnosis:
    train, validation = run.train, run.validation
    course = (
        f"Validation loss was {_loss(validation.raw[0])} after the first epoch, {_loss(validation.lowest)} at its "
        f"lowest and {_loss(validation.end)} at the end; {_noise(validation)}."
    )
    levels = (
        f"Training loss ended at {_loss(train.end)} with an accuracy of {_percent(run.train_accuracy[-1])}; validation "
        f"accuracy was {_percent(run.validation_accuracy[-1])}."
    )
    regularized = (
        "A training loss above the validation loss is normal here: during training, photographs are augmented and "
        "dropout is active."
    )
    noise = _large_noise(run)
    evidence = [course, levels, *([regularized] if train.end > validation.end else []), *noise, _kept(run)]
    return Diagnosis("healthy", evidence, remedies.smaller_steps(run.stage) if noise else [])


def _selected(run: TrainingRun, start: int) -> str:
    """Return whether the selected network over-fits, for a run that over-fits from the epoch `start` on."""
    if run.kept is None:
        return _kept(run)
    if run.kept < start:
        return f"{_kept(run)} It precedes the over-fitting, so the selected network does not over-fit."
    return f"{_kept(run)} It lies in the over-fitting epochs, so the selected network over-fits."


def _kept(run: TrainingRun) -> str:
    return _kept_epoch(run.kept, run.validation.raw.tolist())


def _kept_epoch(kept: int | None, losses: Sequence[float]) -> str:
    if kept is None:
        return "No epoch was kept: the selected network is the one from before this training run."
    lowest = losses.index(min(losses)) + 1
    if kept == lowest:
        return f"Epoch {lowest} was kept, the one with the lowest validation loss."
    return f"Epoch {kept} was kept; the lowest validation loss is that of epoch {lowest}."


def _chance_level(run: TrainingRun) -> list[str]:
    validation = run.validation
    if validation.lowest < (1 - RELATIVE_CHANGE) * validation.chance:
        return []
    level = f"Validation loss never fell clearly below the chance level of {_loss(validation.chance)}"
    return [f"{level}: check that the photographs are in the right classes."]


def _large_noise(run: TrainingRun) -> list[str]:
    validation = run.validation
    if validation.noise < NOISY_FRACTION * validation.chance:
        return []
    return [
        f"Validation loss varies by about {_loss(validation.noise)} from epoch to epoch: the optimizer steps are large."
    ]


def _noise(curve: LossCurve) -> str:
    return f"its noise from epoch to epoch is about {_loss(curve.noise)}"


def _loss(loss: float) -> str:
    return f"{loss:.3g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"
