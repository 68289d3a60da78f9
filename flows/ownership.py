"""Ownership: on one Prefect server, `make serve` of one clone at a time has the work pool and the deployments.

Deployments have the same names in all clones. If a second clone used the pool, too, its worker would take runs that
were asked for in the first, with its own code, parameters and photographs.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound

from flows import worker

_PREFIX = "serve-"  # workers that `make worker` starts have other names
_HEARTBEAT = 30.0  # seconds between two heartbeats of a worker; after three of them without one it counts as gone


class OwnedError(Exception):
    """Another clone has the pool; the text is the message for the user."""


def worker_name() -> str:
    """Return the name of the worker of `make serve` in this clone; it must not have slashes."""
    return _PREFIX + hashlib.sha256(_place().encode()).hexdigest()[:12]


def check() -> None:
    """Check that no other clone has the pool, and claim it if it exists.

    Raises:
        OwnedError: `make serve` of another clone is running.
    """
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        _claim(client)


@contextmanager
def owned() -> Iterator[None]:
    """Have the pool, which must exist, for this clone during the block.

    Raises:
        OwnedError: `make serve` of another clone is running.
    """
    with get_client(sync_client=True) as client:
        _claim(client)
        client.update_work_pool(worker.POOL, WorkPoolUpdate(description=_place()))
    try:
        yield
    finally:  # the server may have ended before
        with suppress(Exception), get_client(sync_client=True) as client:
            path = {"work_pool_name": worker.POOL, "name": worker_name()}
            client.request("DELETE", "/work_pools/{work_pool_name}/workers/{name}", path_params=path)


def _claim(client: SyncPrefectClient) -> None:
    """Send the first heartbeat of this clone's worker, unless the worker of another clone is running."""
    pool = client.read_work_pool(worker.POOL)
    for other in client.read_workers_for_work_pool(worker.POOL):
        if other.name.startswith(_PREFIX) and other.name != worker_name() and other.status == WorkerStatus.ONLINE:
            owner = pool.description or "another clone"
            raise OwnedError(
                f"`make serve` runs in {owner}, or was killed there less than two minutes ago, "
                "with the same Prefect server or database. Stop it, or give this clone a server of its own: "
                "`PREFECT_SERVER_API_PORT=4300 PREFECT_HOME=~/.prefect-4300 make serve`; "
                "to take runs from that server, use `make worker`."
            )
    client.send_worker_heartbeat(worker.POOL, worker_name(), heartbeat_interval_seconds=_HEARTBEAT)


def _place() -> str:
    return f"{os.path.realpath(os.curdir)} on {platform.node()}"
