import numpy as np

from baselines import digits
from baselines.digits import Digits


def numbered(count: int) -> Digits:
    """Return images of 2 x 2 pixels, each filled with its number."""
    numbers = np.arange(count)
    return Digits(np.repeat(numbers, 4).reshape(-1, 2, 2).astype(np.uint8), numbers % 10)


def test_scikit_learn_s_digits_are_ink_on_paper() -> None:
    """There are 1,797 images with labels from 0 to 9; paper is 0, the darkest ink 255."""
    images, labels = digits.scikit_learn()
    assert (images.shape, images.dtype, images.min(), images.max()) == ((1797, 8, 8), np.uint8, 0, 255)
    assert np.bincount(labels).min() > 170
    assert len(np.bincount(labels)) == digits.CLASSES


def test_a_division_uses_every_digit_once() -> None:
    """Both parts together are all digits, with their labels; the choice depends on the seed and on the purpose."""
    parts = digits.divide(numbered(50), fraction=0.2, seed=0, purpose="test")
    assert [len(part.labels) for part in parts] == [40, 10]
    numbers = [part.images[:, 0, 0].tolist() for part in parts]
    assert sorted(numbers[0] + numbers[1]) == list(range(50))
    assert [number % 10 for number in numbers[1]] == parts[1].labels.tolist()
    for seed, purpose, same in ((0, "test", True), (1, "test", False), (0, "validation", False)):
        other = digits.divide(numbered(50), fraction=0.2, seed=seed, purpose=purpose)[1]
        assert np.array_equal(other.images, parts[1].images) == same


def test_no_part_is_empty() -> None:
    """However small or large the fraction, each part has a digit."""
    for fraction, counts in ((0.001, [2, 1]), (0.999, [1, 2])):
        parts = digits.divide(numbered(3), fraction=fraction, seed=0, purpose="test")
        assert [len(part.labels) for part in parts] == counts


def test_centred_digits_stand_in_the_middle() -> None:
    """All digits have the same place, in the middle of the frame; the rest is paper."""
    placed = digits.place(np.full((3, 2, 2), 7, np.uint8), "centred", frame=6, seed=0, purpose="test")
    expected = np.zeros((6, 6, 1), np.uint8)
    expected[2:4, 2:4] = 7
    np.testing.assert_array_equal(placed, [expected] * 3)


def test_moved_digits_stand_anywhere_in_the_frame() -> None:
    """Every digit is complete, every place occurs up to the edges, and places depend on the seed and on the purpose."""
    images = np.arange(1, 5, dtype=np.uint8).reshape(1, 2, 2).repeat(400, axis=0)
    placed = digits.place(images, "moved", frame=4, seed=0, purpose="test")
    corners = [tuple(np.argwhere(image[..., 0] == 1)[0]) for image in placed]
    assert set(corners) == {(top, left) for top in range(3) for left in range(3)}
    for image, (top, left) in zip(placed, corners, strict=True):
        np.testing.assert_array_equal(image[top : top + 2, left : left + 2, 0], images[0])
        assert image.sum() == images[0].sum()
    for seed, purpose, same in ((0, "test", True), (1, "test", False), (0, "train", False)):
        other = digits.place(images, "moved", frame=4, seed=seed, purpose=purpose)
        assert np.array_equal(other, placed) == same


def test_each_epoch_has_a_new_order() -> None:
    """A batch follows from seed, epoch and number; each label stays with its image, and the last batch is smaller."""
    dataset = digits.DigitDataset(numbered(10), batch_size=4, seed=1)
    epochs = []
    for dataset.epoch in (0, 1, 0):
        batches = [dataset[index] for index in range(len(dataset))]
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        epochs.append([int(image[0, 0]) for images, _ in batches for image in images])
        assert epochs[-1] == [int(label) for _, labels in batches for [label] in labels]
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))


def test_without_a_seed_digits_keep_their_order() -> None:
    """Validation digits are taken as they are."""
    dataset = digits.DigitDataset(numbered(5), batch_size=10)
    dataset.epoch = 3
    assert dataset[0][1][:, 0].tolist() == [0, 1, 2, 3, 4]
