import io
from pathlib import Path

import pytest
from PIL import Image

from tests import networks
from transfer.prediction import answers
from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.model import load


def photograph(colour: str) -> InputPhotograph:
    """Return a photograph of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, "PNG")
    return InputPhotograph(colour, file.getvalue)


@pytest.mark.parametrize("heat_maps", [True, False])
def test_answers_have_the_order_of_the_photographs(tmp_path: Path, *, heat_maps: bool) -> None:
    """Each photograph has its prediction or its reason, whether heat maps are drawn or not."""
    model = load(networks.write_by_colour(tmp_path))
    batch = [photograph("red"), InputPhotograph("none", bytes), photograph("blue")]
    predicted = answers.of_batch(model, batch, heat_maps=heat_maps)
    assert [answer.name for answer in predicted] == ["red", "none", "blue"]
    results = [answer.result if isinstance(answer.result, str) else answer.result.class_name for answer in predicted]
    assert results == ["dog", "empty file", "cat"]
    assert [answer.heat_map is not None for answer in predicted] == [heat_maps, False, heat_maps]


def test_a_reason_is_that_of_the_system_if_it_has_one(tmp_path: Path) -> None:
    """A missing file is named by the system's words, without its number and path."""
    with pytest.raises(OSError, match="missing") as error:
        (tmp_path / "missing").read_bytes()
    assert answers.reason(error.value) == "No such file or directory"
