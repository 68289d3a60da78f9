from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML

from tests.conftest import training_params
from transfer.evaluation import diagnosis
from transfer.evaluation.diagnosis import Diagnosis, Remedy
from transfer.network import heads
from transfer.training import fit
from transfer.training.history import Phase

PARAMS = YAML(typ="safe").load(Path(__file__).parents[3] / "params.yaml")
STAGES = ("train_head", "fine_tune")
SEEDS = 20

Series = NDArray[np.float64]


class Losses(NamedTuple):
    """Both losses of a training, a number an epoch."""

    train: Series
    validation: Series


def falling(epochs: int, *, start: float, end: float, pace: float) -> Series:
    """A loss that comes down from `start` towards `end`; after `pace` epochs a third of the way is left."""
    return end + (start - end) * np.exp(-np.arange(epochs) / pace)


def rising(epochs: int, *, after: int, by: float) -> Series:
    """Nothing for so many epochs, then a steady rise."""
    return np.maximum(0, np.arange(1, epochs + 1) - after) * by / (epochs - after)


def healthy(epochs: int) -> Losses:
    """Both losses come down and stay there; dropout keeps training loss above."""
    return Losses(
        falling(epochs, start=0.5, end=0.08, pace=epochs / 12), falling(epochs, start=0.3, end=0.05, pace=epochs / 12)
    )


def over_fitted(epochs: int, *, after: int, by: float = 0.05) -> Losses:
    """Training loss goes on falling towards nothing; validation loss comes down to 0.05 and rises again."""
    train, validation = falling(epochs, start=0.5, end=0.0, pace=epochs / 5), healthy(epochs).validation
    return Losses(train, validation + rising(epochs, after=after, by=by))


def unfinished(epochs: int) -> Losses:
    """Both losses are on their way down when the training ends."""
    return Losses(
        falling(epochs, start=0.7, end=0.0, pace=epochs / 2), falling(epochs, start=0.65, end=0.0, pace=epochs / 2)
    )


def stuck(epochs: int) -> Losses:
    """Both losses stay where guessing between two classes is."""
    return Losses(np.full(epochs, 0.7), np.full(epochs, 0.69))


def diverged(epochs: int) -> Losses:
    """Both losses come down and then rise together."""
    rise = rising(epochs, after=epochs // 3, by=0.6)
    return Losses(*(losses + rise for losses in healthy(epochs)))


def noisy(losses: Losses, *, noise: float, seed: int) -> Losses:
    """Losses that vary from epoch to epoch by chance, by a part of themselves."""
    random = np.random.default_rng(seed)
    return Losses(*(one * (1 + noise * random.normal(size=len(one))) for one in losses))


def stopped(losses: Losses, *, patience: int) -> Losses:
    """Losses up to where early stopping ends the training."""
    best = [int(losses.validation[: epoch + 1].argmin()) for epoch in range(len(losses.validation))]
    late = [epoch for epoch, best_epoch in enumerate(best) if epoch - best_epoch >= patience]
    end = late[0] + 1 if late else len(best)
    return Losses(losses.train[:end], losses.validation[:end])


def phase(losses: Losses, *, stage: str = "train_head") -> Phase:
    """A training with these losses, whose best epoch was kept; accuracies follow from the losses."""
    history = [
        {"loss": loss, "accuracy": np.exp(-loss), "val_loss": val_loss, "val_accuracy": np.exp(-val_loss)}
        for loss, val_loss in zip(*losses, strict=True)
    ]
    return Phase(stage, history, int(losses.validation.argmin()) + 1)


def diagnosed(losses: Losses, *, stage: str = "train_head") -> Diagnosis:
    """What is said of these losses, of two classes."""
    return diagnosis.diagnose(phase(losses, stage=stage), classes=2)


def share(verdict: str, draw: Callable[[int], Losses]) -> float:
    """Of which part of the histories drawn by chance this is said."""
    return float(np.mean([diagnosed(draw(seed)).verdict == verdict for seed in range(SEEDS)]))


KNOWN = {"healthy": healthy, "under-fitting": unfinished, "diverging": diverged}


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("epochs", [6, 8, 15, 30, 60])
@pytest.mark.parametrize("verdict", KNOWN)
def test_a_known_training_is_told(verdict: str, epochs: int, noise: float) -> None:
    """Healthy, unfinished and diverging trainings are called so, short or long, smooth or noisy."""
    assert share(verdict, lambda seed: noisy(KNOWN[verdict](epochs), noise=noise, seed=seed)) >= 0.85


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("epochs", [8, 15, 30, 60])
def test_over_fitting_is_told_with_its_epoch(epochs: int, noise: float) -> None:
    """A validation loss that doubles after its lowest point is over-fitting, from about the epoch where it turned."""
    turn = epochs // 2
    found = [
        diagnosed(noisy(over_fitted(epochs, after=turn, by=0.08), noise=noise, seed=seed)) for seed in range(SEEDS)
    ]
    told = [one for one in found if one.verdict == "over-fitting"]
    assert len(told) >= 0.85 * SEEDS
    starts = [one.over_fits_from for one in told if one.over_fits_from]
    assert turn <= np.median(starts) <= turn + 1 + epochs / 6


@pytest.mark.parametrize(("epochs", "patience"), [(5, 99), (8, 4), (15, 4), (20, 99), (60, 15), (60, 99)])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.2])
def test_chance_is_not_taken_for_a_rise(epochs: int, patience: int, noise: float) -> None:
    """Losses that only vary by chance are called healthy, also where early stopping ends them above their lowest."""
    flat = Losses(np.full(epochs, 0.07), np.full(epochs, 0.05))
    assert share("healthy", lambda seed: stopped(noisy(flat, noise=noise, seed=seed), patience=patience)) >= 0.9


