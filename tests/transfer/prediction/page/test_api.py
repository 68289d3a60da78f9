import jsonschema

from transfer.prediction.page import api


def test_the_example_is_valid() -> None:
    """The example of `/docs` has the form that the description promises."""
    jsonschema.validate(api.EXAMPLE, api.PREDICTIONS)
