import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.features.test_views import DRAWING
from transfer.features import cluster_worker, extraction, views
from transfer.features.cluster_worker import Batch, WeightsPlugin
from transfer.images import decoding
from transfer.network import weights
from transfer.sources import synthetic

FILES = [synthetic.draw("cat", number, size=40, seed=0) for number in (0, 1)]
PHOTOGRAPHS = {hashlib.sha256(data).hexdigest(): data for data in FILES}
VIEWS = [(sha256, view) for sha256 in PHOTOGRAPHS for view in (0, 1)]
BATCH = Batch(
    photographs=PHOTOGRAPHS,
    views=VIEWS,
    drawing=DRAWING._asdict() | {"augmentation": DRAWING.augmentation.model_dump()},
    network={"image_size": 32, "boundary": "block4_pool", "precision": "float32"},
)


def test_a_worker_draws_the_views_of_the_stage() -> None:
    """From bytes and plain data come the same pictures as from files and parameters."""
    expected = [
        views.draw(decoding.decode(PHOTOGRAPHS[sha256]), sha256=sha256, view=view, drawing=DRAWING)
        for sha256, view in VIEWS
    ]
    np.testing.assert_array_equal(cluster_worker.draw(BATCH), expected)


def test_a_changed_photograph_is_an_error() -> None:
    """A worker computes no photograph that has another sha256 than the stage says."""
    changed = BATCH._replace(photographs=dict.fromkeys(PHOTOGRAPHS, b"other"))
    with pytest.raises(ValueError, match="must have the sha256"):
        cluster_worker.draw(changed)


def test_changed_weights_are_an_error() -> None:
    """A worker keeps no weights that have another sha256 than the stage says."""
    with pytest.raises(ValueError, match="the weights must have the sha256"):
        cluster_worker.receive_weights(b"other", "0" * 64)


def test_a_network_is_built_once_for_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin builds the network from the weights' bytes, and again only for other settings."""
    monkeypatch.setattr(extraction, "use_one_thread_per_replica", lambda: None)
    file = tmp_path / "vgg16.weights.h5"
    weights.write(file, weights.random(seed=0))
    plugin = WeightsPlugin(file.read_bytes())
    network = plugin.network(BATCH.network)
    assert plugin.network(dict(BATCH.network)) is network
    assert plugin.network(BATCH.network | {"boundary": "block3_pool"}) is not network
    assert network(cluster_worker.draw(BATCH))[0].boundary.shape == (2, 2, 512)


def test_a_worker_answers_for_what_rows_depend_on() -> None:
    """Its versions are those of Python, of the packages that compute, and of the code."""
    assert list(cluster_worker.versions()) == ["python", "tensorflow", "keras", "numpy", "pillow", "code"]
