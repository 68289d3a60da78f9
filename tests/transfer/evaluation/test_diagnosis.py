from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML

from tests.conftest import training_params
from transfer.evaluation.diagnosis import Diagnosis, diagnose, verdict_text
from transfer.evaluation.remedies import Remedy
from transfer.network import heads
from transfer.training import fit
from transfer.training.history import Phase
from transfer.training.settings import Params as TrainingParams

PARAMS = YAML(typ="safe").load(Path(__file__).parents[3] / "params.yaml")
STAGES = ("train_head", "fine_tune")
SEEDS = 20

Series = NDArray[np.float64]


class Losses(NamedTuple):
    """The losses of a training run by epoch."""

    train: Series
    validation: Series


def falling(epochs: int, *, start: float, end: float, pace: float) -> Series:
    """A loss that decays from `start` towards `end`; after `pace` epochs a third of the distance remains."""
    return end + (start - end) * np.exp(-np.arange(epochs) / pace)


def rising(epochs: int, *, after: int, by: float) -> Series:
    """Zero for `after` epochs, then a linear rise by `by` in total."""
    return np.maximum(0, np.arange(1, epochs + 1) - after) * by / (epochs - after)


def healthy(epochs: int) -> Losses:
    """Both losses fall and stay low; dropout keeps the training loss above the validation loss."""
    return Losses(
        falling(epochs, start=0.5, end=0.08, pace=epochs / 12), falling(epochs, start=0.3, end=0.05, pace=epochs / 12)
    )


def over_fitted(epochs: int, *, after: int, by: float = 0.05) -> Losses:
    """The training loss falls towards zero; the validation loss falls to 0.05 and rises again."""
    train, validation = falling(epochs, start=0.5, end=0.0, pace=epochs / 5), healthy(epochs).validation
    return Losses(train, validation + rising(epochs, after=after, by=by))


def unfinished(epochs: int) -> Losses:
    """Both losses are still falling at the end."""
    return Losses(
        falling(epochs, start=0.7, end=0.0, pace=epochs / 2), falling(epochs, start=0.65, end=0.0, pace=epochs / 2)
    )


def stuck(epochs: int) -> Losses:
    """Both losses stay at the chance level of two classes."""
    return Losses(np.full(epochs, 0.7), np.full(epochs, 0.69))


def diverged(epochs: int) -> Losses:
    """Both losses fall and then rise together."""
    rise = rising(epochs, after=epochs // 3, by=0.6)
    return Losses(*(losses + rise for losses in healthy(epochs)))


def noisy(losses: Losses, *, noise: float, seed: int) -> Losses:
    """Losses with random noise; `noise` is its standard deviation as a fraction of the loss."""
    random = np.random.default_rng(seed)
    return Losses(*(series * (1 + noise * random.normal(size=len(series))) for series in losses))


def stopped(losses: Losses, *, patience: int) -> Losses:
    """Losses up to the epoch in which early stopping ends the run."""
    best = [int(losses.validation[: epoch + 1].argmin()) for epoch in range(len(losses.validation))]
    late = [epoch for epoch, best_epoch in enumerate(best) if epoch - best_epoch >= patience]
    end = late[0] + 1 if late else len(best)
    return Losses(losses.train[:end], losses.validation[:end])


def phase(losses: Losses, *, stage: str = "train_head") -> Phase:
    """A training run with these losses, whose best epoch was kept; accuracies follow from the losses."""
    history = [
        {"loss": loss, "accuracy": np.exp(-loss), "val_loss": val_loss, "val_accuracy": np.exp(-val_loss)}
        for loss, val_loss in zip(*losses, strict=True)
    ]
    return Phase(stage, history, int(losses.validation.argmin()) + 1)


def diagnosed(losses: Losses, *, stage: str = "train_head") -> Diagnosis:
    """The diagnosis of losses of two classes."""
    return diagnose(phase(losses, stage=stage), classes=2)


def share(verdict: str, draw: Callable[[int], Losses]) -> float:
    """The fraction of random histories that get this verdict."""
    return float(np.mean([diagnosed(draw(seed)).verdict == verdict for seed in range(SEEDS)]))


KNOWN = {"healthy": healthy, "under-fitting": unfinished, "diverging": diverged}


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("epochs", [6, 8, 15, 30, 60])
@pytest.mark.parametrize("verdict", KNOWN)
def test_a_typical_run_gets_its_verdict(verdict: str, epochs: int, noise: float) -> None:
    """Healthy, unfinished and diverging runs get their verdicts, whether short or long, smooth or noisy."""
    assert share(verdict, lambda seed: noisy(KNOWN[verdict](epochs), noise=noise, seed=seed)) >= 0.85


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("epochs", [8, 15, 30, 60])
def test_over_fitting_is_dated(epochs: int, noise: float) -> None:
    """A validation loss that more than doubles after its minimum is over-fitting, from about the turning point on."""
    turn = epochs // 2
    diagnoses = [
        diagnosed(noisy(over_fitted(epochs, after=turn, by=0.08), noise=noise, seed=seed)) for seed in range(SEEDS)
    ]
    over_fitting = [diagnosis for diagnosis in diagnoses if diagnosis.verdict == "over-fitting"]
    assert len(over_fitting) >= 0.85 * SEEDS
    starts = [diagnosis.over_fits_from for diagnosis in over_fitting if diagnosis.over_fits_from]
    assert turn <= np.median(starts) <= turn + 1 + epochs / 6


@pytest.mark.parametrize(("epochs", "patience"), [(5, 99), (8, 4), (15, 4), (20, 99), (60, 15), (60, 99)])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.2])
def test_noise_is_no_rise(epochs: int, patience: int, noise: float) -> None:
    """Losses with noise alone are healthy, even if early stopping ends them above their minimum."""
    flat = Losses(np.full(epochs, 0.07), np.full(epochs, 0.05))
    assert share("healthy", lambda seed: stopped(noisy(flat, noise=noise, seed=seed), patience=patience)) >= 0.9


