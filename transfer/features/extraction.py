"""Extraction: photographs through the frozen network, one replica of it a processor core.

A replica's thread reads, resizes and computes its own photographs, so no core waits for another, and a row does not
depend on how many cores there are.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from transfer.features import store
from transfer.images.decoding import Pixels
from transfer.network import vgg16
from transfer.network.backend import keras, tf
from transfer.network.weights import Weights

BATCH = 8  # views a replica computes at once: more is no faster and takes memory

View = TypeVar("View")
Made = TypeVar("Made")
Network = Callable[[Pixels], list[store.Row]]


def core_count() -> int:
    """How many replicas the machine has cores for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread_per_replica() -> None:
    """Keep TensorFlow from spreading one operation over all cores; to be called before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(core_count())


def build_network(weights: Weights, *, image_size: int, boundary: str) -> Network:
    """The base as a function from pixels of shape (up to `BATCH`, size, size, 3) to a row for each.

    Every call computes `BATCH` rows, so that a row's last bits do not depend on how many were asked for.
    """
    photograph = keras.Input((image_size, image_size, 3), batch_size=BATCH, dtype="uint8")
    at_boundary = photograph
    for layer in vgg16.frozen_layers(weights, through=boundary):
        at_boundary = layer(at_boundary)
    pooled = at_boundary
    for layer in vgg16.top_layers(weights, above=boundary):
        pooled = layer(pooled)
    model = keras.Model(photograph, [at_boundary, pooled])
    forward = tf.function(lambda pixels: model(pixels, training=False), jit_compile=False)

    def compute(pixels: Pixels) -> list[store.Row]:
        missing = ((0, BATCH - len(pixels)), (0, 0), (0, 0), (0, 0))
        activations: list[NDArray[np.float32]] = [part.numpy() for part in forward(np.pad(pixels, missing))]
        return [store.to_row(*parts) for parts in zip(*activations, strict=True)][: len(pixels)]

    return compute


def extract(
    views: Iterable[View],
    *,
    pixels: Callable[[Sequence[View]], Pixels],
    compute: Network,
    keep: Callable[[View, store.Row], None],
) -> Iterator[int]:
    """Compute the rows of `views` on all cores.

    Args:
        views: what to compute, in any order; only a few are taken ahead.
        pixels: shows a few views, as an array of shape (views, size, size, 3).
        compute: as `network` makes it.
        keep: is handed every row once it is there; called from several threads.

    Yields:
        How many more views were done.
    """

    def work(batch: Sequence[View]) -> int:
        for view, row in zip(batch, compute(pixels(batch)), strict=True):
            keep(view, row)
        return len(batch)

    yield from map_batches(work, views, batch=BATCH)


def map_batches(
    work: Callable[[Sequence[View]], Made], views: Iterable[View], *, batch: int
) -> Generator[Made, None, None]:
    """Do `work` on batches of `views`, one on each core at a time.

    Args:
        work: called from several threads.
        views: only a few are taken ahead.
        batch: how many are worked on at once.

    Yields:
        What was made of each batch, in order.
    """
    with ThreadPoolExecutor(core_count()) as pool:
        running: deque[Future[Made]] = deque()
        try:
            for each in _batches(views, batch):
                running.append(pool.submit(work, each))
                if len(running) > 2 * core_count():
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _batches(views: Iterable[View], size: int) -> Iterator[list[View]]:
    remaining = iter(views)
    while batch := list(islice(remaining, size)):
        yield batch
