import numpy as np
import pytest
from scipy import stats

from baselines import digit_results
from baselines.digit_results import Examples, Run
from baselines.digits import Placement


def run(network: str, trained: Placement, seed: int, *, centred: int, moved: int) -> Run:
    """Return a training run whose network recognizes so many of ten test digits."""
    labels = np.arange(10)
    answers: dict[Placement, digit_results.Labels] = {
        "centred": np.where(labels < centred, labels, -1),
        "moved": np.where(labels < moved, labels, -1),
    }
    return Run("scikit_learn", network, trained, seed, 1234, 5, answers, labels)


RUNS = [
    run("mlp", "centred", 0, centred=10, moved=3),
    run("mlp", "moved", 0, centred=6, moved=7),
    run("mlp", "centred", 1, centred=8, moved=1),
    run("mlp", "moved", 1, centred=6, moved=7),
]


def test_the_interval_is_student_s() -> None:
    """The mean over the seeds has Student's interval; it ends at 100 %, and equal values have none."""
    values = [0.90, 0.94, 0.92]
    mean, low, high = digit_results.mean_interval(values, confidence=0.95)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((0.92, expected.low, expected.high))
    assert digit_results.mean_interval([0.99, 1.0], confidence=0.95)[2] == 1
    assert digit_results.mean_interval([0.9, 0.9], confidence=0.95) == pytest.approx((0.9, 0.9, 0.9))


def test_scores_are_means_over_the_seeds() -> None:
    """Each condition has the mean of its own runs, in the order of the table."""
    scores = digit_results.summarize(RUNS, confidence=0.95)
    assert [(score.trained, score.tested) for score in scores] == list(digit_results.CONDITIONS)
    assert [score.accuracy for score in scores] == pytest.approx([0.9, 0.2, 0.7])
    assert scores[1].by_seed == pytest.approx([0.3, 0.1])


def test_the_table_has_a_line_for_every_network() -> None:
    """The table is Markdown with a column for each condition."""
    table = digit_results.table(digit_results.summarize(RUNS, confidence=0.9))
    header, _, line = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert header == ["digits", "network", "weights", *digit_results.CONDITIONS.values()]
    assert line[:3] == ["scikit-learn", "MLP", "1,234"]
    assert line[-1] == "70.0 % (70.0 to 70.0)"


def test_a_run_is_told_in_words() -> None:
    """The log has a sentence for each training run."""
    assert digit_results.sentence(RUNS[0]) == (
        "scikit-learn, MLP, trained centred, seed 0: 100.0 % of centred digits and 30.0 % of moved digits recognized "
        "after 5 epochs"
    )


def test_the_picture_marks_wrong_answers_alone() -> None:
    """Under each digit is what the network takes it for; a wrong answer is red."""
    images = np.zeros((2, 12, 12, 1), np.uint8)
    images[:, 3:6, 3:6] = 255
    pictures = [
        np.asarray(digit_results.draw([Examples(["digits"], images, np.array([4, 7]), {"MLP": np.array(answers)})]))
        for answers in ([4, 7], [4, 1])
    ]
    reddish = [(picture[..., 0].astype(int) - picture[..., 1] > 80) for picture in pictures]
    middle = reddish[1].shape[1] - digit_results._EDGE - digit_results._GAP
    assert not reddish[0].any()
    assert reddish[1][:, middle:].any()
    assert not reddish[1][:, :middle].any()


def test_one_digit_of_each_class_is_shown() -> None:
    """The examples are the first test digit of each class, in the order of the classes."""
    assert digit_results.one_of_each(np.array([3, 1, 3, 0, 1])).tolist() == [3, 1, 0]
