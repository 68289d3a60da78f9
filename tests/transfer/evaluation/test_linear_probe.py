import numpy as np

from transfer.evaluation import linear_probe


class Batches(list[tuple[np.ndarray, None]]):
    """Batches of feature maps, in place of a dataset."""


def test_rows_are_the_maximum_of_each_channel() -> None:
    """A row has the maximum of each channel over height and width; rows of all batches have the order of batches."""
    maps = np.random.default_rng(0).normal(size=(5, 3, 4, 6)).astype(np.float32)
    rows = linear_probe.read_rows(Batches([(maps[:3], None), (maps[3:], None)]), description="")  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows, maps.max(axis=(1, 2)))


def test_a_class_of_few_photographs_is_predicted() -> None:
    """A class with a fiftieth of another's photographs is as probable as the other, whatever their numbers."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [200, 4])
    rows = random.normal(labels[:, np.newaxis] * 4.0, 1, (204, 8)).astype(np.float32)
    probabilities = linear_probe.predict(rows, labels, rows, classes=2, strength=0.01, balanced=True)
    assert (probabilities.argmax(axis=1) == labels).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_class_without_photographs_is_never_predicted() -> None:
    """A class that has nothing to train on gets the probability zero, in its own column."""
    labels = np.array([0, 2, 0, 2])
    rows = np.eye(4, dtype=np.float32)
    probabilities = linear_probe.predict(rows, labels, rows, classes=3, strength=1.0, balanced=False)
    assert probabilities.shape == (4, 3)
    assert not probabilities[:, 1].any()
