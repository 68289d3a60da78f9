import errno
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from baselines import networks
from transfer.network import heads, saving, vgg16
from transfer.network.backend import keras
from transfer.runtime.errors import DataError

Change = Callable[[dict[str, Any]], None]
WeightsChange = Callable[[h5py.File], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the members of a small network's file."""
    file = tmp_path_factory.mktemp("saved") / "head.keras"
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[4], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    saving.save(heads.build(settings, feature_map=(2, 2, 8), classes=2, seed=1), file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes]], keras.Model]]:
    """Return a function that loads an archive of some members, in a folder in which no other file may appear."""
    monkeypatch.chdir(tmp_path)

    def load_members(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> keras.Model:
        with zipfile.ZipFile("model.keras", "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return saving.load(Path("model.keras"))

    yield load_members
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def changed(saved: dict[str, bytes], change: Change) -> dict[str, bytes]:
    """Return the members with a changed configuration."""
    config = json.loads(saved["config.json"])
    change(config)
    return {**saved, "config.json": json.dumps(config).encode()}


def dense(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the hidden layer."""
    layer: dict[str, Any] = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")
    return layer


def as_the_layer(**item: Any) -> Change:
    """Replace the hidden layer by another object."""
    return lambda config: dense(config).update({"registered_name": None, **item})


def as_the_activation(**item: Any) -> Change:
    """Replace the hidden layer's activation by another object."""
    return lambda config: dense(config)["config"].update(activation=item)


def test_the_unchanged_network_is_loaded(saved: dict[str, bytes], load: Callable[..., keras.Model]) -> None:
    """The archive that all tests here change is a network."""
    assert load(saved).count_params() > 0


LAMBDA = {"class_name": "__lambda__", "config": {"code": "", "defaults": None, "closure": None}}
A_LAMBDA = pytest.mark.reliability(
    "tampered", "a model with a Lambda layer or the bytecode of a function", "rejected before Keras builds anything"
)
BY_NAME = pytest.mark.reliability(
    "tampered",
    "a model that names other functions or classes, by module or registered name",
    "rejected before Keras builds anything",
)
OTHER_LAYERS = pytest.mark.reliability(
    "tampered", "a model with layers that read files or run other libraries", "rejected before Keras builds anything"
)
CODE = [
    pytest.param(
        as_the_layer(module="keras.layers", class_name="Lambda", config={"name": "x", "function": LAMBDA}),
        "keras.layers.Lambda",
        marks=A_LAMBDA,
    ),
    pytest.param(as_the_activation(**LAMBDA), "None.__lambda__", marks=A_LAMBDA),
    *(
        pytest.param(change, reason, marks=BY_NAME)
        for change, reason in (
            (as_the_activation(module="os", class_name="function", config="system"), "os.function"),
            (as_the_activation(module="builtins", class_name="function", config="exec"), "builtins.function"),
            (as_the_activation(module="keras.utils", class_name="function", config="get_file"), "keras.utils.function"),
            (
                as_the_activation(module="keras.config", class_name="function", config="enable_unsafe_deserialization"),
                "keras.config.function",
            ),
            (as_the_layer(module="tests.servers", class_name="StandIn"), "tests.servers.StandIn"),
            (as_the_layer(module=None), "None.Dense"),
            (as_the_layer(module=["keras.layers"]), "['keras.layers'].Dense"),
            (as_the_layer(class_name=["Dense"]), "keras.layers.['Dense']"),
            (as_the_layer(registered_name="package>Dense"), "keras.layers.Dense"),
            (as_the_activation(class_name="__typespec__", config=[], spec_name="x", module="os"), "os.__typespec__"),
        )
    ),
    *(
        pytest.param(
            as_the_layer(module="keras.layers", class_name=name, config=config),
            f"keras.layers.{name}",
            marks=OTHER_LAYERS,
        )
        for name, config in (
            ("StringLookup", {"vocabulary": "/etc/passwd"}),
            ("TFSMLayer", {"filepath": "elsewhere"}),
            ("TorchModuleWrapper", {"module": ""}),
        )
    ),
]


@pytest.mark.parametrize(("change", "reason"), CODE)
def test_other_classes_and_functions_are_rejected(
    saved: dict[str, bytes], load: Callable[..., keras.Model], change: Change, reason: str
) -> None:
    """Code, functions by name and layers that this project does not use are named in the error and not built."""
    with pytest.raises(DataError, match=re.escape(f"not a network this project saved: it asks for `{reason}`")):
        load(changed(saved, change))


def link_softly(file: h5py.File) -> None:
    """Add a link within the file."""
    file["layers/more"] = h5py.SoftLink("/layers/dense")


def link_outside(file: h5py.File) -> None:
    """Replace a layer's weights by a link to another file."""
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "/secret")


def store_outside(file: h5py.File) -> None:
    """Replace a layer's weights by the bytes of another file."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (4,), "<f4", external=[("/etc/passwd", 0, 16)])


def map_from_outside(file: h5py.File) -> None:
    """Replace a layer's weights by another file's dataset."""
    del file["layers/dense/vars/1"]
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file["layers/dense/vars"].create_virtual_dataset("1", layout)


def store_objects(file: h5py.File) -> None:
    """Replace a layer's weights by strings."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (4,), h5py.string_dtype())


def add_zeros(file: h5py.File) -> None:
    """Add a terabyte of zeros that takes no space in the file."""
    file["layers/dense/vars"].create_dataset("2", (1 << 38,), "<f4", chunks=(1 << 20,), compression="gzip")


def add_chunk(file: h5py.File) -> None:
    """Add four numbers in a compressed chunk of 16 MiB, which HDF5 unpacks as a whole."""
    chunks = {"chunks": (1 << 22,), "maxshape": (None,), "compression": "gzip"}
    file["layers/dense/vars"].create_dataset("2", (4,), "<f4", **chunks)[:] = 1


def repeat_weights(file: h5py.File) -> None:
    """Give a layer's weights so many names that they take more memory than the file."""
    for number in range(5000):
        file[f"layers/dense/vars/{number + 10}"] = file["layers/dense/vars/0"]


def nest_in_itself(file: h5py.File) -> None:
    """Add groups that contain each other, with more paths than can be searched."""
    for number in range(100):
        file[f"layers/{number}"] = file["layers"]


def nest_deeply(file: h5py.File) -> None:
    """Add nested groups that HDF5 takes half a minute to visit."""
    group = file["layers"]
    for _ in range(900):
        group = group.create_group("in")


def remove_weights(file: h5py.File) -> None:
    """Remove the weights of a layer."""
    del file["layers/dense/vars/0"]


def double_weights(file: h5py.File) -> None:
    """Replace a layer's weights by weights of another shape."""
    numbers = file["layers/dense/vars/0"][:]
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.concatenate([numbers, numbers])


ELSEWHERE = pytest.mark.reliability(
    "tampered",
    "a model with weights in another file, by a link or otherwise",
    "rejected before the other file is read",
)
SHAPES = pytest.mark.reliability(
    "tampered", "a model with weights that do not fit its layers", "rejected with the reason in one line"
)
BOMB = pytest.mark.reliability("tampered", "a zip bomb or an HDF5 bomb as a model", "rejected before it is unpacked")
MEMBERS = pytest.mark.reliability(
    "tampered",
    "a model's archive with other members, or with paths that lead out of it",
    "rejected; nothing is unpacked",
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(link_softly, "the link 'layers/more'", marks=ELSEWHERE),
        pytest.param(link_outside, "the link 'layers/dense/vars/0'", marks=ELSEWHERE),
        pytest.param(store_outside, "stored in the file itself", marks=ELSEWHERE),
        pytest.param(map_from_outside, "stored in the file itself", marks=ELSEWHERE),
        (store_objects, "must be numbers"),
        pytest.param(add_zeros, "without compression", marks=BOMB),
        pytest.param(add_chunk, "without compression", marks=BOMB),
        pytest.param(repeat_weights, "more memory than the file", marks=BOMB),
        pytest.param(nest_deeply, "nested more than", marks=BOMB),
        pytest.param(remove_weights, r"but only \d+ are stored in it", marks=SHAPES),
        pytest.param(double_weights, "", marks=SHAPES),
    ],
)
def test_weights_that_are_not_in_the_file_are_rejected(
    saved: dict[str, bytes], load: Callable[..., keras.Model], change: WeightsChange, reason: str
) -> None:
    """Weights that are elsewhere, too many, too few or not numbers are rejected with a reason of one line."""
    weights = io.BytesIO(saved["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=f"not a network this project saved: .*{reason}") as rejection:
        load({**saved, "model.weights.h5": weights.getvalue()})
    assert "\n" not in str(rejection.value)


def test_groups_that_contain_each_other_are_searched_once(
    saved: dict[str, bytes], load: Callable[..., keras.Model]
) -> None:
    """A group with a hundred names is one group."""
    weights = io.BytesIO(saved["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        nest_in_itself(file)
    assert load({**saved, "model.weights.h5": weights.getvalue()})


@pytest.mark.reliability(
    "tampered",
    "a model that would take more memory than its file has weights",
    "rejected before memory is allocated",
)
def test_a_network_larger_than_its_file_is_rejected(saved: dict[str, bytes], load: Callable[..., keras.Model]) -> None:
    """The weights of a layer with a trillion units are counted without allocating them."""

    def widen(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            layer.pop("build_config", None)
        dense(config)["config"]["units"] = 1 << 40

    with pytest.raises(DataError, match=r"its layers have [\d,]{15,} weights, but only \d+ are stored"):
        load(changed(saved, widen))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"assets/../../escaped": b"x"}, marks=MEMBERS),
        pytest.param({"/tmp/escaped": b"x"}, marks=MEMBERS),  # noqa: S108 - rejected, as the test shows
        pytest.param({"assets/vocabulary.txt": b"x"}, marks=MEMBERS),
        pytest.param({"model.weights.npz": b"x"}, marks=MEMBERS),
    ],
)
def test_other_members_are_rejected(
    saved: dict[str, bytes], load: Callable[..., keras.Model], more: dict[str, bytes]
) -> None:
    """An archive holds the three members of a network and nothing else; nothing is unpacked."""
    with pytest.raises(DataError, match=r"must hold config\.json, metadata\.json, model\.weights\.h5 and nothing else"):
        load({**saved, **more})


@BOMB
def test_compressed_members_are_rejected(saved: dict[str, bytes], load: Callable[..., keras.Model]) -> None:
    """A compressed member, which may grow without limit, is not unpacked."""
    with pytest.raises(DataError, match="stored without compression"):
        load({**saved, "model.weights.h5": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    saved: dict[str, bytes], load: Callable[..., keras.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk or of permissions is raised as it is, with the file's name."""
    load(saved)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(io, "open", deny)  # as zipfile opens files
    with pytest.raises(PermissionError, match=r"Permission denied: 'model\.keras'"):
        saving.load(Path("model.keras"))


@pytest.mark.reliability("tampered", "a model in another, less safe format of Keras", "rejected without being opened")
@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model.weights.json", "folder"])
def test_other_formats_are_rejected(tmp_path: Path, saved: dict[str, bytes], name: str) -> None:
    """Only `.keras` archives are opened, whatever else Keras would take."""
    if name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(saved["config.json"])
    elif name == "model.h5":
        keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(saved["model.weights.h5"])
    with pytest.raises(DataError, match=r"it must be a `\.keras` archive"):
        saving.load(tmp_path / name)


def test_a_network_without_an_input_is_rejected(saved: dict[str, bytes], load: Callable[..., keras.Model]) -> None:
    """A network without a known input shape, or a single layer, is rejected."""
    layer = {"module": "keras.layers", "class_name": "Flatten", "config": {"name": "flatten"}, "registered_name": None}
    bare = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "bare", "layers": [layer]},
        "registered_name": None,
    }
    for config in (bare, layer):
        with pytest.raises(DataError, match="not a network this project saved"):
            load({**saved, "config.json": json.dumps(config).encode()})


@pytest.mark.reliability("tampered", "a damaged model", "65 and one printable line that says what to do")
@pytest.mark.parametrize(
    "config", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"class_name": "\\u001b[2J", "config": {}}']
)
def test_a_damaged_configuration_is_reported_in_one_line(
    saved: dict[str, bytes], load: Callable[..., keras.Model], config: bytes
) -> None:
    """The message is short and printable, whatever the file contains."""
    with pytest.raises(DataError, match="not a network this project saved") as rejection:
        load({**saved, "config.json": config})
    assert str(rejection.value).isprintable()
    assert len(str(rejection.value)) < 500


@pytest.mark.parametrize("pooling", ["average", "max", "average_max", "flatten"])
def test_every_head_is_loaded(tmp_path: Path, pooling: heads.Pooling) -> None:
    """Every head that the parameters allow consists of allowed layers."""
    settings = heads.Params(
        pooling=pooling, batch_normalization=True, dense=[4], activation="gelu", dropout=0.5, l1=1e-4, l2=1e-4
    )
    head = heads.build(settings, feature_map=(2, 2, 8), classes=3, seed=1)
    saving.save(head, tmp_path / "head.keras")
    assert saving.load(tmp_path / "head.keras").count_params() == head.count_params()


@pytest.mark.parametrize(("classes", "number"), [(2, heads.MAX_NUMBER), (3, 2)])
def test_several_heads_are_loaded(tmp_path: Path, classes: int, number: int) -> None:
    """The most and deepest heads that the parameters allow, above the complete base, are not too many layers."""
    settings = heads.Params(
        pooling="average_max", batch_normalization=True, dense=[2] * 8, activation="relu", dropout=0.5, l1=0.0, l2=0.0
    )
    head = heads.build(settings, feature_map=(1, 1, 4), classes=classes, seed=1, number=number)
    base = [keras.layers.ReLU() for _ in range(len(vgg16.layer_names()))]
    network = keras.Sequential([keras.Input((1, 1, 4)), keras.layers.Rescaling(1.0), *base, head])
    saving.save(network, tmp_path / "model.keras")
    loaded = saving.load(tmp_path / "model.keras")
    rows = np.ones((1, 1, 1, 4), np.float32)
    np.testing.assert_array_equal(loaded(rows), network(rows))


@pytest.mark.parametrize(
    "settings",
    [
        networks.Dense(hidden=[4]),
        networks.Convolutional(filters=[4], dense=4, batch_normalization=True, dropout=0.5),
        networks.Deep(filters=[4], pairs=1, skips=True),
    ],
    ids=["dense", "convolutional", "deep"],
)
def test_every_baseline_is_loaded(tmp_path: Path, settings: networks.Settings) -> None:
    """Every network to compare with consists of allowed layers."""
    network = networks.build(settings, image_size=16, classes=2, seed=0)
    saving.save(network, tmp_path / "model.keras")
    assert saving.load(tmp_path / "model.keras").count_params() == network.count_params()


def test_a_compiled_network_is_loaded(tmp_path: Path) -> None:
    """The optimizer in a checkpoint's file is ignored, and is no reason to reject it."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy())
    network.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    saving.save(network, tmp_path / "model.keras")
    assert not saving.load(tmp_path / "model.keras").compiled
