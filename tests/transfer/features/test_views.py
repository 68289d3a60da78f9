import numpy as np
from PIL import Image

from tests.tasks.conftest import PARAMS
from transfer.features import views
from transfer.images import augmentation, decoding

DRAWING = views.Drawing(
    image_size=32,
    resizing="crop",
    augmentation=augmentation.Params.model_validate(PARAMS["extract_features"]["augmentation"]),
    seed=0,
)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def test_view_0_is_the_photograph() -> None:
    """View 0 is the photograph, resized."""
    drawn = views.draw(IMAGE, sha256="0" * 64, view=0, drawing=DRAWING)
    np.testing.assert_array_equal(drawn, decoding.resize(IMAGE, size=32, resizing="crop"))


def test_the_mirrored_view_is_the_photograph_from_right_to_left() -> None:
    """Its pixels are those of view 0, with left and right exchanged."""
    [original, mirrored] = views.draw_batch(
        [("0" * 64, 0), ("0" * 64, views.MIRRORED)], read=lambda _: IMAGE, drawing=DRAWING
    )
    np.testing.assert_array_equal(mirrored, original[:, ::-1])


def test_a_view_follows_from_seed_photograph_and_number() -> None:
    """The same view is drawn alike everywhere; another seed, photograph or number gives another view."""
    first = views.draw(IMAGE, sha256="0" * 64, view=1, drawing=DRAWING)
    np.testing.assert_array_equal(first, views.draw(IMAGE, sha256="0" * 64, view=1, drawing=DRAWING))
    others = [
        views.draw(IMAGE, sha256="0" * 64, view=2, drawing=DRAWING),
        views.draw(IMAGE, sha256="1" * 64, view=1, drawing=DRAWING),
        views.draw(IMAGE, sha256="0" * 64, view=1, drawing=DRAWING._replace(seed=1)),
    ]
    assert not any(np.array_equal(first, other) for other in others)
