"""HDF5: members that are in the file itself, found without following a link out of it."""

from collections.abc import Iterator

import h5py

_MAX_DEPTH = 8  # nested groups; weights of Keras's networks have five


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member of a group, or None if it is missing or a soft or external link."""
    link = group.get(name, getlink=True)  # `name in group` would open the file that an external link names
    return group[name] if isinstance(link, h5py.HardLink) else None


def datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    """Yield the datasets of a group and of the groups in it; a group with several names is searched once.

    Raises:
        ValueError: a member is a soft or external link, or groups are nested deeper than Keras nests them.
    """
    return _datasets(group, depth=_MAX_DEPTH, seen=set())


def is_stored_elsewhere(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset's numbers are in another file (external storage or a virtual dataset)."""
    return bool(dataset.external or dataset.is_virtual)


def _datasets(group: h5py.Group, *, depth: int, seen: set[int]) -> Iterator[h5py.Dataset]:
    for name in group:
        child = member(group, name)
        if child is None:
            raise ValueError(f"it has the link '{group.name.strip('/')}/{name}', which may lead out of the file")
        if isinstance(child, h5py.Dataset):
            yield child
        elif isinstance(child, h5py.Group) and (address := h5py.h5o.get_info(child.id).addr) not in seen:
            if not depth:
                raise ValueError(f"its groups are nested more than {_MAX_DEPTH} deep")
            seen.add(address)
            yield from _datasets(child, depth=depth - 1, seen=seen)
