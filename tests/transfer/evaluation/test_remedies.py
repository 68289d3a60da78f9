from collections.abc import Callable

import pytest

from transfer.evaluation import remedies
from transfer.evaluation.remedies import Remedy


def test_a_parameter_of_zero_is_not_lowered() -> None:
    """Lowering a parameter that is 0 is not suggested; one whose value is unknown stays."""
    suggestions = [Remedy("train_head.head.dropout", "lower"), Remedy("train_head.head.l2", "lower")]
    assert remedies.applicable(suggestions, {"train_head.head.dropout": 0.0}) == suggestions[1:]


def test_a_parameter_of_zero_may_be_raised() -> None:
    """Only lowering is filtered."""
    suggestions = [Remedy("train_head.head.dropout", "raise")]
    assert remedies.applicable(suggestions, {"train_head.head.dropout": 0.0}) == suggestions


@pytest.mark.parametrize("kind", [remedies.regularization, remedies.capacity])
def test_a_head_has_remedies_that_fine_tuning_has_not(kind: Callable[[str], list[Remedy]]) -> None:
    """The number of units is a parameter of the head alone."""
    head, tuned = (kind(stage) for stage in ("train_head", "fine_tune"))
    assert "train_head.head.dense" in {remedy.parameter for remedy in head}
    assert "train_head.head.dense" not in {remedy.parameter for remedy in tuned}
