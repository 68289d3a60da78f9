"""Fetch weights: bring VGG16's convolutional weights to `artifacts/fetch_weights/vgg16.weights.h5`."""

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from transfer.network import weights
from transfer.network.weights import Weights
from transfer.runtime import files, params, paths
from transfer.runtime.errors import DataError
from transfer.sources import http
from transfer.sources.http import Checksum

STAGE = "fetch_weights"
IMAGENET = (  # with its checksum, as Keras's own VGG16 fetches it
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
IMAGENET_BYTES = 58_889_256
IMAGENET_MD5 = Checksum("md5", "6d6bbae143d832006294945121d1f1fc")


class Params(params.Section):
    """Where weights come from."""

    source: Literal["imagenet", "inbox", "random"]
    seed: int = Field(ge=0)


class Origin(NamedTuple):
    """Checked weights, and where they came from: an address, or a path relative to the project."""

    weights: Weights
    place: str


def from_imagenet(
    folder: Path, *, address: str = IMAGENET, checksum: Checksum = IMAGENET_MD5, size: int = IMAGENET_BYTES
) -> Origin:
    """Fetch what Keras fetches: weights trained on ImageNet.

    Args:
        folder: where the file and what was fetched of it are kept.
        address: where it lies.
        checksum: what it must be.
        size: its bytes; another file is refused before it is fetched.
    """
    kept = folder / "imagenet.h5"
    http.download(address, kept, checksum=checksum, size=size)
    return Origin(weights.read(kept), address)


def from_inbox(inbox: Path) -> Origin:
    """Take the one file of weights in a folder.

    Raises:
        DataError: there is none, or several, or it holds no weights of VGG16.
    """
    found = sorted(path for path in inbox.glob("*.h5") if not path.name.startswith("."))
    if len(found) != 1:
        received = ", ".join(f"`{path.as_posix()}`" for path in found) or f"no `.h5` file in `{inbox.as_posix()}/`"
        raise DataError(f"Put one file of VGG16's weights into `inbox/`, as Keras saves them. Received: {received}.")
    return Origin(weights.read(found[0]), found[0].as_posix())


def main() -> None:
    """Bring the weights of the chosen source; leave `vgg16.weights.h5` and `weights.json`."""
    settings = params.load(STAGE, Params)
    origin = _origin(settings)
    target = paths.artifact(STAGE, "vgg16.weights.h5")
    weights.write(target, origin.weights)
    description = {"source": settings.source, "from": origin.place, "sha256": files.sha256(target)}
    files.write_json(paths.artifact(STAGE, "weights.json"), description)


def _origin(settings: Params) -> Origin:
    match settings.source:
        case "imagenet":
            return from_imagenet(paths.cache(STAGE))
        case "inbox":
            return from_inbox(paths.INBOX)
        case "random":
            return Origin(weights.random(settings.seed), f"seed {settings.seed}")