def test_a_rise_of_less_than_a_tenth_does_not_matter() -> None:
    """Without noise, a rise by a twentieth is healthy and one by a fifth is over-fitting."""
    assert diagnosed(over_fitted(30, after=15, by=0.05 / 20)).verdict == "healthy"
    assert diagnosed(over_fitted(30, after=15, by=0.05 / 5)).verdict == "over-fitting"


def test_a_rise_near_zero_does_not_matter() -> None:
    """A validation loss that trebles but stays far below the chance level is healthy."""
    tiny = Losses(*(losses / 100 for losses in over_fitted(30, after=15, by=0.1)))
    assert diagnosed(tiny).verdict == "healthy"


def test_a_single_spike_is_no_rise() -> None:
    """One epoch with a high validation loss, even the last, is not over-fitting."""
    for epoch in (12, 29):
        losses = noisy(healthy(30), noise=0.02, seed=0)
        losses.validation[epoch] *= 4
        assert diagnosed(losses).verdict == "healthy"


def test_training_loss_above_validation_loss_is_healthy() -> None:
    """A training loss above the validation loss is healthy, and the evidence explains why."""
    result = diagnosed(noisy(healthy(30), noise=0.02, seed=0))
    assert result.verdict == "healthy"
    assert any("is normal here" in sentence for sentence in result.evidence)
    assert result.remedies == []


def test_an_epoch_kept_before_the_rise_does_not_over_fit() -> None:
    """If early stopping keeps an epoch from before the rise, the evidence calls the selected network unaffected."""
    result = diagnosed(stopped(over_fitted(60, after=30), patience=15))
    assert result.verdict == "over-fitting"
    assert "was kept, the one with the lowest validation loss" in result.evidence[-1]
    assert "the selected network does not over-fit" in result.evidence[-1]
    assert not any("early_stopping" in remedy.parameter for remedy in result.remedies)
    none_kept = diagnose(phase(over_fitted(60, after=30))._replace(best_epoch=None), classes=2)
    assert "No epoch was kept" in none_kept.evidence[-1]


def test_an_epoch_kept_after_the_rise_over_fits() -> None:
    """Without early stopping the last epoch is kept: it over-fits, and early stopping is the first suggestion."""
    result = diagnose(phase(over_fitted(60, after=30))._replace(best_epoch=60), classes=2)
    assert "Epoch 60 was kept; the lowest validation loss is that of epoch 30" in result.evidence[-1]
    assert "the selected network over-fits" in result.evidence[-1]
    assert result.remedies[0].parameter == "train_head.training.early_stopping"


