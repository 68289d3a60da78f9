import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests import networks
from transfer.prediction.page import command
from transfer.prediction.page.application import Served

SECONDS = 300


class Page:
    """A page that is served on a free port of this machine."""

    def __init__(self, served: Served, port: int) -> None:
        self.served = served
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **options: Any) -> requests.Response:
        """Send a GET request."""
        return requests.get(f"{self.address}{path}", timeout=SECONDS, **options)

    def predict(self, *photographs: tuple[str, bytes], **options: Any) -> requests.Response:
        """Send photographs, each with its name."""
        files = [("photographs", photograph) for photograph in photographs]
        return requests.post(f"{self.address}/predict", files=files, timeout=SECONDS, **options)


def picture(colour: str, *, edge: int = 40, form: str = "JPEG") -> bytes:
    """Return a photograph of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (edge, edge), colour).save(file, form)
    return file.getvalue()


@contextmanager
def serving(served: Served) -> Iterator[Page]:
    """Serve a page while the block runs."""
    with command.listening(0) as listener:
        port = listener.getsockname()[1]
        server = command.server(served, port=port)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Page(served, port)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def red_and_blue() -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Two photographs with their names, which `networks.write_by_colour` takes for a dog and a cat."""
    return ("a red one.jpg", picture("red")), ("ünë blue.png", picture("blue", form="PNG"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """What a page works with: a small network that tells red from blue, and the usual limits."""
    return command.load(str(networks.write_by_colour(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def serve() -> Callable[[Served], AbstractContextManager[Page]]:
    """A function that serves a page while a block runs."""
    return serving


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Page]:
    """A page with the usual limits."""
    with serving(served) as running:
        yield running


@pytest.fixture
def paint() -> Callable[..., bytes]:
    """A function that returns a photograph of one colour."""
    return picture


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """A function that waits until a condition holds."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with a network of its own."""
    networks.write_by_colour(tmp_path / "model")
    return tmp_path / "model"