def test_a_rise_of_less_than_a_tenth_does_not_matter() -> None:
    """Without any noise, a rise by a twentieth is healthy and one by a fifth is over-fitting."""
    assert diagnosed(over_fitted(30, after=15, by=0.05 / 20)).verdict == "healthy"
    assert diagnosed(over_fitted(30, after=15, by=0.05 / 5)).verdict == "over-fitting"


def test_a_trifle_does_not_matter() -> None:
    """A validation loss that trebles from next to nothing to next to nothing is healthy."""
    tiny = Losses(*(losses / 100 for losses in over_fitted(30, after=15, by=0.1)))
    assert diagnosed(tiny).verdict == "healthy"


def test_a_single_spike_is_no_rise() -> None:
    """One bad epoch, even the last, makes no over-fitting."""
    for epoch in (12, 29):
        losses = noisy(healthy(30), noise=0.02, seed=0)
        losses.validation[epoch] *= 4
        assert diagnosed(losses).verdict == "healthy"


def test_training_loss_above_validation_loss_is_healthy() -> None:
    """Augmentation and dropout make training harder than validation, and the evidence says so."""
    found = diagnosed(noisy(healthy(30), noise=0.02, seed=0))
    assert found.verdict == "healthy"
    assert any("no fault" in sentence for sentence in found.evidence)
    assert found.remedies == []


def test_the_epoch_kept_cures_over_fitting() -> None:
    """Early stopping hands on an epoch from before the rise, and the evidence says so."""
    found = diagnosed(stopped(over_fitted(60, after=30), patience=15))
    assert found.verdict == "over-fitting"
    assert "was kept, that of the lowest validation loss" in found.evidence[-1]
    assert "from before that" in found.evidence[-1]
    assert not any("early_stopping" in remedy.param for remedy in found.remedies)
    none_kept = diagnosis.diagnose(phase(over_fitted(60, after=30))._replace(best_epoch=None), classes=2)
    assert "None of its epochs was kept" in none_kept.evidence[-1]


def test_an_epoch_kept_after_the_rise_is_no_cure() -> None:
    """Without early stopping the last epoch is handed on: it over-fits, and early stopping is the first to try."""
    found = diagnosis.diagnose(phase(over_fitted(60, after=30))._replace(best_epoch=60), classes=2)
    assert "Epoch 60 was kept; that of the lowest validation loss is 30" in found.evidence[-1]
    assert "the network that is handed on over-fits" in found.evidence[-1]
    assert found.remedies[0].param == "train_head.training.early_stopping"


def test_the_epoch_of_the_lowest_loss_does_not_over_fit() -> None:
    """Over-fitting begins after the epoch that early stopping keeps, however short the training is."""
    for after in (2, 3, 4, 5):
        losses = over_fitted(11, after=after, by=0.1)
        best = int(losses.validation.argmin()) + 1
        assert (diagnosed(losses).over_fits_from or 0) > best


