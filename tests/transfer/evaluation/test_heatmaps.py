import numpy as np
import pytest
from PIL import Image

from transfer.evaluation import heatmaps
from transfer.images import decoding
from transfer.network import heads, saving
from transfer.network.backend import keras
from transfer.runtime.errors import DataError

SIZE = 32
RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def network(kernel: list[list[float]], *, bias: float = 0.0) -> keras.Model:
    """A network in the form that `fine_tune` saves, whose last convolution has a channel for red, blue and green each.

    Args:
        kernel: weights of the last layer, with a row for each of these colours and a column for each output.
        bias: bias of the last layer.
    """
    outputs = len(kernel[0])
    head = keras.Sequential(
        [
            keras.Input((SIZE // 2, SIZE // 2, 3)),
            keras.layers.GlobalAveragePooling2D(name="average"),
            keras.layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax", name="probabilities"),
        ],
        name="head",
    )
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8", name="photograph"),
            keras.layers.Rescaling(1 / 255, name="preprocessing"),
            keras.layers.Conv2D(3, 1, activation="relu", name="block5_conv3"),
            keras.layers.MaxPooling2D(2, name="block5_pool"),
            head,
        ]
    )
    colours = np.array([RED, BLUE, GREEN]).T / 255
    model.get_layer("block5_conv3").set_weights([colours[np.newaxis, np.newaxis], np.zeros(3)])
    head.get_layer("probabilities").set_weights([np.array(kernel), np.full(outputs, bias)])
    return model


def picture(*patches: tuple[tuple[int, int, int], tuple[int, int]]) -> decoding.Pixels:
    """A black image with patches of 8 x 8 pixels, each with its colour, row and column."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for colour, (row, column) in patches:
        pixels[row : row + 8, column : column + 8] = colour
    return pixels


BOTH = picture((RED, (0, 0)), (BLUE, (24, 24)))


def support(heat: heatmaps.HeatMap) -> tuple[slice, slice]:
    """The smallest rectangle that contains all heat of a map."""
    rows, columns = (np.flatnonzero((heat > 0).any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@pytest.mark.parametrize("weight", [1.0, 1e4])
def test_the_map_shows_the_evidence_for_each_of_two_classes(weight: float) -> None:
    """Red supports the second class and blue the first, even if the sigmoid is saturated."""
    red_or_blue = network([[weight], [-weight], [0.0]], bias=100 * weight)
    for_blue, for_red = heatmaps.grad_cam(red_or_blue, np.stack([BOTH, BOTH]), [0, 1])
    assert support(for_red) == (slice(0, 8), slice(0, 8))
    assert support(for_blue) == (slice(24, 32), slice(24, 32))
    assert for_red.max() == for_blue.max() == 1


def test_the_map_shows_the_evidence_for_one_of_three_classes() -> None:
    """With a softmax, the map of a class follows its own logit."""
    three = network([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    red, blue, green = heatmaps.grad_cam(three, np.stack([BOTH] * 3), [0, 1, 2])
    assert support(red) == (slice(0, 8), slice(0, 8))
    assert support(blue) == (slice(24, 32), slice(24, 32))
    assert not green.any()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_map_of_several_heads_shows_their_common_evidence(classes: int) -> None:
    """The score is the mean of the heads' log odds, so one head that sees only red and one that sees blue show both."""
    settings = heads.Params(
        pooling="average", batch_normalization=False, dense=[], activation="relu", dropout=0.0, l1=0.0, l2=0.0
    )
    two = heads.build(settings, feature_map=(SIZE // 2, SIZE // 2, 3), classes=classes, seed=0, number=2)
    for number, colour in ((1, 0), (2, 1)):
        kernel, bias = two.get_layer(f"head_{number}_log_odds").get_weights()
        kernel[:] = 0
        kernel[colour, -1] = 1e3
        two.get_layer(f"head_{number}_log_odds").set_weights([kernel, bias])
    base = network([[0.0]] * 3).layers[:-1]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3), dtype="uint8"), *base, two])
    [heat] = heatmaps.grad_cam(model, BOTH[np.newaxis], [classes - 1])
    assert heat[:8, :8].all()
    assert heat[24:, 24:].all()
    assert (heat > 0).sum() == 2 * 8 * 8


