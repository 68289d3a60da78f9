import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from transfer.evaluation import scores


def two_classes(*of_second: float) -> NDArray[np.float64]:
    """Probabilities of two classes, from the second's."""
    second = np.array(of_second)
    return np.stack([1 - second, second], axis=1)


def three_classes(photographs: int, *, digits: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Labels, and probabilities that lean towards them; few digits make ties."""
    random = np.random.default_rng(0)
    labels = np.arange(photographs) % 3
    odds = random.normal(size=(photographs, 3)) + 1.2 * np.eye(3)[labels]
    probabilities = np.round(np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True), digits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_the_published_one(right: int, total: int, low: float, high: float) -> None:
    """The interval agrees with the table of Newcombe (1998), its third method."""
    assert scores.wilson_interval(right, total, confidence=0.95) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_a_perfect_score_ends_at_one() -> None:
    """All photographs right is no proof that all others would be."""
    low, high = scores.wilson_interval(400, 400, confidence=0.95)
    assert (low, high) == pytest.approx((0.9905, 1.0), abs=5e-5)
    assert high <= 1


def test_higher_confidence_widens_the_interval() -> None:
    """The confidence asked for is the one that is used."""
    narrow, wide = (scores.wilson_interval(90, 100, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("first_alone", "second_alone", "p"), [(1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 5, 2 / 32), (4, 4, 1), (0, 0, 1)]
)
def test_mcnemar_is_exact_and_two_sided(first_alone: int, second_alone: int, p: float) -> None:
    """The p-value is the binomial one, and never above 1."""
    assert scores.mcnemar_p(first_alone, second_alone) == pytest.approx(p)


def test_mcnemar_takes_thousands_of_photographs() -> None:
    """Large counts do not overflow."""
    assert scores.mcnemar_p(2400, 2600) == pytest.approx(0.00487, rel=0.01)


def test_comparison_counts_what_only_one_has_right() -> None:
    """Photographs that both models have right, or both wrong, say nothing about which is better."""
    labels = np.array([0, 1, 1, 0])
    compared = scores.compare(labels, two_classes(0.1, 0.9, 0.2, 0.8), two_classes(0.1, 0.8, 0.7, 0.9))
    assert compared == scores.Comparison(first_alone=0, second_alone=1, p=1.0)


def test_log_loss_by_hand() -> None:
    """The log loss is the mean negative logarithm of the probability of what is right."""
    labels = np.array([1, 0])
    assert scores.log_loss(labels, two_classes(0.8, 0.5)) == pytest.approx((-np.log(0.8) - np.log(0.5)) / 2)


def test_log_loss_of_an_utter_mistake_is_what_keras_calls_its_loss() -> None:
    """A probability of 0 for what is right counts as 1e-7, as it does in training."""
    assert scores.log_loss(np.array([1, 0]), two_classes(0.0, 0.0)) == pytest.approx(-np.log(1e-7) / 2, rel=1e-5)


def test_roc_auc_by_hand() -> None:
    """The area is the share of pairs that are in order: here three of four."""
    assert scores.roc_auc(np.array([0, 0, 1, 1]), two_classes(0.1, 0.4, 0.35, 0.8)) == pytest.approx(0.75)


def test_roc_auc_of_three_classes() -> None:
    """Of more than two classes the area is the mean of each against the others."""
    labels, probabilities = three_classes(90, digits=8)
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert scores.roc_auc(labels, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 8])
def test_roc_curve_has_the_area_of_the_score(digits: int) -> None:
    """The picture and the number say the same, with ties and without."""
    labels, probabilities = three_classes(90, digits=digits)
    rates = np.array(scores.roc_curve(labels, probabilities))
    assert (rates[0] == 0).all()
    assert (rates[-1] == 1).all()
    assert (np.diff(rates, axis=0) >= 0).all()
    assert metrics.auc(*rates.T) == pytest.approx(scores.roc_auc(labels, probabilities))


def test_confusion_has_a_row_for_what_is_shown() -> None:
    """Rows are what photographs show, columns what is predicted."""
    labels = np.array([0, 0, 0, 1])
    assert scores.confusion(labels, two_classes(0.1, 0.9, 0.8, 0.7)) == [[1, 2], [0, 1]]


def test_confusion_has_a_column_for_a_class_never_predicted() -> None:
    """The table keeps its shape when a class is never predicted."""
    assert scores.confusion(np.array([0, 1, 2]), np.tile([0.6, 0.2, 0.2], (3, 1))) == [[1, 0, 0]] * 3


def test_each_class_has_its_recall_and_precision() -> None:
    """Recall is the part of a row, precision the part of a column, that lies on the diagonal."""
    first, second, third = scores.by_class([[6, 1, 1], [0, 4, 0], [2, 0, 6]])
    assert first == scores.ClassScores(photographs=8, recall=6 / 8, precision=6 / 8)
    assert second == scores.ClassScores(photographs=4, recall=1.0, precision=4 / 5)
    assert third == scores.ClassScores(photographs=8, recall=6 / 8, precision=6 / 7)


def test_a_class_never_predicted_has_no_precision() -> None:
    """Where nothing is taken for a class there is nothing to be right about."""
    never, always = scores.by_class([[0, 3], [0, 3]])
    assert (never.recall, never.precision) == (0.0, None)
    assert always.precision == 0.5


def test_recall_and_precision_are_the_usual_ones() -> None:
    """They agree with scikit-learn's."""
    labels, probabilities = three_classes(90, digits=8)
    precision, recall, _, photographs = metrics.precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    found = scores.by_class(scores.confusion(labels, probabilities))
    assert [each.precision for each in found] == pytest.approx(precision)
    assert [each.recall for each in found] == pytest.approx(recall)
    assert [each.photographs for each in found] == photographs.tolist()


def test_mistakes_come_by_falling_confidence() -> None:
    """Wrong predictions only, the surest first."""
    labels = np.array([0, 0, 1, 0, 1])
    assert scores.most_confident_errors(labels, two_classes(0.6, 0.9, 0.9, 0.2, 0.3)) == [1, 4, 0]


def test_the_least_certain_come_by_growing_distance() -> None:
    """What counts is how close the two likeliest classes are, not how likely the first of them is."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.48, 0.47, 0.05], [0.1, 0.1, 0.8], [0.4, 0.2, 0.4]])
    assert scores.least_certain(probabilities) == [3, 1, 0, 2]


def test_reliability_groups_by_confidence() -> None:
    """A bin has its photographs' mean confidence and accuracy; empty bins are left out."""
    labels = np.array([1, 0, 1, 0])
    bins = scores.reliability(labels, two_classes(0.92, 0.06, 0.98, 0.7), bins=5)
    assert [each.photographs for each in bins] == [1, 3]
    assert [each.confidence for each in bins] == pytest.approx([0.7, (0.92 + 0.94 + 0.98) / 3])
    assert [each.accuracy for each in bins] == [0.0, 1.0]


def test_reliability_takes_certainty_and_perplexity() -> None:
    """The surest and the least sure prediction there can be fall into the last and the first bin."""
    bins = scores.reliability(np.array([0, 1]), np.array([[1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0]]), bins=10)
    assert [each.confidence for each in bins] == pytest.approx([1 / 3, 1.0])


def test_calibration_error_by_hand() -> None:
    """The calibration error weighs each bin by its photographs."""
    bins = [scores.Bin(30, confidence=0.9, accuracy=0.8), scores.Bin(10, confidence=0.6, accuracy=0.8)]
    assert scores.calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)


def test_findings_fit_together() -> None:
    """Accuracy, confusion and bins count the same photographs."""
    labels, probabilities = three_classes(90, digits=8)
    found = scores.score(labels, probabilities, confidence=0.95, bins=10)
    right = sum(found.confusion[number][number] for number in range(3))
    assert found.scores.accuracy == pytest.approx(right / 90)
    assert found.scores.accuracy_low < found.scores.accuracy < found.scores.accuracy_high
    assert sum(each.photographs for each in found.classes) == sum(each.photographs for each in found.bins) == 90
    assert sum(each.photographs * each.accuracy for each in found.bins) == pytest.approx(right)