def test_a_training_whose_last_epoch_is_its_best_does_not_over_fit() -> None:
    """Whatever the smoothed curve does, nothing follows the best epoch."""
    losses = Losses(np.full(30, 0.15), over_fitted(30, after=15, by=0.1).validation)
    assert diagnosed(losses).verdict == "over-fitting"
    losses.validation[-1] = 0.01
    assert diagnosed(losses).verdict == "healthy"


def test_evidence_has_the_numbers() -> None:
    """Over-fitting is shown with where validation loss was and went, and with what training loss did meanwhile."""
    rise, meanwhile, *_ = diagnosed(over_fitted(60, after=30, by=0.05)).evidence
    assert "down at 0.05" in rise
    assert "to 0.09" in rise  # the last is 0.1; a running median lags
    assert "meanwhile fell from 0.04" in meanwhile


def test_learning_by_heart_is_over_fitting_without_a_rise() -> None:
    """Where training is right far more often than validation, a flat validation loss is no comfort."""
    losses = Losses(falling(30, start=0.6, end=0.01, pace=5), falling(30, start=0.6, end=0.4, pace=3))
    found = diagnosed(noisy(losses, noise=0.01, seed=0))
    assert found.verdict == "over-fitting"
    assert found.over_fits_from in range(3, 10)
    assert "early stopping has not seen it" in " ".join(found.evidence)
    assert "the network that is handed on over-fits" in found.evidence[-1]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_a_network_that_guesses_under_fits(classes: int, noise: float) -> None:
    """Losses about ln(classes) are under-fitting, with the number that guessing has."""
    flat = Losses(*(losses * np.log(classes) / np.log(2) for losses in stuck(20)))
    found = [diagnosis.diagnose(phase(noisy(flat, noise=noise, seed=seed)), classes=classes) for seed in range(SEEDS)]
    assert np.mean([one.verdict == "under-fitting" for one in found]) >= 0.9
    told = " ".join(sentence for one in found for sentence in one.evidence)
    assert f"guessing has {np.log(classes):.3g}" in told


def test_the_same_loss_is_much_of_two_classes_and_little_of_many() -> None:
    """How well a network has learned is measured against guessing: 0.6 is poor of two classes and good of ten."""
    losses = Losses(np.full(20, 0.62), np.full(20, 0.6))
    verdicts = [diagnosis.diagnose(phase(losses), classes=classes).verdict for classes in (2, 10)]
    assert verdicts == ["under-fitting", "healthy"]


def test_steps_that_ruin_a_network_are_told_from_steps_too_small() -> None:
    """Of two networks that learned nothing, the one whose loss was thrown up is to take smaller steps, not larger."""
    small, thrown = stuck(20), stuck(20)
    thrown.train[0] = 60.0
    learning_rates = [
        next(remedy.change for remedy in diagnosed(losses).remedies if remedy.param.endswith("learning_rate"))
        for losses in (small, thrown)
    ]
    assert learning_rates == ["raise", "lower"]
    assert diagnosed(thrown).verdict == "diverging"


def test_jumps_are_answered_with_smaller_steps() -> None:
    """A loss that jumps about is not called healthy without a word on it."""
    found = diagnosed(noisy(Losses(np.full(30, 0.3), np.full(30, 0.3)), noise=0.4, seed=1))
    assert any("jumps" in sentence for sentence in found.evidence)
    assert Remedy("train_head.training.learning_rate", "lower") in found.remedies


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("losses", [healthy, diverged, stuck])
def test_of_three_epochs_nothing_is_said(losses: Callable[[int], Losses], epochs: int) -> None:
    """Up to three epochs are too few, whatever they look like; four are enough."""
    found = diagnosed(losses(epochs))
    assert found.verdict == "too short"
    assert found.evidence[0].endswith(f"Seen: {epochs}.")
    assert diagnosed(stuck(4)).verdict == "under-fitting"


