"""Command: load a network and serve the page on the loopback interface until Ctrl-C."""

import argparse
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

from transfer.prediction import model_file, versions
from transfer.runtime import signals, stage
from transfer.runtime.errors import AccessError, LockedError

if TYPE_CHECKING:  # importing TensorFlow takes seconds: errors in the arguments are reported before
    from transfer.prediction.page.application import Served

HOST = "127.0.0.1"
PORT = 8484
MOST_WAITING = 64  # photographs: half a minute's work of two cores at 224 pixels
_MOST_CONNECTIONS = 256
_MAX_PORT = 65535


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page that the command line asks for.

    Raises:
        DataError: there is no network yet, or it cannot be used.
        LockedError: another program uses the port.
        AccessError: the port is closed to this user.
    """
    arguments = _parser().parse_args(argv)
    _exit_on_signals()
    with listening(arguments.port) as listener:
        model_file.check(versions.select(versions.project(), arguments.model).file)
        print("Loading the network ...", flush=True)
        served = load(arguments.model)
        port = listener.getsockname()[1]
        print(f"Model: {served.current.model.name}.", flush=True)
        print(f"The page is at http://{HOST}:{port}/. Ctrl-C ends it.", flush=True)
        threading.Thread(target=served.current.follow, name="follow", daemon=True).start()
        server(served, port=port).run(sockets=[listener])


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens at a port of the loopback interface; 0 for any free one.

    Raises:
        LockedError: another program uses the port.
        AccessError: the port is closed to this user.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()  # so that no other server gets the port, and early requests wait
        except OSError as error:
            kind = LockedError if error.errno == errno.EADDRINUSE else AccessError
            raise kind(
                f"The port {port} of {HOST} must be free to use. Received: {error.strerror}. End the other program, or "
                f"choose another port: `dogs-vs-cats page --port {port % 60000 + 1000}`."
            ) from None
        yield listener


def load(name: str | None) -> "Served":
    """Load the network and start the threads that predict."""
    with stage.packages_required():
        from transfer.features import extraction  # noqa: PLC0415 - importing TensorFlow takes seconds
        from transfer.prediction.model import BATCH  # noqa: PLC0415 - likewise
        from transfer.prediction.page import application, current, uploads, waiting  # noqa: PLC0415 - likewise

    with suppress(RuntimeError):  # if this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    used = current.Current(versions.project(), name)
    queue = waiting.Queue(
        lambda photographs, heat_maps: application.rows(used.model, photographs, heat_maps=heat_maps),
        batch=BATCH,
        threads=extraction.core_count(),
        most=MOST_WAITING,
    )
    queue.start()
    return application.Served(used, queue, uploads.Uploads(uploads.Limits()))


def server(served: "Served", *, port: int) -> uvicorn.Server:
    """Return a server, which serves requests when its `run` is called with a socket.

    Args:
        served: what the addresses work with.
        port: of the socket.
    """
    from transfer.prediction.page import application  # noqa: PLC0415 - TensorFlow, see above

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings are the reasons of refusals
    configuration = uvicorn.Config(
        application.build(served, port=port),
        lifespan="off",
        ws="none",
        http="h11",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    return _Server(configuration)


class _Server(uvicorn.Server):
    """A server that leaves the process's signal handlers as they are."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _exit_on_signals() -> None:
    """Exit at once on SIGINT, SIGTERM and SIGHUP, as nothing is to be kept: the usual end of this command."""
    for number in signals.handled_signals():
        signal.signal(number, lambda *_: os._exit(0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transfer.prediction.page", description="Serve a page that predicts photographs, until Ctrl-C."
    )
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"of the loopback interface; 0 for any free one (default {PORT})"
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="a network with its model.json in the same folder, or a version such as v2.0.0; by default the version in "
        "production, or the newest network if none is",
    )
    return parser


def _port(argument: str) -> int:
    if not (argument.isascii() and argument.isdigit() and int(argument) <= _MAX_PORT):
        raise argparse.ArgumentTypeError(f"it must be a number from 0 to {_MAX_PORT}. Received: {argument}")
    return int(argument)
