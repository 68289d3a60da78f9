import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from transfer.evaluation import scores


def two_classes(*of_second: float) -> NDArray[np.float64]:
    """Probabilities of two classes, given those of the second class."""
    second = np.array(of_second)
    return np.stack([1 - second, second], axis=1)


def three_classes(photographs: int, *, digits: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Labels, and probabilities correlated with them; few digits produce ties."""
    random = np.random.default_rng(0)
    labels = np.arange(photographs) % 3
    odds = random.normal(size=(photographs, 3)) + 1.2 * np.eye(3)[labels]
    probabilities = np.round(np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True), digits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_equals_published_values(correct: int, total: int, low: float, high: float) -> None:
    """The interval equals that of the third method in the table of Newcombe (1998)."""
    assert scores.wilson_interval(correct, total, confidence=0.95) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_perfect_score_ends_at_one() -> None:
    """The interval of an accuracy of 1 reaches below 1, and not above it."""
    low, high = scores.wilson_interval(400, 400, confidence=0.95)
    assert (low, high) == pytest.approx((0.9905, 1.0), abs=5e-5)
    assert high <= 1


def test_higher_confidence_widens_the_interval() -> None:
    """An interval of higher confidence contains the one of lower confidence."""
    narrow, wide = (scores.wilson_interval(90, 100, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("first_alone", "second_alone", "p"), [(1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 5, 2 / 32), (4, 4, 1), (0, 0, 1)]
)
def test_mcnemar_is_exact_and_two_sided(first_alone: int, second_alone: int, p: float) -> None:
    """The p-value is that of the two-sided binomial test, and at most 1."""
    assert scores.mcnemar_p(first_alone, second_alone) == pytest.approx(p)


def test_mcnemar_takes_thousands_of_photographs() -> None:
    """Large counts do not overflow."""
    assert scores.mcnemar_p(2400, 2600) == pytest.approx(0.00487, rel=0.01)


def test_the_comparison_counts_discordant_pairs() -> None:
    """Photographs that both models predict correctly, or both wrongly, are not counted."""
    labels = np.array([0, 1, 1, 0])
    compared = scores.compare(labels, two_classes(0.1, 0.9, 0.2, 0.8), two_classes(0.1, 0.8, 0.7, 0.9))
    assert compared == scores.Comparison(first_alone=0, second_alone=1, p=1.0)


def test_log_loss_equals_its_definition() -> None:
    """The log loss is the mean negative logarithm of the true class's probability."""
    labels = np.array([1, 0])
    assert scores.log_loss(labels, two_classes(0.8, 0.5)) == pytest.approx((-np.log(0.8) - np.log(0.5)) / 2)


def test_log_loss_clips_probabilities_as_keras_does() -> None:
    """A probability of 0 for the true class counts as 1e-7, as in Keras's loss."""
    assert scores.log_loss(np.array([1, 0]), two_classes(0.0, 0.0)) == pytest.approx(-np.log(1e-7) / 2, rel=1e-5)


def test_roc_auc_equals_its_definition() -> None:
    """The area is the fraction of correctly ordered pairs: here three of four."""
    assert scores.roc_auc(np.array([0, 0, 1, 1]), two_classes(0.1, 0.4, 0.35, 0.8)) == pytest.approx(0.75)


def test_roc_auc_of_three_classes() -> None:
    """For more than two classes the area is the mean over classes, each against the rest."""
    labels, probabilities = three_classes(90, digits=8)
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert scores.roc_auc(labels, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 8])
def test_roc_curve_has_the_area_of_the_score(digits: int) -> None:
    """The area under the curve equals the score, with ties and without."""
    labels, probabilities = three_classes(90, digits=digits)
    rates = np.array(scores.roc_curve(labels, probabilities))
    assert (rates[0] == 0).all()
    assert (rates[-1] == 1).all()
    assert (np.diff(rates, axis=0) >= 0).all()
    assert metrics.auc(*rates.T) == pytest.approx(scores.roc_auc(labels, probabilities))


def test_confusion_has_a_row_for_each_true_class() -> None:
    """Rows are true classes, columns predicted classes."""
    labels = np.array([0, 0, 0, 1])
    assert scores.confusion_matrix(labels, two_classes(0.1, 0.9, 0.8, 0.7)) == [[1, 2], [0, 1]]


def test_confusion_has_a_column_for_a_class_never_predicted() -> None:
    """The matrix is square even if a class is never predicted."""
    assert scores.confusion_matrix(np.array([0, 1, 2]), np.tile([0.6, 0.2, 0.2], (3, 1))) == [[1, 0, 0]] * 3


