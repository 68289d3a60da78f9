import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from flows import ownership, worker


@pytest.fixture
def clones(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Two folders, and a work pool of this test on the server."""
    assert prefect_server
    monkeypatch.setattr(worker, "POOL", f"pool-{os.getpid()}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=worker.POOL, type="process"))
        yield tmp_path / "a", tmp_path / "b"
        client.delete_work_pool(worker.POOL)


def test_one_clone_at_a_time_has_the_pool(clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone is refused while another has the pool, and the message names that one; afterwards it is not."""
    first, second = clones
    monkeypatch.chdir(first)
    with ownership.owned():
        ownership.check()  # the same clone again
        monkeypatch.chdir(second)
        with pytest.raises(ownership.OwnedError, match=f"{first} .*PREFECT_SERVER_API_PORT.*`make worker`"):
            ownership.check()
        monkeypatch.chdir(first)
    monkeypatch.chdir(second)
    with ownership.owned():
        pass


def test_without_a_pool_nothing_is_owned(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server without the pool, as a new one, no clone is refused."""
    assert prefect_server
    monkeypatch.setattr(worker, "POOL", f"none-{os.getpid()}")
    ownership.check()
