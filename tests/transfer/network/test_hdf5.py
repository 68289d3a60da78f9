import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from transfer.network import hdf5


def test_a_member_is_found_without_following_links(tmp_path: Path) -> None:
    """A missing name and every link are None; the file that an external link names is not opened."""
    os.mkfifo(tmp_path / "pipe.h5")  # whoever opens it waits without end
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["group/numbers"] = np.arange(3)
        file["soft"] = h5py.SoftLink("/group")
        file["external"] = h5py.ExternalLink(str(tmp_path / "pipe.h5"), "/")
        assert isinstance(hdf5.member(file, "group"), h5py.Group)
        assert [hdf5.member(file, name) for name in ("missing", "soft", "external")] == [None] * 3


def test_all_datasets_are_found(tmp_path: Path) -> None:
    """Datasets at every depth are found; a group that contains itself, or has several names, is searched once."""
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["a"], file["group/b"], file["group/sub/c"] = 1.0, 2.0, 3.0
        for number in range(100):
            file[f"group/{number}"] = file["group"]
        file["type"] = np.dtype("f4")
        assert sorted(float(dataset[()]) for dataset in hdf5.datasets(file)) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("link", [h5py.SoftLink("/group/numbers"), h5py.ExternalLink("other.h5", "/")])
def test_a_link_is_rejected(tmp_path: Path, link: h5py.SoftLink | h5py.ExternalLink) -> None:
    """A link anywhere below a group ends the search with its name."""
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["group/numbers"] = np.arange(3)
        file["group/link"] = link
        with pytest.raises(ValueError, match="the link 'group/link', which may lead out of the file"):
            list(hdf5.datasets(file))


def test_groups_nested_too_deep_are_rejected(tmp_path: Path) -> None:
    """Groups nested deeper than Keras nests them are not searched, however many there are."""
    with h5py.File(tmp_path / "file.h5", "w") as file:
        group = file
        for _ in range(900):
            group = group.create_group("in")
        with pytest.raises(ValueError, match="nested more than 8 deep"):
            list(hdf5.datasets(file))


def test_numbers_in_another_file_are_recognized(tmp_path: Path) -> None:
    """External storage and virtual datasets are stored elsewhere, other datasets are not."""
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["inside"] = np.arange(3)
        file.create_dataset("external", (4,), "<f4", external=[("other", 0, 16)])
        layout = h5py.VirtualLayout((4,), "<f4")
        layout[:] = h5py.VirtualSource("other.h5", "numbers", (4,))
        file.create_virtual_dataset("virtual", layout)
        elsewhere = {name: hdf5.is_stored_elsewhere(file[name]) for name in file}
    assert elsewhere == {"external": True, "inside": False, "virtual": True}