def every_diagnosis(stage: str) -> list[Diagnosis]:
    """A diagnosis of each kind."""
    gap = Losses(falling(30, start=0.6, end=0.01, pace=5), falling(30, start=0.6, end=0.4, pace=3))
    jumping = noisy(Losses(np.full(30, 0.6), np.full(30, 0.6)), noise=0.3, seed=1)
    kinds = [healthy(3), healthy(30), over_fitted(30, after=15), gap, unfinished(30), stuck(30), diverged(30), jumping]
    kept_too_late = phase(over_fitted(30, after=15), stage=stage)._replace(best_epoch=30)
    return [*(diagnosed(losses, stage=stage) for losses in kinds), diagnosis.diagnose(kept_too_late, classes=2)]


def has(params: Any, name: str) -> bool:
    """Whether there is a param, or a section of params, of this dotted name."""
    first, _, rest = name.partition(".")
    return first in params and (not rest or has(params[first], rest))


@pytest.mark.parametrize("stage", STAGES)
def test_a_param_to_try_exists(stage: str) -> None:
    """Every remedy is of a param that params.yaml has, and not one of the other training's own."""
    tried = {remedy.param for found in every_diagnosis(stage) for remedy in found.remedies}
    [other] = set(STAGES) - {stage}
    assert len(tried) > 5
    assert [name for name in tried if not has(PARAMS, name)] == []
    assert not any(param.startswith(f"{other}.training") for param in tried)


def test_each_stage_has_remedies_of_its_own() -> None:
    """What helps a head is not what helps fine-tuning."""
    head, tuned = (every_diagnosis(stage) for stage in STAGES)
    assert [one.verdict for one in head] == [one.verdict for one in tuned]
    assert all(one.remedies != other.remedies for one, other in zip(head, tuned, strict=True) if one.remedies)


def test_nothing_is_lowered_below_nothing() -> None:
    """Less dropout is no advice where there is none; what is not known is left in."""
    remedies = [Remedy("train_head.head.dropout", "lower"), Remedy("train_head.head.l2", "lower")]
    assert diagnosis.applicable(remedies, {"train_head.head.dropout": 0.0}) == remedies[1:]


def test_the_verdict_in_words_has_the_epoch() -> None:
    """A heading says what it is and, of over-fitting, from when on."""
    assert diagnosis.in_words(Diagnosis("healthy", [], [])) == "healthy"
    assert diagnosis.in_words(Diagnosis("over-fitting", [], [], 7)) == "over-fitting from epoch 7 on"


def trained(*, signal: float, learning_rate: float = 1e-2, epochs: int = 30) -> Diagnosis:
    """Train a head with Keras, without dropout, on features of 24 photographs that show so much of their class."""
    random = np.random.default_rng(0)
    labels = np.arange(48) % 2
    rows = random.normal(size=(48, 1, 1, 32)) + signal * np.where(labels, 1, -1)[:, None, None, None]
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[32], activation="relu", dropout=0.0, l1=0.0, l2=0.0
    )
    head = heads.build(settings, feature_map=(1, 1, 32), classes=2, seed=0)
    steps = training_params("train_head", learning_rate=learning_rate, epochs=epochs)
    fit.compile_model(head, fit.Params.model_validate(steps), batches=1)
    shown, validation = (rows[:24], labels[:24, None]), (rows[24:], labels[24:, None])
    logs = head.fit(*shown, validation_data=validation, batch_size=24, epochs=epochs, verbose=0).history
    columns = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}
    history = [{column: logs[name][epoch] for column, name in columns.items()} for epoch in range(epochs)]
    return diagnosis.diagnose(Phase("train_head", history, best_epoch=1), classes=2)


def test_a_real_training_on_noise_over_fits() -> None:
    """A head that learns photographs by heart whose features have nothing to do with their class is found out."""
    found = trained(signal=0.0)
    assert found.verdict == "over-fitting"
    assert "guessing has" in " ".join(found.evidence)


def test_a_real_training_in_tiny_steps_under_fits() -> None:
    """A head that hardly moves is told to move more."""
    found = trained(signal=0.3, learning_rate=1e-7, epochs=8)
    assert found.verdict == "under-fitting"
    assert Remedy("train_head.training.learning_rate", "raise") in found.remedies


def test_a_real_training_that_learns_is_healthy() -> None:
    """A head that has learned to tell its photographs apart is left alone."""
    assert trained(signal=1.0).verdict == "healthy"
