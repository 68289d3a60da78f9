from transfer.evaluation.inputs import Inputs
from transfer.images import manifest


def test_labels_are_the_numbers_of_classes() -> None:
    """The labels are those of the test photographs alone, in their order."""
    entries = [
        manifest.Entry(f"{number}.jpg", class_name, "ab" * 32, 8, 8, split)
        for number, (class_name, split) in enumerate([("dog", "test"), ("cat", "train"), ("cat", "test")])
    ]
    inputs = Inputs(entries, [entries[0], entries[2]], [], ["cat", "dog"], [], {}, {})
    assert inputs.labels.tolist() == [1, 0]
