"""Extraction on a Dask cluster: this machine sends photographs to workers, checks their rows and keeps them."""

import asyncio
import importlib.util
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from transfer.features import cluster_job, extraction
from transfer.features.cluster_job import Job, make_batches, reason
from transfer.features.views import Shot
from transfer.runtime.errors import ParamsError

log = logging.getLogger(__name__)

VARIABLE = "DASK_SCHEDULER_ADDRESS"
_LOGGERS = ("distributed", "distributed.client")  # what matters of their messages is said here in a line


def scheduler_address() -> str | None:
    """Return the address of the scheduler that Dask's configuration names; None if it names none.

    Raises:
        ParamsError: the environment names one, and Dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        if address := os.environ.get(VARIABLE):
            raise ParamsError(
                f"Extraction on a cluster needs the package `distributed`. Received: {VARIABLE}={address} without it. "
                f"Run `make install`, or `unset {VARIABLE}` to compute on this machine."
            )
        return None
    import dask  # noqa: PLC0415 - it is optional

    address = dask.config.get("scheduler-address", None)
    return str(address) if address else None


def extract(shots: Sequence[Shot], *, address: str, job: Job) -> None:
    """Compute and store the rows of views on the workers of a Dask scheduler, and here if there are none.

    Args:
        shots: the views; those of one photograph are neighbours.
        address: the scheduler's, such as `tcp://127.0.0.1:8786`.
        job: what the rows follow from.

    Raises:
        ParamsError: the address, or Dask's configuration of TLS, is not valid.
        Exception: those of `job.compute` and `job.put`.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(_extract(shots, address, job))


async def _extract(shots: Sequence[Shot], address: str, job: Job) -> None:
    """Compute the known photograph here, then the others on workers."""
    from transfer.features.cluster_session import Session  # noqa: PLC0415 - it needs `distributed`, which is optional

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # Dask leaves some of its own behind
    known = [shot for shot in shots[: extraction.BATCH] if shot.photograph == shots[0].photograph]
    start = time.monotonic()
    rows = await asyncio.to_thread(job.compute, known)
    seconds = time.monotonic() - start
    others = make_batches(shots[len(known) :], folder=job.inputs.folder)
    client = await _connect(address) if others else None
    session = Session(job, client, known=known, expected=rows, seconds=seconds)
    try:
        await session.run(others)
    finally:
        if client:
            await client.close()


async def _connect(address: str) -> Any:
    """Return a client of the scheduler; None, with a line in the log, if it does not answer."""
    import dask  # noqa: PLC0415 - it is optional
    import distributed  # noqa: PLC0415 - it is optional

    _check_address(address)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})  # photographs are large
    try:
        return await distributed.Client(
            address, asynchronous=True, set_as_default=False, timeout=cluster_job.TIMEOUTS.connection
        )
    except OSError as error:
        log.warning("The scheduler %s does not answer (%s); this machine computes alone.", address, reason(error))
        return None


def _check_address(address: str) -> None:
    import distributed  # noqa: PLC0415 - it is optional

    try:
        distributed.comm.get_address_host(address)
        tls = distributed.Security().get_connection_args("client")["ssl_context"]
        received = "no certificates" if address.startswith("tls") and tls is None else ""
    except (RuntimeError, TypeError, ValueError) as error:
        received = reason(error)
    if received:
        raise ParamsError(
            "Dask's configuration must name a scheduler such as tcp://127.0.0.1:8786, and certificates for tls://. "
            f"Received: {address}; {received}. Correct {VARIABLE} or Dask's configuration, then run again."
        )
