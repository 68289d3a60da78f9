"""Devices: the GPUs of a machine, which train a network together, each on its share of every batch."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from transfer.network.backend import keras, tf
from transfer.training.settings import Params

log = logging.getLogger(__name__)

KIND = "GPU"  # of the devices that share a training run


def sharing(settings: Params) -> AbstractContextManager[Any]:
    """Return a context in which networks are built for all GPUs of this machine; without several it does nothing.

    It does nothing either with `reduce_lr_on_plateau`: Keras's callback cannot read a learning rate that devices share.
    TensorFlow's MirroredStrategy keeps the weights on each GPU, divides a batch among them and sums their gradients.
    """
    devices = [device.name for device in tf.config.list_logical_devices(KIND)][: settings.batch_size]
    if len(devices) < 2 or settings.reduce_lr_on_plateau:
        return nullcontext()
    log.info("%d devices train together: %s.", len(devices), ", ".join(devices))
    context: AbstractContextManager[Any] = tf.distribute.MirroredStrategy(devices).scope()
    return context


def count(network: keras.Model) -> int:
    """Return how many devices train a network."""
    return int(network.distribute_strategy.num_replicas_in_sync)


def prepare(network: keras.Model) -> bool:
    """Prepare a network for training by several devices, in place, before it is compiled; return whether they share it.

    Batch normalization then uses the statistics of whole batches, not of each device's share.
    """
    if count(network) < 2:
        return False
    for layer in network._flatten_layers():  # noqa: SLF001 (Keras has no public walk of nested networks)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    return True


def build(network: keras.Model) -> None:
    """Create the variables of a compiled network that several devices share.

    Keras would average the devices' shares of a batch to learn their shapes, and so fail for shares that differ in
    size, as those of a batch of the validation split may.
    """
    photographs, labels = (np.zeros((1, *shape), np.float32) for shape in (network.input_shape[1:], (1,)))
    network._symbolic_build(data_batch=(photographs, labels))  # noqa: SLF001 (Keras has no public function for it)
    network._maybe_symbolic_build = lambda **_: None  # noqa: SLF001
