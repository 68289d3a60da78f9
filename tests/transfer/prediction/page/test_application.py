import base64
import io
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import jsonschema
import pytest
from PIL import Image

from tests import networks
from transfer.prediction import command
from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.page import api
from transfer.prediction.page.waiting import Queue, Row


class Held:
    """Computes an empty row for each photograph when it is released."""

    def __init__(self) -> None:
        self.begun, self.released = Event(), Event()
        self.computed = 0
        self.fault = False

    def __call__(self, photographs: Sequence[InputPhotograph], _: Any) -> list[Row]:
        """Compute a batch."""
        self.begun.set()
        self.released.wait()
        if self.fault:
            raise RuntimeError("a fault")
        self.computed += len(photographs)
        return [{}] * len(photographs)


@pytest.fixture
def held() -> Held:
    """A computation that waits until it is released."""
    return Held()


@pytest.fixture
def held_page(served: Any, serve: Callable[..., Any], held: Held) -> Iterator[Any]:
    """A page whose predictions wait; its queue has one thread, batches of one and two places."""
    queue = Queue(held, batch=1, threads=1, most=2)
    queue.start()
    with serve(served._replace(queue=queue)) as page:
        yield page


def test_predictions_are_those_of_the_command(
    page: Any,
    red_and_blue: tuple[tuple[str, bytes], ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row has the fields of `--format json`, with the same numbers, and the model's name."""
    model = networks.write_by_colour(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for name, content in red_and_blue:
        Path(name).write_bytes(content)
    names = [name for name, _ in red_and_blue]
    command.main(["--model", str(model), "--format", "json", *names])
    expected = json.loads(capsys.readouterr().out)
    rows = page.predict(*red_and_blue).json()
    assert [row.pop("model") for row in rows] == [page.served.current.model.name] * 2
    assert rows == expected


def test_heat_maps_are_pictures_of_the_photographs(page: Any, paint: Callable[..., bytes]) -> None:
    """With `heat_maps=true` each row has a JPEG with the photograph's proportions."""
    [row] = page.predict(("a.jpg", paint("red", edge=50)), params={"heat_maps": "true"}).json()
    kind, _, content = row["heat_map"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (50, 50)


def test_an_unreadable_photograph_has_its_reason(page: Any, paint: Callable[..., bytes]) -> None:
    """Empty, cut and foreign files get the reasons that the command gives; the others are predicted."""
    files = [("a", b""), ("b", paint("red", edge=300)[:900]), ("c", b"%PDF-1.4"), ("d", paint("red"))]
    for heat_maps in ("true", "false"):
        rows = page.predict(*files, params={"heat_maps": heat_maps}).json()
        reasons = [row.get("error", "") for row in rows]
        assert reasons[0] == "empty file"
        assert reasons[1].startswith("cut short or damaged")
        assert reasons[2].startswith("not one of JPEG, PNG")
        assert rows[3]["class"] == "dog"


def test_responses_are_as_openapi_describes_them(page: Any, red_and_blue: tuple[tuple[str, bytes], ...]) -> None:
    """OpenAPI has every address for programs, and real rows are valid by its schema."""
    description = page.get("/openapi.json").json()
    assert set(description["paths"]) == {"/predict", "/model", "/health", "/ready"}
    operation = description["paths"]["/predict"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    rows = page.predict(*red_and_blue, ("c", b""), params={"heat_maps": "true"}).json()
    jsonschema.validate(rows, schema)
    assert {*rows[0], *rows[2]} == {*api.PREDICTION["properties"], *api.UNREADABLE["properties"]}


def test_the_documentation_loads_nothing_from_elsewhere(page: Any) -> None:
    """`/docs` describes each address, and refers to this server alone."""
    text = page.get("/docs").text
    for path in ("POST /predict", "GET /model", "GET /health", "GET /ready"):
        assert path in text
    assert {*re.findall(r"https?://[^/<\"]+", text)} == {page.address}


def test_the_model_is_described(page: Any) -> None:
    """`/model` names the network, its classes and its scores; `/health` and `/ready` answer."""
    described = page.get("/model").json()
    assert described["classes"] == ["cat", "dog"]
    assert described["scores"] == {"val_accuracy": 0.985, "val_loss": 0.042}
    assert page.get("/health").json() == {"status": "alive"}
    assert page.get("/ready").json() == {"ready": True, "model": described["name"], "problem": None}


def test_only_files_of_the_page_are_sent(page: Any) -> None:
    """No path leads out of the folder of the page's files."""
    assert page.get("/static/page.js").headers["Content-Type"].startswith("text/javascript")
    for path in ("/static/..%2Fapi.py", "/static/../api.py", "/static/%2Fetc%2Fpasswd", "/static/"):
        assert page.get(path).status_code == 404


@pytest.mark.reliability("network", "more photographs than the page can compute", "429 with the seconds to wait")
def test_a_busy_page_asks_to_come_again(
    held_page: Any, held: Held, until: Callable[..., None], paint: Callable[..., bytes]
) -> None:
    """When all places are taken, a request gets 429 with Retry-After, and an answer once places are free."""
    photograph = ("a.jpg", paint("red"))
    queue = held_page.served.queue
    waiting = [*queue.put([InputPhotograph("a", bytes)], heat_maps=False)]
    assert held.begun.wait(300)
    waiting += queue.put([InputPhotograph("b", bytes)] * 2, heat_maps=False)
    answer = held_page.predict(photograph)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    held.released.set()
    until(lambda: all(row.done() for row in waiting))
    assert held_page.predict(photograph).ok


def test_photographs_of_a_client_that_has_ended_are_not_computed(
    held_page: Any, held: Held, until: Callable[..., None], paint: Callable[..., bytes]
) -> None:
    """When a client ends its connection, its waiting photographs leave the queue."""
    queue = held_page.served.queue
    queue.put([InputPhotograph("a", bytes)], heat_maps=False)
    assert held.begun.wait(300)
    body = b'--b\r\nContent-Disposition: form-data; name="p"; filename="a"\r\n\r\n' + paint("red") + b"\r\n--b--\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{held_page.port}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", held_page.port), timeout=300) as client:
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body)
        until(lambda: len(queue._waiting) == 1)
    row = queue._waiting[0].row
    until(row.cancelled)
    held.released.set()
    assert held_page.predict(("a.jpg", paint("red"))).ok
    assert held.computed == 2


def test_a_fault_of_the_program_is_no_end(held_page: Any, held: Held, paint: Callable[..., bytes]) -> None:
    """A fault while photographs are computed is answered with 500, and `/ready` with 503 until a batch succeeds."""
    held.released.set()
    held.fault = True
    answer = held_page.predict(("a.jpg", paint("red")))
    assert answer.status_code == 500
    assert "could not be computed" in answer.json()["detail"]
    assert held_page.get("/ready").status_code == 503
    held.fault = False
    assert held_page.predict(("a.jpg", paint("red"))).ok
    assert held_page.get("/ready").status_code == 200
