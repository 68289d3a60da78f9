import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import __main__ as tasks
from tasks import export
from tests import exportable
from transfer.evaluation import exports
from transfer.images import manifest
from transfer.network import saving
from transfer.network.card import describe
from transfer.runtime.errors import DataError
from transfer.sources import synthetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with photographs of both splits and the outputs of `fine_tune`."""
    folder, entries = tmp_path_factory.mktemp("made"), []
    for number in range(12):
        class_name, split = ("cat", "dog")[number % 2], ("train", "test")[number // 6]
        data = synthetic.draw(class_name, number, size=20, seed=0)
        path = folder / f"artifacts/subsample/photos/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries.append(
            manifest.Entry(f"photos/{number}.jpg", class_name, hashlib.sha256(data).hexdigest(), 20, 20, split)
        )
    manifest.write(folder / "artifacts/split/manifest.csv", entries)
    card = describe(["cat", "dog"], {"image_size": exportable.SIZE, "resizing": "crop"}, {}, {}, {"epochs": 1})
    saving.write(folder / "artifacts/fine_tune/model.keras", exportable.network(), card)
    return folder


@pytest.fixture
def workspace(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with those inputs, as the current folder."""
    (tmp_path / "artifacts").mkdir()
    for name in ("split", "subsample", "fine_tune"):
        (tmp_path / "artifacts" / name).symlink_to(network / "artifacts" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_params(formats: list[str]) -> None:
    """Write params.yaml."""
    Path("params.yaml").write_text(json.dumps({"export": {"formats": formats, "checked": 4, "calibration": 5}}))


def result(name: str) -> dict[str, Any]:
    """The content of a JSON file of the stage."""
    content: dict[str, Any] = json.loads(Path("artifacts/export", name).read_text())
    return content


def test_nothing_is_exported_by_default(workspace: Path) -> None:
    """Without formats the stage starts no TensorFlow, and its card says that no file was exported."""
    set_params([])
    program = "import sys; from tasks import export; export.main(); assert 'tensorflow' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program], cwd=workspace, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    assert result("metrics.json") == {}
    assert result("models/model.json")["exported"] == {}
    assert [path.name for path in Path("artifacts/export/models").iterdir()] == ["model.json"]


@pytest.mark.usefixtures("workspace")
def test_formats_are_exported_and_checked() -> None:
    """Each file is there with its sha256 in the card, and its size, rate and agreement in metrics.json."""
    pytest.importorskip("onnxruntime")
    set_params(["onnx", "litert", "litert_int8"])
    export.main()
    files, metrics = result("models/model.json")["exported"], result("metrics.json")
    for form, file in {"onnx": "model.onnx", "litert": "model.tflite", "litert_int8": "model_int8.tflite"}.items():
        content = Path("artifacts/export/models", file).read_bytes()
        assert files[form] == {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
        assert metrics[form]["bytes"] == len(content)
        assert metrics[form]["photographs_per_second"] > 0
    assert max(metrics[form]["log_odds_difference"] for form in ("onnx", "litert")) < 1e-3
    set_params([])
    export.main()
    assert [path.name for path in Path("artifacts/export/models").iterdir()] == ["model.json"]


@pytest.mark.reliability(
    "training", "an exported network predicts something else than model.keras", "exit 65; nothing is exported"
)
@pytest.mark.usefixtures("workspace")
def test_a_network_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preprocessing that is left out is found on the photographs; earlier results stay."""
    set_params([])
    export.main()
    set_params(["litert"])
    convert = exports.litert.convert

    def without_preprocessing(network: Any) -> bytes:
        network.get_layer("preprocessing").offset = 0.0
        return convert(network)

    monkeypatch.setattr(exports.litert, "convert", without_preprocessing)
    with pytest.raises(DataError, match=r"`litert` must predict the same as model\.keras"):
        export.main()
    assert result("models/model.json")["exported"] == {}


def test_missing_packages_are_named_before_any_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the packages of ONNX are not installed, the check of all parameters says what to install."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["export"]["formats"] = ["litert", "onnx"]
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(params))
    monkeypatch.setitem(sys.modules, "onnx", None)
    [mistake] = tasks.mistakes_in(file)
    assert mistake.endswith("Received: litert, onnx, without the packages onnx. Run `make install`")