def test_a_map_without_evidence_is_zero() -> None:
    """If no region supports the class, the map is zero, not NaN, and can be overlaid."""
    [heat] = heatmaps.grad_cam(network([[1.0], [-1.0], [0.0]]), picture()[np.newaxis], [1])
    assert heat.shape == (SIZE, SIZE)
    assert not heat.any()
    overlay = heatmaps.overlay(Image.new("RGB", (40, 40)), heat, resizing="crop")
    assert len(overlay.getcolors() or []) == 1


def test_a_saved_network_has_the_same_maps(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A network loaded from its file gives the same maps as before."""
    file = tmp_path_factory.mktemp("model") / "model.keras"
    original = network([[1.0], [-1.0], [0.0]])
    saving.save(original, file)
    maps = [heatmaps.grad_cam(model, BOTH[np.newaxis], [1]) for model in (original, saving.load(file))]
    np.testing.assert_array_equal(*maps)


def test_a_network_of_another_form_is_refused() -> None:
    """A network without a convolution or without a head is refused; the message lists its layers."""
    flat = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(name="flat"), keras.layers.Dense(1)])
    with pytest.raises(DataError, match="Received: flat"):
        heatmaps.grad_cam(flat, np.zeros((1, 2, 2, 3), np.uint8), [0])


@pytest.mark.parametrize("size", [(96, 60), (60, 96), (61, 40), (40, 61), (1, 50), (50, 1)])
@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
def test_only_the_network_s_input_is_coloured(size: tuple[int, int], resizing: decoding.Resizing) -> None:
    """The map covers the middle square of a cropped photograph, and all of a squashed or fitted one."""
    photograph = Image.new("RGB", size, "green")
    overlay = heatmaps.overlay(photograph, np.ones((4, 4), np.float32), resizing=resizing)
    changed = (np.asarray(overlay) != np.asarray(photograph)).any(axis=-1)
    assert overlay.size == photograph.size
    if resizing == "crop":
        edge = min(size)
        rows, columns = support(changed.astype(np.float32))
        assert (rows.stop - rows.start, columns.stop - columns.start) == (edge, edge)
        assert abs((rows.start + rows.stop) - size[1]) <= 1
        assert abs((columns.start + columns.stop) - size[0]) <= 1
    else:
        assert changed.all()


@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
def test_the_map_is_aligned_with_the_photograph(resizing: decoding.Resizing) -> None:
    """The hottest pixel lies in the patch that supports the class, for every way of resizing."""
    photograph = Image.new("RGB", (120, 80))
    photograph.paste(RED, (60, 40, 70, 50))
    pixels = decoding.resize(photograph, size=SIZE, resizing=resizing)
    [heat] = heatmaps.grad_cam(network([[1.0], [-1.0], [0.0]]), pixels[np.newaxis], [1])
    light = np.asarray(heatmaps.overlay(Image.new("RGB", (120, 80)), heat, resizing=resizing).convert("L"), float)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert 40 <= row < 50
    assert 60 <= column < 70


def test_hotter_is_lighter_on_every_photograph() -> None:
    """In greyscale, the hottest pixel of a black photograph is lighter than the coldest pixel of a white one."""
    heat = np.linspace(0, 1, 64, dtype=np.float32)[np.newaxis].repeat(8, axis=0)

    def lightness(colour: str) -> np.ndarray:
        overlay = heatmaps.overlay(Image.new("RGB", (64, 8), colour), heat, resizing="squash")
        return np.asarray(overlay.convert("L"), int)[0]

    assert (np.diff(lightness("black")) >= 0).all()
    assert lightness("black")[-1] > lightness("white")[0]


def test_the_colours_go_from_blue_to_yellow() -> None:
    """Cold is blue and hot is yellow, which people with red-green colour blindness can distinguish."""
    heat = np.array([[0, 1]], np.float32)
    overlay = heatmaps.overlay(Image.new("RGB", (2, 1), "grey"), heat, resizing="squash")
    cold, hot = np.asarray(overlay, int)[0]
    assert cold[2] > max(cold[0], cold[1])
    assert hot[2] < min(hot[0], hot[1])
