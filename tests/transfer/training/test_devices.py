"""One device here; tests/tasks/test_fine_tune.py trains on two."""

from tests.transfer.training.conftest import params, untrained_head
from transfer.network.backend import keras
from transfer.training import devices, fit


def test_one_device_changes_nothing() -> None:
    """Without several GPUs a network is built, compiled and normalized as if there were no sharing."""
    with devices.sharing(params()):
        head = untrained_head()
    assert not devices.prepare(head)
    fit.compile_model(head, params(), batches=3)
    assert isinstance(head.loss, keras.losses.BinaryCrossentropy)
    assert not head.get_layer("batch_normalization").synchronized