def test_each_class_has_its_recall_and_precision() -> None:
    """Recall is the diagonal's fraction of a row, precision its fraction of a column."""
    first, second, third = scores.class_scores([[6, 1, 1], [0, 4, 0], [2, 0, 6]])
    assert first == scores.ClassScores(photographs=8, recall=6 / 8, precision=6 / 8)
    assert second == scores.ClassScores(photographs=4, recall=1.0, precision=4 / 5)
    assert third == scores.ClassScores(photographs=8, recall=6 / 8, precision=6 / 7)


def test_a_class_never_predicted_has_no_precision() -> None:
    """The precision of a class that is never predicted is None, its recall 0."""
    never, always = scores.class_scores([[0, 3], [0, 3]])
    assert (never.recall, never.precision) == (0.0, None)
    assert always.precision == 0.5


def test_recall_and_precision_equal_those_of_scikit_learn() -> None:
    """Recall, precision and support of each class equal scikit-learn's."""
    labels, probabilities = three_classes(90, digits=8)
    precision, recall, _, photographs = metrics.precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    by_class = scores.class_scores(scores.confusion_matrix(labels, probabilities))
    assert [of_class.precision for of_class in by_class] == pytest.approx(precision)
    assert [of_class.recall for of_class in by_class] == pytest.approx(recall)
    assert [of_class.photographs for of_class in by_class] == photographs.tolist()


def test_errors_are_sorted_by_falling_confidence() -> None:
    """Only wrong predictions are listed, the most confident first."""
    labels = np.array([0, 0, 1, 0, 1])
    assert scores.most_confident_errors(labels, two_classes(0.6, 0.9, 0.9, 0.2, 0.3)) == [1, 4, 0]


def test_the_least_certain_are_sorted_by_margin() -> None:
    """Predictions are sorted by the margin between the two most probable classes, not by the highest probability."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.48, 0.47, 0.05], [0.1, 0.1, 0.8], [0.4, 0.2, 0.4]])
    assert scores.least_certain(probabilities) == [3, 1, 0, 2]


def test_reliability_groups_by_confidence() -> None:
    """A bin has the mean confidence and the accuracy of its photographs; empty bins are omitted."""
    labels = np.array([1, 0, 1, 0])
    bins = scores.reliability_bins(labels, two_classes(0.92, 0.06, 0.98, 0.7), bins=5)
    assert [group.photographs for group in bins] == [1, 3]
    assert [group.confidence for group in bins] == pytest.approx([0.7, (0.92 + 0.94 + 0.98) / 3])
    assert [group.accuracy for group in bins] == [0.0, 1.0]


def test_reliability_includes_the_highest_and_the_lowest_confidence() -> None:
    """A confidence of 1 falls into the last bin, one of 1 / classes into the first."""
    bins = scores.reliability_bins(np.array([0, 1]), np.array([[1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0]]), bins=10)
    assert [group.confidence for group in bins] == pytest.approx([1 / 3, 1.0])


def test_calibration_error_is_weighted_by_photographs() -> None:
    """The calibration error weights each bin by its number of photographs."""
    bins = [scores.Bin(30, confidence=0.9, accuracy=0.8), scores.Bin(10, confidence=0.6, accuracy=0.8)]
    assert scores.calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)


def test_the_parts_of_an_evaluation_agree() -> None:
    """Accuracy, confusion matrix, classes and bins count the same photographs."""
    labels, probabilities = three_classes(90, digits=8)
    evaluation = scores.score(labels, probabilities, confidence=0.95, bins=10)
    correct = sum(evaluation.confusion[number][number] for number in range(3))
    assert evaluation.scores.accuracy == pytest.approx(correct / 90)
    assert evaluation.scores.accuracy_low < evaluation.scores.accuracy < evaluation.scores.accuracy_high
    assert sum(of_class.photographs for of_class in evaluation.classes) == 90
    assert sum(group.photographs for group in evaluation.bins) == 90
    assert sum(group.photographs * group.accuracy for group in evaluation.bins) == pytest.approx(correct)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    """A network that always predicts the frequent class has one half with two classes, however rare the other is."""
    labels = np.array([0] * 9 + [1])
    evaluation = scores.score(labels, two_classes(*[0.1] * 10), confidence=0.95, bins=10)
    assert (evaluation.scores.accuracy, evaluation.scores.balanced_accuracy) == (0.9, 0.5)
