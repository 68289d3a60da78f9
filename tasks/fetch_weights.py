"""Fetch weights: put VGG16's convolutional weights at `artifacts/fetch_weights/vgg16.weights.h5`."""

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from transfer.network import weights
from transfer.network.weights import Weights
from transfer.runtime import files, params, paths
from transfer.runtime.errors import DataError
from transfer.sources import http, inbox
from transfer.sources.http import Checksum

STAGE = "fetch_weights"
IMAGENET = (  # this URL and its checksum are those of keras.applications.VGG16
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
IMAGENET_BYTES = 58_889_256
IMAGENET_MD5 = Checksum("md5", "6d6bbae143d832006294945121d1f1fc")


class Params(params.Section):
    """The source of the weights; the seed is for the source `random`."""

    source: Literal["imagenet", "inbox", "random"]
    seed: int = Field(ge=0)


class Origin(NamedTuple):
    """Checked weights, and their origin: a URL, a path relative to the project, or a seed."""

    weights: Weights
    place: str


def from_imagenet(
    folder: Path, *, address: str = IMAGENET, checksum: Checksum = IMAGENET_MD5, size: int = IMAGENET_BYTES
) -> Origin:
    """Download the weights that Keras downloads, trained on ImageNet.

    Args:
        folder: the folder for complete and partial downloads.
        address: the URL of the file.
        checksum: of the file.
        size: of the file in bytes.
    """
    file = folder / "imagenet.h5"
    http.download(address, file, checksum=checksum, size=size)
    return Origin(weights.read(file), address)


def from_inbox(folder: Path) -> Origin:
    """Read the only weights file in a folder.

    Raises:
        DataError: there is no file, or several, or the file is not a regular one or has other weights than VGG16's.
    """
    candidates = sorted(path for path in folder.glob("*.h5") if not path.name.startswith("."))
    if len(candidates) != 1:
        received = (
            ", ".join(f"`{path.as_posix()}`" for path in candidates) or f"no `.h5` file in `{folder.as_posix()}/`"
        )
        raise DataError(f"Put one file of VGG16's weights into `inbox/`, as Keras saves them. Received: {received}.")
    [path] = candidates
    return Origin(weights.read(inbox.check_file(path)), path.as_posix())


def main() -> None:
    """Get the weights from the chosen source, and write `vgg16.weights.h5` and `weights.json`."""
    settings = params.load(STAGE, Params)
    origin = _get(settings)
    target = paths.artifact(STAGE, "vgg16.weights.h5")
    weights.write(target, origin.weights)
    description = {"source": settings.source, "from": origin.place, "sha256": files.sha256(target)}
    files.write_json(paths.artifact(STAGE, "weights.json"), description)


def _get(settings: Params) -> Origin:
    match settings.source:
        case "imagenet":
            return from_imagenet(paths.cache(STAGE))
        case "inbox":
            return from_inbox(paths.INBOX)
        case "random":
            return Origin(weights.random(settings.seed), f"seed {settings.seed}")
