"""Diagnosis: whether a training over-fits, under-fits or is healthy, told from its history alone.

Curves are compared after a running median, and a rise or fall counts only where it is both more than chance and enough
to matter. How much is chance is estimated from the curve itself: from how far each epoch lies off the line between its
neighbours (Gasser, Sroka and Jennen-Steinmetz, 1986, "Residual variance and residual pattern in nonlinear regression"),
by the median, so that single spikes do not pass for noise.

Training loss above validation loss is no symptom: while training, photographs are augmented and dropout is on.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.training.history import Phase

Verdict = Literal["too short", "diverging", "over-fitting", "under-fitting", "healthy"]
Series = NDArray[np.float64]  # a number an epoch

FEWEST = 4  # epochs, to tell a trend from chance
WINDOW = 5  # epochs of the running median; of long trainings a quarter
SIGNIFICANT = 3.0  # times the noise: a flat curve with noise alone ends so far up in one case of twenty
MATERIAL = 0.1  # part of a loss by which it must change to matter
TRIFLE = 0.005  # part of the loss of guessing that never matters
GAP = 0.1  # by which accuracy on the training split must be above that on the validation split to matter
LITTLE = 0.5  # part of the loss of guessing: whoever is left with more has learned little
WELL = 0.05  # part of the loss of guessing: whoever is left with less has learned nearly all there is
THROWN = 3.0  # times the loss of guessing: more than an untrained network has
JUMP = 0.05  # part of the loss of guessing: larger noise comes from large steps

RAISE, LOWER = "raise", "lower"

_OF_NORMAL = 0.6745  # the median of a normal number's absolute value, in standard deviations


class Remedy(NamedTuple):
    """Something to try: a param by its dotted name, and what to do with it."""

    param: str
    change: str


class Diagnosis(NamedTuple):
    """What a history says of its training: the verdict, the numbers behind it, and what to try.

    `over_fits_from` is the epoch, from 1, from which on the training split alone is learned.
    """

    verdict: Verdict
    evidence: list[str]
    remedies: list[Remedy]
    over_fits_from: int | None = None


class Curve(NamedTuple):
    """The losses of a split, as they are and after a running median, and the noise on them, a standard deviation.

    `guessing` is the loss that guessing has: what losses are large or small against.
    """

    raw: Series
    smooth: Series
    noise: float
    guessing: float

    @property
    def end(self) -> float:
        """The loss at the end."""
        return float(self.smooth[-1])

    @property
    def lowest(self) -> float:
        """The lowest loss."""
        return float(self.smooth.min())

    @property
    def matters(self) -> float:
        """By how much it must change to matter."""
        return max(MATERIAL * self.lowest, TRIFLE * self.guessing)

    def last(self, part: int) -> Series:
        """The last half, third and so on, and no fewer epochs than the running median takes to forget."""
        return self.smooth[-max(WINDOW, len(self.smooth) // part) :]

    def has_risen(self) -> bool:
        """Whether it ends above its lowest point, for sure and enough to matter."""
        rise = self.end - self.lowest
        return rise > max(SIGNIFICANT * self.noise, self.matters) and self.rises_from() <= len(self.raw)

    def rises_from(self) -> int:
        """The epoch, from 1, after the last one in which it was as low as it gets, with the noise or without."""
        low = np.flatnonzero(self.smooth <= self.lowest + self.noise)
        return int(max(low[-1], self.raw.argmin())) + 2

    def is_falling(self) -> bool:
        """Whether it fell for sure in its last half, and enough to matter in its last quarter."""
        surely = float(self.last(2)[0]) - self.end > SIGNIFICANT * self.noise
        return surely and float(self.last(4)[0]) - self.end > self.matters


class Course(NamedTuple):
    """A training as it is looked at: its stage, the epoch kept, and the curves."""

    stage: str
    kept: int | None
    train: Curve
    validation: Curve
    train_accuracy: Series  # after a running median, as the next
    validation_accuracy: Series

    def has_learned_little(self) -> bool:
        """Whether neither split was learned well."""
        return min(self.train.end, self.validation.lowest) > LITTLE * self.train.guessing


def diagnose(phase: Phase, *, classes: int) -> Diagnosis:
    """Tell from a training's history what was wrong with it, if anything.

    - Diverging: both losses rose, or the training loss was thrown far above that of guessing and little was learned.
    - Over-fitting: the validation loss rose from its lowest point and the training loss did not, or the training split
      was learned far better than the validation split.
    - Under-fitting: both losses were still falling when the training ended and had some way to go, or neither split was
      learned well.

    Args:
        phase: stage, history (log losses without penalties) and the epoch kept, if any was.
        classes: how many there are; guessing has a log loss of ln(classes).

    Returns:
        "healthy" where none of these applies, and "too short" of fewer than `FEWEST` epochs. Where several do, a loss
        that rises goes before one that falls, and both go before where they have come to.
    """
    if len(phase.history) < FEWEST:
        return _too_short(phase)
    course = _course(phase, classes=classes)
    symptoms = (_rise_of_both, _ruin, _rise, _unfinished_fall, _gap, _little)
    return next((found for symptom in symptoms if (found := symptom(course))), _healthy(course))


def in_words(diagnosis: Diagnosis) -> str:
    """The verdict, with the epoch where there is one."""
    start = diagnosis.over_fits_from
    return diagnosis.verdict if start is None else f"{diagnosis.verdict} from epoch {start} on"


def applicable(remedies: Sequence[Remedy], params: Mapping[str, object]) -> list[Remedy]:
    """The remedies but for those that would lower what is nothing already."""
    return [remedy for remedy in remedies if remedy.change != LOWER or params.get(remedy.param, True)]


def _course(phase: Phase, *, classes: int) -> Course:
    loss, accuracy, val_loss, val_accuracy = (
        np.array([epoch[column] for epoch in phase.history])
        for column in ("loss", "accuracy", "val_loss", "val_accuracy")
    )
    return Course(
        stage=phase.stage,
        kept=phase.best_epoch,
        train=_curve(loss, classes=classes),
        validation=_curve(val_loss, classes=classes),
        train_accuracy=_smoothed(accuracy),
        validation_accuracy=_smoothed(val_accuracy),
    )


def _curve(losses: Series, *, classes: int) -> Curve:
    return Curve(losses, _smoothed(losses), _noise(losses), guessing=math.log(classes))


def _smoothed(values: Series) -> Series:
    """The running median; towards both ends its window is cut off."""
    half = max(WINDOW, len(values) // 4) // 2
    return np.array([median(values[max(0, index - half) : index + half + 1]) for index in range(len(values))])


def _noise(values: Series) -> float:
    """Standard deviation of what neighbours do not tell: of three equal ones the middle is off by sqrt(3/2) of it.

    It is that of the second half, as the first epochs are steep and bent.
    """
    off = values[1:-1] - (values[:-2] + values[2:]) / 2
    late = off[-max(WINDOW, len(off) // 2) :]
    return float(math.sqrt(2 / 3) * np.median(np.abs(late)) / _OF_NORMAL)


def _too_short(phase: Phase) -> Diagnosis:
    seen = f"It takes {FEWEST} epochs to tell a trend from chance. Seen: {len(phase.history)}."
    return Diagnosis("too short", [seen], [Remedy(f"{phase.stage}.training.epochs", RAISE)])


def _rise_of_both(course: Course) -> Diagnosis | None:
    train, validation = course.train, course.validation
    if not (train.has_risen() and validation.has_risen()):
        return None
    rise = (
        f"Training loss rose from {_loss(train.lowest)} to {_loss(train.end)}, and validation loss with it from "
        f"{_loss(validation.lowest)} to {_loss(validation.end)}: the steps are too large."
    )
    return Diagnosis("diverging", [rise, _kept(course)], _smaller_steps(course.stage))


def _ruin(course: Course) -> Diagnosis | None:
    guessing, highest = course.train.guessing, float(course.train.raw.max())
    if highest < THROWN * guessing or not course.has_learned_little():
        return None
    ruin = (
        f"Training loss went as high as {_loss(highest)}, where guessing has {_loss(guessing)}, and ended at "
        f"{_loss(course.train.end)}: too large a step has ruined the weights."
    )
    return Diagnosis("diverging", [ruin, _kept(course)], _smaller_steps(course.stage))


def _rise(course: Course) -> Diagnosis | None:
    train, validation = course.train, course.validation
    if not validation.has_risen():
        return None
    start = validation.rises_from()
    before = float(train.smooth[start - 2])
    rise = (
        f"Validation loss was down at {_loss(validation.lowest)} and rose from epoch {start} on to "
        f"{_loss(validation.end)}; {_chance(validation)}."
    )
    way = "fell" if train.end < before else "went"
    meanwhile = f"Training loss meanwhile {way} from {_loss(before)} to {_loss(train.end)}."
    evidence = [rise, meanwhile, *_useless(course), _outcome(course, start)]
    kept_too_late = course.kept is not None and course.kept >= start
    remedies = [*(_earlier_stop(course.stage) if kept_too_late else []), *_better_for_others(course.stage)]
    return Diagnosis("over-fitting", evidence, remedies, over_fits_from=start)


def _unfinished_fall(course: Course) -> Diagnosis | None:
    train, validation = course.train, course.validation
    if not (train.is_falling() and validation.is_falling()) or validation.end < WELL * validation.guessing:
        return None
    before = train.last(4), validation.last(4)
    fall = (
        f"Both losses were still falling when the training ended: in its last {len(before[0])} epochs training loss "
        f"went from {_loss(before[0][0])} to {_loss(train.end)}, validation loss from {_loss(before[1][0])} to "
        f"{_loss(validation.end)}."
    )
    return Diagnosis("under-fitting", [fall, _kept(course)], _more_steps(course.stage))


def _gap(course: Course) -> Diagnosis | None:
    ahead = course.train_accuracy - course.validation_accuracy
    if ahead[-1] < GAP:
        return None
    close = np.flatnonzero(ahead < GAP)
    start = int(close[-1]) + 2 if close.size else 1
    gap = (
        f"At the end {_percent(course.train_accuracy[-1])} of the training split are right and "
        f"{_percent(course.validation_accuracy[-1])} of the validation split: much of what is learned holds only for "
        "the photographs it was learned from."
    )
    steady = "Validation loss did not rise meanwhile, so early stopping has not seen it."
    evidence = [gap, steady, *_useless(course), _outcome(course, start)]
    return Diagnosis("over-fitting", evidence, _better_for_others(course.stage), over_fits_from=start)


def _little(course: Course) -> Diagnosis | None:
    if not course.has_learned_little():
        return None
    little = (
        f"Neither split is learned well: training loss ends at {_loss(course.train.end)} "
        f"({_percent(course.train_accuracy[-1])} right), validation loss at {_loss(course.validation.end)} "
        f"({_percent(course.validation_accuracy[-1])} right), where guessing has {_loss(course.train.guessing)}."
    )
    jumps = _jumps(course)
    remedies = _smaller_steps(course.stage) if jumps else _better_for_all(course.stage)
    return Diagnosis("under-fitting", [little, *jumps, _kept(course)], remedies)


def _healthy(course: Course) -> Diagnosis:
    train, validation = course.train, course.validation
    ends = (
        f"Validation loss was {_loss(validation.raw[0])} after the first epoch, {_loss(validation.lowest)} at its "
        f"lowest and {_loss(validation.end)} at the end; {_chance(validation)}."
    )
    level = (
        f"Training loss ended at {_loss(train.end)} with {_percent(course.train_accuracy[-1])} right; of the "
        f"validation split {_percent(course.validation_accuracy[-1])} were."
    )
    harder = (
        "That training loss is above validation loss is no fault: while training, photographs are augmented and "
        "dropout is on."
    )
    jumps = _jumps(course)
    evidence = [ends, level, *([harder] if train.end > validation.end else []), *jumps, _kept(course)]
    return Diagnosis("healthy", evidence, _smaller_steps(course.stage) if jumps else [])


def _outcome(course: Course, start: int) -> str:
    """What became of over-fitting from an epoch on in the network that is handed on."""
    if course.kept is None:
        return _kept(course)
    if course.kept < start:
        return f"{_kept(course)} It is from before that, so the network that is handed on is free of it."
    return f"{_kept(course)} It is from after that, so the network that is handed on over-fits."


def _kept(course: Course) -> str:
    if course.kept is None:
        return "None of its epochs was kept, so the network that is handed on is the one from before."
    lowest = int(course.validation.raw.argmin()) + 1
    if course.kept == lowest:
        return f"Epoch {lowest} was kept, that of the lowest validation loss."
    return f"Epoch {course.kept} was kept; that of the lowest validation loss is {lowest}."


def _useless(course: Course) -> list[str]:
    validation = course.validation
    if validation.lowest < (1 - MATERIAL) * validation.guessing:
        return []
    guessing = f"Validation loss never came clearly below the {_loss(validation.guessing)} that guessing has: "
    return [f"{guessing}see whether the photographs lie in the right classes."]


def _jumps(course: Course) -> list[str]:
    validation = course.validation
    if validation.noise < JUMP * validation.guessing:
        return []
    return [f"Validation loss jumps by about {_loss(validation.noise)} from epoch to epoch: the steps are large."]


def _chance(curve: Curve) -> str:
    return f"chance alone moves it by about {_loss(curve.noise)} from epoch to epoch"


def _earlier_stop(stage: str) -> list[Remedy]:
    return [Remedy(f"{stage}.training.early_stopping", "monitor val_loss and restore the best weights")]


def _smaller_steps(stage: str) -> list[Remedy]:
    return [Remedy(f"{stage}.training.learning_rate", LOWER), Remedy(f"{stage}.training.batch_size", RAISE)]


def _more_steps(stage: str) -> list[Remedy]:
    return [Remedy(f"{stage}.training.epochs", RAISE), Remedy(f"{stage}.training.learning_rate", RAISE)]


def _better_for_others(stage: str) -> list[Remedy]:
    """What lets a network learn less of the very photographs it is shown."""
    anywhere = [
        Remedy("subsample.photographs", RAISE),
        Remedy("extract_features.views", RAISE),
        Remedy("train_head.head.dropout", RAISE),
        Remedy("train_head.head.l2", RAISE),
    ]
    if stage == "train_head":
        return [*anywhere, Remedy("train_head.head.dense", "fewer units")]
    return [Remedy(f"{stage}.training.learning_rate", LOWER), *anywhere]


def _better_for_all(stage: str) -> list[Remedy]:
    """What lets a network learn more of the photographs it is shown."""
    if stage == "train_head":
        return [
            *_more_steps(stage),
            Remedy("train_head.head.dropout", LOWER),
            Remedy("train_head.head.l2", LOWER),
            Remedy("train_head.head.dense", "more units"),
            Remedy("extract_features.image_size", RAISE),
        ]
    return [*_more_steps(stage), Remedy("extract_features.frozen_through", "an earlier layer")]


def _loss(loss: float) -> str:
    return f"{loss:.3g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"
