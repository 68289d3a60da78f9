"""Extraction: activations of photographs, computed by one replica of the frozen network per processor core.

The thread of a replica reads, resizes and computes its own photographs, so cores do not wait for each other. A row
does not depend on the number of cores.
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
from transfer.network.precision import Precision
from transfer.network.weights import Weights

BATCH = 8  # views that a replica computes at once: more is no faster and takes more memory

ViewT = TypeVar("ViewT")
ResultT = TypeVar("ResultT")
Network = Callable[[Pixels], list[store.Row]]


def core_count() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread_per_replica() -> None:
    """Keep TensorFlow from spreading one operation over all cores; must be called before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(core_count())


def build_network(weights: Weights, *, image_size: int, boundary: str, precision: Precision = "float32") -> Network:
    """Build the base as a function from pixels of shape (at most `BATCH`, size, size, 3) to one row per picture.

    Every call computes `BATCH` rows, padded with zeros, so that the last bits of a row do not depend on the number
    of pictures.

    Args:
        weights: of the base.
        image_size: edge of the pictures, pixels.
        boundary: name of the last frozen layer.
        precision: number format of all layers; activations in bfloat16 are float16 numbers as well, within its range.
    """
    photograph = keras.Input((image_size, image_size, 3), batch_size=BATCH, dtype="uint8")
    at_boundary = photograph
    for layer in vgg16.frozen_layers(weights, through=boundary, dtype=precision):
        at_boundary = layer(at_boundary)
    pooled = at_boundary
    for layer in vgg16.top_layers(weights, above=boundary, dtype=precision):
        pooled = layer(pooled)
    model = keras.Model(photograph, [at_boundary, pooled])

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def forward(pixels: Pixels) -> list[tf.Tensor]:
        return [tf.cast(part, tf.float32) for part in model(pixels, training=False)]

    def compute(pixels: Pixels) -> list[store.Row]:
        padding = ((0, BATCH - len(pixels)), (0, 0), (0, 0), (0, 0))
        activations: list[NDArray[np.float32]] = [part.numpy() for part in forward(np.pad(pixels, padding))]
        return [store.to_row(*parts) for parts in zip(*activations, strict=True)][: len(pixels)]

    return compute


def extract(
    views: Iterable[ViewT],
    *,
    pixels: Callable[[Sequence[ViewT]], Pixels],
    compute: Network,
    put: Callable[[ViewT, store.Row], None],
) -> Iterator[int]:
    """Compute the rows of `views` on all cores.

    Args:
        views: the views to compute, in any order; only a few are taken from the iterable ahead of need.
        pixels: returns the pictures of a few views, an array of shape (views, size, size, 3).
        compute: the network, from `build_network`.
        put: stores a row; called from several threads.

    Yields:
        The number of views computed since the last one.
    """

    def work(batch: Sequence[ViewT]) -> int:
        for view, row in zip(batch, compute(pixels(batch)), strict=True):
            put(view, row)
        return len(batch)

    yield from map_batches(work, views, batch=BATCH)


def map_batches(
    work: Callable[[Sequence[ViewT]], ResultT], views: Iterable[ViewT], *, batch: int
) -> Generator[ResultT, None, None]:
    """Apply `work` to batches of `views`, one batch on each core at a time.

    Args:
        work: called from several threads.
        views: the views; only a few are taken from the iterable ahead of need.
        batch: the number of views in a batch; the last may be smaller.

    Yields:
        The result for each batch, in order.
    """
    with ThreadPoolExecutor(core_count()) as pool:
        running: deque[Future[ResultT]] = deque()
        try:
            for views_of_batch in _batches(views, batch):
                running.append(pool.submit(work, views_of_batch))
                if len(running) > 2 * core_count():
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _batches(views: Iterable[ViewT], size: int) -> Iterator[list[ViewT]]:
    remaining = iter(views)
    while batch := list(islice(remaining, size)):
        yield batch
