"""The worker's side of extraction on a Dask cluster: what a worker answers for, and the rows that it computes.

Messages are plain data: numbers, text and bytes. TensorFlow is imported by the first batch, which has a thread of its
own, because a worker must answer its scheduler during the seconds that this takes.
"""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import distributed
from PIL import Image

from transfer.features import views
from transfer.images import augmentation, decoding
from transfer.network import weights
from transfer.runtime.code_digest import code_digest

PLUGIN = "dogs-vs-cats weights"
_PACKAGES = ("tensorflow", "keras", "numpy", "pillow")

Part = tuple[str, tuple[int, ...], bytes]  # an array's type, its shape, and its values


class Batch(NamedTuple):
    """What a worker needs to compute some rows, as plain data.

    Args:
        photographs: the bytes of each photograph's file, by their sha256.
        views: the sha256 and the number of each view, in the order of the rows.
        drawing: the fields of `views.Drawing`.
        network: the arguments of `extraction.build_network`, except for the weights.
    """

    photographs: dict[str, bytes]
    views: list[tuple[str, int]]
    drawing: dict[str, Any]
    network: dict[str, Any]


class WeightsPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Keeps VGG16's weights on a worker, and the network that was last built from them.

    Args:
        content: a file of weights in the project's layout.
    """

    def __init__(self, content: bytes) -> None:
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._content = content
        self._settings: Mapping[str, Any] = {}
        self._network: Callable[[decoding.Pixels], Any] | None = None
        self._lock = Lock()

    def network(self, settings: Mapping[str, Any]) -> Callable[[decoding.Pixels], Any]:
        """Return the network for the arguments of `extraction.build_network`, built at the first call."""
        from transfer.features import extraction  # noqa: PLC0415 - it imports TensorFlow

        with self._lock:
            if self._network is None or self._settings != settings:
                extraction.use_one_thread_per_replica()
                self._network = extraction.build_network(self._read(), **settings)
                self._settings = settings
            return self._network

    def _read(self) -> weights.Weights:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "vgg16.weights.h5")
            file.write_bytes(self._content)
            return weights.read(file)


@cache
def versions() -> dict[str, str]:
    """Return the versions that rows depend on: Python, packages, and the digest of the code of extraction."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **packages, "code": code_digest(Path(__file__))[:12]}


def state() -> dict[str, str]:
    """Return this worker's versions, and the sha256 of the weights that it has, empty without any."""
    plugin = distributed.get_worker().plugins.get(PLUGIN)
    return versions() | {"weights": plugin.sha256 if plugin else ""}


def receive_weights(content: bytes, sha256: str) -> None:
    """Keep weights on this worker, in place of those that it had.

    Raises:
        ValueError: the bytes have another sha256.
    """
    plugin = WeightsPlugin(content)
    _check("the weights", content, sha256)
    worker = distributed.get_worker()
    distributed.sync(worker.loop, worker.plugin_add, plugin=plugin, name=PLUGIN)


def compute(batch: Batch) -> list[list[Part]]:
    """Compute rows on this worker.

    Returns:
        For each view the parts of its row: a type of float16, a shape and bytes.

    Raises:
        RuntimeError: anything went wrong; the text has the exception, as not every exception can be sent.
    """
    try:
        rows = distributed.get_worker().plugins[PLUGIN].network(batch.network)(draw(batch))
    except Exception as error:  # noqa: BLE001 - it is raised again as one that can be sent
        raise RuntimeError(f"{type(error).__name__}: {error}"[:300]) from None
    return [[(part.dtype.str, part.shape, part.tobytes()) for part in row] for row in rows]


def draw(batch: Batch) -> decoding.Pixels:
    """Return the pictures of a batch, an array of shape (views, size, size, 3); see `views.draw_batch`.

    Raises:
        ValueError: a photograph has another sha256.
        UnreadablePhoto: a photograph cannot be decoded.
    """
    settings = batch.drawing | {"augmentation": augmentation.Params(**batch.drawing["augmentation"])}

    def read(sha256: str) -> Image.Image:
        _check("the photograph", batch.photographs[sha256], sha256)
        return decoding.decode(batch.photographs[sha256])

    return views.draw_batch(batch.views, read=read, drawing=views.Drawing(**settings))


def _check(subject: str, content: bytes, sha256: str) -> None:
    received = hashlib.sha256(content).hexdigest()
    if received != sha256:
        raise ValueError(f"{subject} must have the sha256 {sha256}. Received: {len(content):,} bytes with {received}")
