import pytest

from transfer.runtime import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.9999999999999999, 1.0),
        (1e-50, 0.0),
        (1e-45, 0.0),
        (1e300, float("inf")),
        (-1e300, float("-inf")),
        (0.5, 0.5),
        (10**400, 10**400),
        (True, True),
        ("1e300", "1e300"),
        ({"a": [1e-50, None]}, {"a": [0.0, None]}),
    ],
)
def test_a_number_gets_the_value_that_tensorflow_computes_with(value: object, expected: object) -> None:
    """Floats are rounded to single precision, and those without full precision become zero; others stay."""
    assert numbers.in_single_precision(value) == expected


def test_large_integers_are_found() -> None:
    """They are found in sections and lists, with their location."""
    values = {"seed": 2**63, "head": {"dense": [1, -(2**64)]}, "epochs": 2**63 - 1, "flip": True, "rate": 1e300}
    found = list(numbers.too_large(values))
    assert found == [(("seed",), 2**63), (("head", "dense", 1), -(2**64))]
    assert [numbers.value_at(values, location) for location, _ in found] == [2**63, -(2**64)]
