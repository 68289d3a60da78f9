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

from ladder import networks
from transfer.network import heads, saving
from transfer.network.backend import keras
from transfer.runtime.errors import DataError

Change = Callable[[dict[str, Any]], None]
Spoil = Callable[[h5py.File], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a small network's file."""
    file = tmp_path_factory.mktemp("saved") / "head.keras"
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[4], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    saving.save(heads.build(settings, feature_map=(2, 2, 8), classes=2, seed=1), file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes]], keras.Model]]:
    """Opens a network of these members, in an empty folder in which nothing may appear."""
    monkeypatch.chdir(tmp_path)

    def load(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> keras.Model:
        with zipfile.ZipFile("model.keras", "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return saving.load(Path("model.keras"))

    yield load
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def changed(saved: dict[str, bytes], change: Change) -> dict[str, bytes]:
    """The members with another configuration."""
    config = json.loads(saved["config.json"])
    change(config)
    return {**saved, "config.json": json.dumps(config).encode()}


def dense(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the hidden layer."""
    found: dict[str, Any] = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")
    return found


def in_place_of_the_layer(**asked_for: Any) -> Change:
    """A layer that is something else."""
    return lambda config: dense(config).update({"registered_name": None, **asked_for})


def as_the_activation(**asked_for: Any) -> Change:
    """A layer that applies something else to what it computes."""
    return lambda config: dense(config)["config"].update(activation=asked_for)


def test_what_is_well_formed_is_opened(saved: dict[str, bytes], opened: Callable[..., keras.Model]) -> None:
    """The file from which all others here are made is a network."""
    assert opened(saved).count_params() > 0


LAMBDA = {"class_name": "__lambda__", "config": {"code": "", "defaults": None, "closure": None}}
A_LAMBDA = pytest.mark.reliability(
    "tampered", "a model with a Lambda layer or the bytecode of a function", "refused before anything is built of it"
)
BY_NAME = pytest.mark.reliability(
    "tampered",
    "a model that names functions or classes of its own, of Python's or of Keras's, by module or registered name",
    "refused before anything is built of it",
)
OTHER_LAYERS = pytest.mark.reliability(
    "tampered", "a model with layers that read files or run other libraries", "refused before anything is built of it"
)
CODE = [
    pytest.param(
        in_place_of_the_layer(module="keras.layers", class_name="Lambda", config={"name": "x", "function": LAMBDA}),
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
            (in_place_of_the_layer(module="tests.servers", class_name="StandIn"), "tests.servers.StandIn"),
            (in_place_of_the_layer(module=None), "None.Dense"),
            (in_place_of_the_layer(module=["keras.layers"]), "['keras.layers'].Dense"),
            (in_place_of_the_layer(class_name=["Dense"]), "keras.layers.['Dense']"),
            (in_place_of_the_layer(registered_name="package>Dense"), "keras.layers.Dense"),
            (as_the_activation(class_name="__typespec__", config=[], spec_name="x", module="os"), "os.__typespec__"),
        )
    ),
    *(
        pytest.param(
            in_place_of_the_layer(module="keras.layers", class_name=name, config=config),
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
def test_a_network_of_anything_but_our_layers_is_refused(
    saved: dict[str, bytes], opened: Callable[..., keras.Model], change: Change, reason: str
) -> None:
    """Code, functions by name and layers that this project does not use are named, not built."""
    with pytest.raises(DataError, match=re.escape(f"not a network this project saved: it asks for `{reason}`")):
        opened(changed(saved, change))


def link_softly(file: h5py.File) -> None:
    """A link within the file."""
    file["layers/more"] = h5py.SoftLink("/layers/dense")


def link_outside(file: h5py.File) -> None:
    """A link to another file."""
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "/secret")


def store_outside(file: h5py.File) -> None:
    """Numbers that are the bytes of another file."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (4,), "<f4", external=[("/etc/passwd", 0, 16)])


def map_from_outside(file: h5py.File) -> None:
    """Numbers that are another file's dataset."""
    del file["layers/dense/vars/1"]
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file["layers/dense/vars"].create_virtual_dataset("1", layout)


def store_objects(file: h5py.File) -> None:
    """Something else than numbers."""
    del file["layers/dense/vars/1"]
    file["layers/dense/vars"].create_dataset("1", (4,), h5py.string_dtype())


def swell(file: h5py.File) -> None:
    """A terabyte of zeros that takes no room in the file."""
    file["layers/dense/vars"].create_dataset("2", (1 << 38,), "<f4", chunks=(1 << 20,), compression="gzip")


def swell_in_pieces(file: h5py.File) -> None:
    """A few numbers that lie in a piece of megabytes, which is unpacked whole to read them."""
    pieces = {"chunks": (1 << 22,), "maxshape": (None,), "compression": "gzip"}
    file["layers/dense/vars"].create_dataset("2", (4,), "<f4", **pieces)[:] = 1


def entangle(file: h5py.File) -> None:
    """Groups that hold themselves, which can be walked in more ways than there is time for."""
    for number in range(100):
        file[f"layers/{number}"] = file["layers"]


def deepen(file: h5py.File) -> None:
    """A group in a group and so on, which HDF5 takes half a minute to visit."""
    group = file["layers"]
    for _ in range(900):
        group = group.create_group("in")


def cut_a_layer(file: h5py.File) -> None:
    """A layer without its numbers."""
    del file["layers/dense/vars/0"]


def narrow(file: h5py.File) -> None:
    """A layer's numbers for fewer channels."""
    numbers = file["layers/dense/vars/0"][:]
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.concatenate([numbers, numbers])


ELSEWHERE = pytest.mark.reliability(
    "tampered",
    "a model whose weights lie in another file, by link or otherwise",
    "refused before any of it is read",
)
SHAPES = pytest.mark.reliability(
    "tampered", "a model whose weights do not fit its layers", "refused with the reason in one line"
)
BOMB = pytest.mark.reliability(
    "tampered", "a zip bomb or an HDF5 bomb as a model", "refused before any of it is unpacked"
)
MEMBERS = pytest.mark.reliability(
    "tampered", "a model's archive with more members, or with paths that lead out of it", "refused; nothing is unpacked"
)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(link_softly, "the link 'layers/more'", marks=ELSEWHERE),
        pytest.param(link_outside, "the link 'layers/dense/vars/0'", marks=ELSEWHERE),
        pytest.param(store_outside, "stored in the file itself", marks=ELSEWHERE),
        pytest.param(map_from_outside, "stored in the file itself", marks=ELSEWHERE),
        (store_objects, "must be numbers"),
        pytest.param(
            swell,
            "more room in memory than in the file",
            marks=BOMB,
        ),
        pytest.param(swell_in_pieces, "in one piece", marks=BOMB),
        pytest.param(deepen, "deeper than any", marks=BOMB),
        pytest.param(cut_a_layer, r"but only \d+ are stored in it", marks=SHAPES),
        pytest.param(narrow, "", marks=SHAPES),
    ],
)
def test_weights_must_lie_in_the_file(
    saved: dict[str, bytes], opened: Callable[..., keras.Model], spoil: Spoil, reason: str
) -> None:
    """Numbers that lie elsewhere, are too many or too few, or are none are refused."""
    weights = io.BytesIO(saved["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=f"not a network this project saved: .*{reason}") as refusal:
        opened({**saved, "model.weights.h5": weights.getvalue()})
    assert "\n" not in str(refusal.value)


def test_groups_that_hold_themselves_are_walked_once(
    saved: dict[str, bytes], opened: Callable[..., keras.Model]
) -> None:
    """What is the same group by a hundred names is one group."""
    weights = io.BytesIO(saved["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        entangle(file)
    assert opened({**saved, "model.weights.h5": weights.getvalue()})


@pytest.mark.reliability(
    "tampered",
    "a model that wants more memory than its file has weights",
    "refused before any memory is taken for it",
)
def test_a_network_larger_than_its_file_is_refused(saved: dict[str, bytes], opened: Callable[..., keras.Model]) -> None:
    """Layers of a billion units are counted, not built."""

    def widen(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            layer.pop("build_config", None)
        dense(config)["config"]["units"] = 1 << 40

    with pytest.raises(DataError, match=r"its layers have [\d,]{15,} weights, but only \d+ are stored"):
        opened(changed(saved, widen))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"assets/../../escaped": b"x"}, marks=MEMBERS),
        pytest.param({"/tmp/escaped": b"x"}, marks=MEMBERS),  # noqa: S108 - refused, which the test shows
        pytest.param({"assets/vocabulary.txt": b"x"}, marks=MEMBERS),
        pytest.param({"model.weights.npz": b"x"}, marks=MEMBERS),
    ],
)
def test_other_members_are_refused(
    saved: dict[str, bytes], opened: Callable[..., keras.Model], more: dict[str, bytes]
) -> None:
    """An archive holds the three members of a network and nothing else; nothing is unpacked."""
    with pytest.raises(DataError, match=r"must hold config\.json, metadata\.json, model\.weights\.h5 and nothing else"):
        opened({**saved, **more})


@BOMB
def test_compressed_members_are_refused(saved: dict[str, bytes], opened: Callable[..., keras.Model]) -> None:
    """What could grow when it is unpacked is not unpacked."""
    with pytest.raises(DataError, match="stored as they are, not compressed"):
        opened({**saved, "model.weights.h5": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)


def test_a_file_that_the_disk_refuses_is_no_damaged_network(
    saved: dict[str, bytes], opened: Callable[..., keras.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be read, or cannot, is the disk's matter."""
    opened(saved)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(io, "open", refuse)  # as zipfile opens files
    with pytest.raises(PermissionError, match=r"Permission denied: 'model\.keras'"):
        saving.load(Path("model.keras"))


@pytest.mark.reliability(
    "tampered", "a model in another of Keras's formats, with less care for safety", "refused without being opened"
)
@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model.weights.json", "folder"])
def test_other_formats_are_refused(tmp_path: Path, saved: dict[str, bytes], name: str) -> None:
    """Only `.keras` archives are opened, whatever else Keras would take."""
    if name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(saved["config.json"])
    elif name == "model.h5":
        keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(saved["model.weights.h5"])
    with pytest.raises(DataError, match=r"it must be a whole `\.keras` archive"):
        saving.load(tmp_path / name)


def test_a_network_without_an_input_is_refused(saved: dict[str, bytes], opened: Callable[..., keras.Model]) -> None:
    """What cannot say what it takes is no network to feed."""
    layer = {"module": "keras.layers", "class_name": "Flatten", "config": {"name": "flatten"}, "registered_name": None}
    bare = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "bare", "layers": [layer]},
        "registered_name": None,
    }
    for config in (bare, layer):
        with pytest.raises(DataError, match="not a network this project saved"):
            opened({**saved, "config.json": json.dumps(config).encode()})


@pytest.mark.reliability("tampered", "a damaged model", "refused in one line that a terminal can show, with the cure")
@pytest.mark.parametrize(
    "config", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"class_name": "\\u001b[2J", "config": {}}']
)
def test_a_damaged_configuration_is_told_in_one_line(
    saved: dict[str, bytes], opened: Callable[..., keras.Model], config: bytes
) -> None:
    """Whatever is in the file, the message is short and printable."""
    with pytest.raises(DataError, match="not a network this project saved") as refusal:
        opened({**saved, "config.json": config})
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("pooling", ["average", "max", "average_max", "flatten"])
def test_every_head_is_opened(tmp_path: Path, pooling: heads.Pooling) -> None:
    """No head that params allow is made of anything that is refused."""
    settings = heads.Params(
        pooling=pooling, batch_normalization=True, dense=[4], activation="gelu", dropout=0.5, l1=1e-4, l2=1e-4
    )
    head = heads.build(settings, feature_map=(2, 2, 8), classes=3, seed=1)
    saving.save(head, tmp_path / "head.keras")
    assert saving.load(tmp_path / "head.keras").count_params() == head.count_params()


@pytest.mark.parametrize(
    "settings",
    [
        networks.Dense(hidden=[4]),
        networks.Convolutional(filters=[4], dense=4, batch_normalization=True, dropout=0.5),
        networks.Deep(filters=[4], pairs=1, skips=True),
    ],
    ids=["dense", "convolutional", "deep"],
)
def test_every_rung_of_the_ladder_is_opened(tmp_path: Path, settings: networks.Settings) -> None:
    """No network of the ladder is made of anything that is refused."""
    network = networks.build(settings, image_size=16, classes=2, seed=0)
    saving.save(network, tmp_path / "model.keras")
    assert saving.load(tmp_path / "model.keras").count_params() == network.count_params()


def test_a_compiled_network_is_opened(tmp_path: Path) -> None:
    """The optimizer in a checkpoint's file is left aside, and does not have it refused."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy())
    network.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    saving.save(network, tmp_path / "model.keras")
    assert not saving.load(tmp_path / "model.keras").compiled
