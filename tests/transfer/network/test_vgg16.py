import numpy as np
import pytest

from transfer.network import vgg16, weights
from transfer.network.backend import keras

SIZE = 40


@pytest.fixture(scope="module")
def drawn() -> weights.Weights:
    """Draw random weights."""
    return weights.random(seed=1)


@pytest.fixture(scope="module")
def official(drawn: weights.Weights) -> keras.Model:
    """Build Keras's VGG16 with the same weights."""
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    for name, convolution in drawn.items():
        model.get_layer(name).set_weights(list(convolution))
    return model


@pytest.mark.parametrize("boundary", ["block4_pool", "block3_pool"])
def test_the_base_is_keras_s_vgg16(drawn: weights.Weights, official: keras.Model, boundary: str) -> None:
    """Frozen and top layers give the activations of keras.applications.VGG16 for preprocessed photographs."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    frozen = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3), dtype="uint8"), *vgg16.frozen_layers(drawn, through=boundary)]
    )
    top = keras.Sequential(
        [keras.Input(vgg16.shape_after(boundary, image_size=SIZE)), *vgg16.top_layers(drawn, above=boundary)]
    )
    expected = official.predict(keras.applications.vgg16.preprocess_input(pixels.astype(np.float32)), verbose=0)
    np.testing.assert_allclose(
        top.predict(frozen.predict(pixels, verbose=0), verbose=0), expected, rtol=1e-4, atol=1e-3
    )


def test_layers_have_keras_s_names(official: keras.Model) -> None:
    """A layer has the same name in params.yaml and in Keras."""
    assert vgg16.layer_names() == [layer.name for layer in official.layers[1:]]


def test_shapes_are_those_of_the_network(official: keras.Model) -> None:
    """The shape after every layer is known without building the network; odd sizes are rounded down."""
    for name in vgg16.layer_names():
        assert vgg16.shape_after(name, image_size=SIZE) == official.get_layer(name).output.shape[1:]


def test_only_the_top_is_trainable(drawn: weights.Weights) -> None:
    """No layer up to the boundary is trainable; every layer above it is."""
    frozen = vgg16.frozen_layers(drawn, through="block4_pool")
    top = vgg16.top_layers(drawn, above="block4_pool")
    assert not any(layer.trainable_weights for layer in frozen)
    assert [layer.name for layer in top if layer.trainable_weights] == ["block5_conv1", "block5_conv2", "block5_conv3"]
