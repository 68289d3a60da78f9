from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from transfer.evaluation import promotion_rule, scores
from transfer.evaluation.scores import Labels, Probabilities
from transfer.runtime import params

SETTINGS = promotion_rule.Params(minimum_accuracy=0.9, accuracy_margin=0.01, confidence=0.95, resamples=2000, seed=0)
ROOT = Path(__file__).parents[3]


def answers(labels: Labels, *, logit: float, wrong: int = 0, noise: float = 0.0, seed: int = 1) -> Probabilities:
    """Return probabilities whose log odds are `logit` for the true class; the first `wrong` photographs are wrong."""
    signs = np.where(np.arange(len(labels)) < wrong, -1, 1) * (2 * labels - 1)
    odds = signs * logit + np.random.default_rng(seed).normal(0, 1, len(labels)) * noise
    second = 1 / (1 + np.exp(-odds))
    return np.stack([1 - second, second], axis=1)


@pytest.fixture
def labels() -> Labels:
    """The class numbers of 200 photographs of two classes."""
    return np.arange(200) % 2


def test_losses_have_the_mean_that_the_scores_report(labels: Labels) -> None:
    """The loss of each photograph averages to the log loss of the scores, also where a probability is 0."""
    certain = np.eye(3)[np.arange(200) % 3]
    for probabilities in (answers(labels, logit=1, wrong=7, noise=0.5), certain):
        assert promotion_rule.losses(labels, probabilities).mean() == pytest.approx(
            scores.log_loss(labels, probabilities)
        )


def test_the_bootstrap_agrees_with_another_one() -> None:
    """The interval is that of SciPy's percentile bootstrap, within the error of the draws; a seed repeats it."""
    differences = np.random.default_rng(3).normal(-0.1, 1, 80)
    ours = promotion_rule.paired_bootstrap(differences, confidence=0.9, resamples=20_000, seed=0)
    theirs = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours == promotion_rule.paired_bootstrap(differences, confidence=0.9, resamples=20_000, seed=0)


def test_the_bootstrap_covers_the_true_difference() -> None:
    """Of many samples without a difference, the interval excludes zero in about one of twenty."""
    random = np.random.default_rng(0)
    intervals = [
        promotion_rule.paired_bootstrap(random.normal(0, 1, 100), confidence=0.95, resamples=500, seed=0)
        for _ in range(400)
    ]
    excluded = sum(not interval.low <= 0 <= interval.high for interval in intervals)
    assert 8 <= excluded <= 40


def test_a_better_network_is_promoted(labels: Labels) -> None:
    """A lower log loss on the same photographs is enough if the accuracy is equal."""
    verdict = promotion_rule.decide(labels, answers(labels, logit=3), answers(labels, logit=2, noise=0.1), SETTINGS)
    assert verdict.promoted
    assert verdict.high is not None
    assert verdict.high < 0
    assert "log loss 0.0486 against 0.12" in verdict.reason


@pytest.mark.parametrize(("logit", "wrong"), [(2, 0), (1.5, 0), (2, 20)])
def test_the_champion_stays(labels: Labels, logit: float, wrong: int) -> None:
    """A tie and a worse network are refused."""
    verdict = promotion_rule.decide(
        labels, answers(labels, logit=logit, wrong=wrong), answers(labels, logit=2), SETTINGS
    )
    assert not verdict.promoted


def test_a_difference_that_chance_explains_is_refused(labels: Labels) -> None:
    """A lower mean log loss is refused while its interval reaches zero."""
    equally_good = [answers(labels, logit=1.0, noise=1.0, seed=seed) for seed in (1, 4)]
    ours, theirs = sorted(equally_good, key=lambda predicted: float(promotion_rule.losses(labels, predicted).mean()))
    verdict = promotion_rule.decide(labels, ours, theirs, SETTINGS)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 0 <= verdict.high
    assert promotion_rule.losses(labels, ours).mean() < promotion_rule.losses(labels, theirs).mean()
    assert not verdict.promoted
    assert "not better beyond chance" in verdict.reason


def test_a_lower_accuracy_is_refused_whatever_the_log_loss(labels: Labels) -> None:
    """A network with a far better log loss is refused if it errs on more photographs than the margin allows."""
    champion = answers(labels, logit=0.05)
    three_wrong = answers(labels, logit=0.9, wrong=3)
    two_wrong = answers(labels, logit=0.9, wrong=2)
    refused = promotion_rule.decide(labels, three_wrong, champion, SETTINGS)
    assert not refused.promoted
    assert "lower by more than 0.01" in refused.reason
    assert promotion_rule.decide(labels, two_wrong, champion, SETTINGS).promoted


def test_the_first_network_needs_a_minimum(labels: Labels) -> None:
    """Without a champion, the accuracy alone decides."""
    assert promotion_rule.decide(labels, answers(labels, logit=1, wrong=20), None, SETTINGS).promoted
    refused = promotion_rule.decide(labels, answers(labels, logit=9, wrong=21), None, SETTINGS)
    assert not refused.promoted
    assert "0.8950 is below `promote.minimum_accuracy`, 0.9" in refused.reason


@pytest.mark.parametrize(
    "change", [{"minimum_accuracy": 1.1}, {"confidence": 1}, {"resamples": 10}, {"margin": 0.1}, {"seed": "0"}]
)
def test_wrong_parameters_are_refused(change: dict[str, Any]) -> None:
    """The section is strict: ranges, types and names are checked."""
    with pytest.raises(ValidationError):
        promotion_rule.Params.model_validate(SETTINGS.model_dump() | change)


def test_the_defaults_are_allowed() -> None:
    """params.yaml has a section `promote` with allowed values."""
    values = params.read(ROOT / "params.yaml")["promote"]
    assert params.parse("promote", values, promotion_rule.Params)
