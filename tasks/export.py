"""Export the fine-tuned network to ONNX and LiteRT, if params.yaml asks for it, and check that each agrees with it."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from transfer.images import decoding, manifest
from transfer.images.decoding import Pixels
from transfer.network.card import EXPORTED_FILES, FILE_NAME, Card, ExportFormat, describe_exports, verified_card
from transfer.runtime import files, params, paths
from transfer.runtime.errors import rerun_hint

log = logging.getLogger(__name__)

STAGE = "export"
PACKAGES = {"onnx": ("onnx", "onnxruntime")}  # which a format needs besides TensorFlow
MODELS = "models"  # the folder of the exported networks and their `model.json`


class Params(params.Section):
    """The formats, and the photographs that check and calibrate them."""

    formats: list[ExportFormat] = Field(max_length=len(EXPORTED_FILES), description="none: nothing is exported")
    checked: int = Field(ge=1, le=1000, description="test photographs on which each format must agree with model.keras")
    calibration: int = Field(ge=1, le=1000, description="training photographs that give the ranges of 8-bit integers")

    @model_validator(mode="after")
    def _have_packages(self) -> "Params":
        needed = [package for form in self.formats for package in PACKAGES.get(form, ())]
        if lacking := [package for package in needed if find_spec(package) is None]:
            raise ValueError(
                f"`formats` must be those whose packages are installed. Received: {', '.join(self.formats)}, without "
                f"the packages {' and '.join(lacking)}. Run `make install`"
            )
        return self


def read_photographs(entries: Sequence[manifest.Entry], split: str, number: int, card: Card) -> list[Pixels]:
    """Read some photographs of a split as the network takes them; the same ones as long as the split is the same.

    Raises:
        DataError: a file has another SHA-256 than the manifest lists.
    """
    chosen = sorted((entry for entry in entries if entry.split == split), key=lambda entry: entry.sha256)[:number]
    folder = paths.artifact("subsample")
    return [decoding.read_square(folder, entry, size=card.image_size, resizing=card.resizing) for entry in chosen]


def export(folder: Path, network: Path, card: Card, settings: Params) -> dict[str, Any]:
    """Write a network in the chosen formats, and check each one.

    Args:
        folder: for the files.
        network: the network's file.
        card: of the network.
        settings: the stage's parameters.

    Returns:
        The measurements of each format, for metrics.json.

    Raises:
        DataError: the network or a photograph is damaged, or a format predicts something else than the network.
    """
    from transfer.evaluation import exports  # noqa: PLC0415 - it imports TensorFlow
    from transfer.network import saving  # noqa: PLC0415 - so does this one

    entries = manifest.read(paths.artifact("split", "manifest.csv"))
    photographs = read_photographs(entries, "test", settings.checked, card)
    samples = read_photographs(entries, "train", settings.calibration, card)
    keras_model = saving.load(network)
    expected = exports.predict(keras_model, photographs, name="keras")
    metrics: dict[str, Any] = {}
    for form in dict.fromkeys(settings.formats):
        exported = exports.export(keras_model, form, samples=samples)
        measured = exports.measure(exported, photographs, expected, form)
        exports.check(measured, form, temperature=card.temperature)
        files.write_bytes(folder / EXPORTED_FILES[form], exported.content)
        metrics[form] = measured._asdict()
        log.info("%s", exports.describe(form, measured))
    return metrics


def main() -> None:
    """Write artifacts/export/: models/ with the exported networks and their model.json, and metrics.json."""
    settings = params.load(STAGE, Params)
    network = paths.artifact("fine_tune", "model.keras")
    card = verified_card(network, hint=rerun_hint("fine_tune"))
    with files.atomic_folder(paths.artifact(STAGE)) as folder:
        models = folder / MODELS
        metrics = export(models, network, card, settings) if settings.formats else {}
        hashes = {form: files.sha256(models / EXPORTED_FILES[form]) for form in dict.fromkeys(settings.formats)}
        files.write_json(models / FILE_NAME, describe_exports(card, hashes))
        files.write_json(folder / "metrics.json", metrics)