def test_the_epoch_of_the_lowest_loss_does_not_over_fit() -> None:
    """Over-fitting begins after the epoch that early stopping keeps, even in short runs."""
    for after in (2, 3, 4, 5):
        losses = over_fitted(11, after=after, by=0.1)
        best = int(losses.validation.argmin()) + 1
        assert (diagnosed(losses).over_fits_from or 0) > best


def test_a_run_whose_last_epoch_is_its_best_does_not_over_fit() -> None:
    """If the raw loss is lowest in the last epoch, a rise of the smoothed loss does not count."""
    losses = Losses(np.full(30, 0.15), over_fitted(30, after=15, by=0.1).validation)
    assert diagnosed(losses).verdict == "over-fitting"
    losses.validation[-1] = 0.01
    assert diagnosed(losses).verdict == "healthy"


def test_evidence_has_the_numbers() -> None:
    """The evidence of over-fitting has the minimum and the end of validation loss, and the change of training loss."""
    rise, meanwhile, *_ = diagnosed(over_fitted(60, after=30, by=0.05)).evidence
    assert "lowest at 0.05" in rise
    assert "to 0.09" in rise  # the last is 0.1; a running median lags
    assert "Meanwhile training loss fell from 0.04" in meanwhile


def test_an_accuracy_gap_is_over_fitting_without_a_rise() -> None:
    """If training accuracy is far above validation accuracy, a flat validation loss is over-fitting, too."""
    losses = Losses(falling(30, start=0.6, end=0.01, pace=5), falling(30, start=0.6, end=0.4, pace=3))
    result = diagnosed(noisy(losses, noise=0.01, seed=0))
    assert result.verdict == "over-fitting"
    assert result.over_fits_from in range(3, 10)
    assert "early stopping did not react" in " ".join(result.evidence)
    assert "the selected network over-fits" in result.evidence[-1]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_a_network_at_chance_level_under_fits(classes: int, noise: float) -> None:
    """Losses near ln(classes) are under-fitting, and the evidence has the chance level."""
    flat = Losses(*(losses * np.log(classes) / np.log(2) for losses in stuck(20)))
    diagnoses = [diagnose(phase(noisy(flat, noise=noise, seed=seed)), classes=classes) for seed in range(SEEDS)]
    assert np.mean([diagnosis.verdict == "under-fitting" for diagnosis in diagnoses]) >= 0.9
    evidence = " ".join(sentence for diagnosis in diagnoses for sentence in diagnosis.evidence)
    assert f"the chance level is {np.log(classes):.3g}" in evidence


def test_a_loss_is_judged_against_the_chance_level() -> None:
    """A loss of 0.6 is under-fitting with two classes and healthy with ten."""
    losses = Losses(np.full(20, 0.62), np.full(20, 0.6))
    verdicts = [diagnose(phase(losses), classes=classes).verdict for classes in (2, 10)]
    assert verdicts == ["under-fitting", "healthy"]


def test_divergence_is_distinguished_from_too_small_steps() -> None:
    """Of two networks that learned nothing, the one whose loss exploded needs smaller steps, the other larger ones."""
    small, exploded = stuck(20), stuck(20)
    exploded.train[0] = 60.0
    learning_rates = [
        next(remedy.change for remedy in diagnosed(losses).remedies if remedy.parameter.endswith("learning_rate"))
        for losses in (small, exploded)
    ]
    assert learning_rates == ["raise", "lower"]
    assert diagnosed(exploded).verdict == "diverging"


def test_strong_noise_is_reported() -> None:
    """The evidence mentions strong noise, and smaller steps are suggested."""
    result = diagnosed(noisy(Losses(np.full(30, 0.3), np.full(30, 0.3)), noise=0.4, seed=1))
    assert any("optimizer steps are large" in sentence for sentence in result.evidence)
    assert Remedy("train_head.training.learning_rate", "lower") in result.remedies


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("losses", [healthy, diverged, stuck])
def test_three_epochs_are_few(losses: Callable[[int], Losses], epochs: int) -> None:
    """Fewer than four epochs get no other verdict, whatever their losses; four do."""
    result = diagnosed(losses(epochs))
    assert result.verdict == "few epochs"
    assert result.evidence[0].startswith(f"{epochs} epoch")
    assert result.evidence[2].startswith("Epoch ")
    assert diagnosed(stuck(4)).verdict == "under-fitting"


def every_diagnosis(stage: str) -> list[Diagnosis]:
    """One diagnosis of each kind."""
    gap = Losses(falling(30, start=0.6, end=0.01, pace=5), falling(30, start=0.6, end=0.4, pace=3))
    unsteady = noisy(Losses(np.full(30, 0.6), np.full(30, 0.6)), noise=0.3, seed=1)
    kinds = [healthy(3), healthy(30), over_fitted(30, after=15), gap, unfinished(30), stuck(30), diverged(30), unsteady]
    kept_too_late = phase(over_fitted(30, after=15), stage=stage)._replace(best_epoch=30)
    return [*(diagnosed(losses, stage=stage) for losses in kinds), diagnose(kept_too_late, classes=2)]


def has(params: Any, name: str) -> bool:
    """Return whether there is a parameter, or a section of parameters, with this dotted name."""
    first, _, rest = name.partition(".")
    return first in params and (not rest or has(params[first], rest))


@pytest.mark.parametrize("stage", STAGES)
def test_a_suggested_parameter_exists(stage: str) -> None:
    """Every remedy names a parameter of params.yaml, and no training parameter of the other stage."""
    names = {remedy.parameter for result in every_diagnosis(stage) for remedy in result.remedies}
    [other] = set(STAGES) - {stage}
    assert len(names) > 5
    assert [name for name in names if not has(PARAMS, name)] == []
    assert not any(name.startswith(f"{other}.training") for name in names)


def test_each_stage_has_remedies_of_its_own() -> None:
    """The two stages get the same verdicts and different remedies."""
    head, tuned = (every_diagnosis(stage) for stage in STAGES)
    assert [diagnosis.verdict for diagnosis in head] == [diagnosis.verdict for diagnosis in tuned]
    assert all(first.remedies != second.remedies for first, second in zip(head, tuned, strict=True) if first.remedies)


def test_the_text_of_a_verdict_has_the_epoch() -> None:
    """The text is the verdict and, for over-fitting, its first epoch."""
    assert verdict_text(Diagnosis("healthy", [], [])) == "healthy"
    assert verdict_text(Diagnosis("over-fitting", [], [], 7)) == "over-fitting from epoch 7 on"


def trained(*, signal: float, learning_rate: float = 1e-2, epochs: int = 30) -> Diagnosis:
    """Diagnose a head that Keras trains without dropout on 24 random features.

    Args:
        signal: how far the features of both classes are apart, in standard deviations.
        learning_rate: of the optimizer.
        epochs: number of epochs.
    """
    random = np.random.default_rng(0)
    labels = np.arange(48) % 2
    rows = random.normal(size=(48, 1, 1, 32)) + signal * np.where(labels, 1, -1)[:, None, None, None]
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[32], activation="relu", dropout=0.0, l1=0.0, l2=0.0
    )
    head = heads.build(settings, feature_map=(1, 1, 32), classes=2, seed=0)
    steps = training_params("train_head", learning_rate=learning_rate, epochs=epochs)
    fit.compile_model(head, TrainingParams.model_validate(steps), batches=1)
    train, validation = (rows[:24], labels[:24, None]), (rows[24:], labels[24:, None])
    logs = head.fit(*train, validation_data=validation, batch_size=24, epochs=epochs, verbose=0).history
    columns = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}
    history = [{column: logs[name][epoch] for column, name in columns.items()} for epoch in range(epochs)]
    return diagnose(Phase("train_head", history, best_epoch=1), classes=2)


def test_a_real_run_on_noise_over_fits() -> None:
    """A head trained on features that are independent of the class is over-fitting."""
    result = trained(signal=0.0)
    assert result.verdict == "over-fitting"
    assert "chance level" in " ".join(result.evidence)


def test_a_real_run_in_tiny_steps_under_fits() -> None:
    """A head whose weights hardly change is under-fitting, and a higher learning rate is suggested."""
    result = trained(signal=0.3, learning_rate=1e-7, epochs=8)
    assert result.verdict == "under-fitting"
    assert Remedy("train_head.training.learning_rate", "raise") in result.remedies


def test_a_real_run_that_learns_is_healthy() -> None:
    """A head that has learned to separate the classes is healthy."""
    assert trained(signal=1.0).verdict == "healthy"
