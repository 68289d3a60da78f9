import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from transfer.prediction.page.uploads import Limits, Uploads

SMALL = Limits(photographs=3, photograph_bytes=100_000, request_bytes=250_000, held_bytes=250_000, seconds=60)
BOUNDARY = "photographs"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def small(served: Any) -> Any:
    """What a page with small limits works with."""
    return served._replace(uploads=Uploads(SMALL))


@pytest.fixture
def limited(small: Any, serve: Callable[..., Any]) -> Iterator[Any]:
    """A page with small limits, which must hold nothing after each test."""
    with serve(small) as page:
        yield page
    assert small.uploads._held == 0


def part(content: bytes, name: str = "a.jpg") -> bytes:
    """Return a file in a form."""
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photographs"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
    )


def post(page: Any, body: Any, headers: dict[str, str] = FORM) -> requests.Response:
    """Send the body of a form."""
    return requests.post(f"{page.address}/predict", data=body, headers=headers, timeout=300)


def refused(answer: requests.Response, status: int) -> str:
    """Return the sentence of a refusal with a status."""
    assert answer.status_code == status, answer.text
    sentence: str = answer.json()["detail"]
    return sentence


def test_photographs_are_read_in_their_order(page: Any, red_and_blue: tuple[tuple[str, bytes], ...]) -> None:
    """Each photograph has its name, in any script, and its place in the request."""
    rows = page.predict(*red_and_blue, *reversed(red_and_blue)).json()
    names = [name for name, _ in red_and_blue]
    assert [(row["file"], row["class"]) for row in rows] == [
        *zip(names, ("dog", "cat"), strict=True),
        *zip(reversed(names), ("cat", "dog"), strict=True),
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_form_may_arrive_in_any_pieces(limited: Any, paint: Callable[..., bytes], size: int) -> None:
    """The photographs do not depend on how the network cuts the form."""
    body = part(paint("red")) + part(paint("blue"), "b.jpg") + f"--{BOUNDARY}--\r\n".encode()
    rows = post(limited, (body[start : start + size] for start in range(0, len(body), size))).json()
    assert [(row["file"], row["class"]) for row in rows] == [("a.jpg", "dog"), ("b.jpg", "cat")]


def test_no_upload_is_written_to_a_disk(
    page: Any, paint: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph of several megabytes is predicted where temporary files cannot be made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    large = paint("red", edge=1200, form="BMP")
    assert len(large) > 4_000_000
    assert page.predict(("a.bmp", large)).json()[0]["class"] == "dog"


@pytest.mark.reliability(
    "photographs", "an upload larger than a photograph may be", "its row says so, others are predicted"
)
def test_a_photograph_that_is_too_large_is_not_kept(limited: Any, paint: Callable[..., bytes]) -> None:
    """Such a photograph gets its reason; the others of the request are predicted."""
    rows = limited.predict(("large.jpg", b"a" * 100_001), ("a.jpg", paint("red"))).json()
    assert rows[0] == {"file": "large.jpg", "error": "larger than 1 MiB"}
    assert rows[1]["class"] == "dog"


@pytest.mark.reliability("network", "an upload without end", "413 as soon as the limit is reached")
def test_a_request_without_end_is_refused_while_it_is_read(limited: Any) -> None:
    """A body of unknown length is refused at the limit; one of a known length before it is sent."""
    with socket.create_connection(("127.0.0.1", limited.port), timeout=300) as client:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{limited.port}\r\nTransfer-Encoding: chunked\r\n"
        client.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode())
        client.settimeout(0.001)
        answer, chunk = b"", part(b"") + b"a" * 10_000
        while not answer:
            client.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            try:
                answer = client.recv(1000)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 413 ")
    declared = post(limited, iter([]), {**FORM, "Content-Length": "250001"})
    assert refused(declared, 413) == "A request may have 1 MiB. Send fewer photographs in each."


def test_a_request_has_a_number_of_photographs(limited: Any) -> None:
    """One photograph more than allowed refuses the request."""
    assert "may have 3 photographs" in refused(limited.predict(*[("a.jpg", b"")] * 4), 413)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (part(b"a"), "The form is cut short."),
        (b"", "The form is cut short."),
        (b"nonsense", "The form is damaged: "),
        (f"--{BOUNDARY}--\r\n".encode(), "A request must have photographs"),
        (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="x"\r\n\r\na\r\n'.encode(), "Received: the field `x`."),
        (f"--{BOUNDARY}\r\n\r\na\r\n".encode(), "Received: the field ``."),
        (part(b"a", name="a" * 10_000), "The form is damaged: "),
    ],
)
def test_a_damaged_form_is_refused(limited: Any, body: bytes, sentence: str) -> None:
    """What is no complete form of files is refused with what was expected."""
    assert sentence in refused(post(limited, body), 400)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "", "multipart/form-data; boundary="])
def test_other_types_are_refused(limited: Any, kind: str) -> None:
    """A request that is no form is refused with an example, before its body is read."""
    assert "curl -F photographs=@cat.jpg" in refused(post(limited, b"{}", {"Content-Type": kind}), 415)


@pytest.mark.reliability("network", "an upload that stops", "408 after a time limit; the others are served meanwhile")
def test_a_request_that_does_not_arrive_is_ended(
    small: Any, serve: Callable[..., Any], paint: Callable[..., bytes]
) -> None:
    """A request has a time to arrive; others are answered meanwhile."""
    hasty = Uploads(SMALL._replace(seconds=2))
    with (
        serve(small._replace(uploads=hasty)) as page,
        socket.create_connection(("127.0.0.1", page.port), timeout=300) as client,
    ):
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Length: 1000\r\n"
        client.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + part(b"a"))
        assert page.predict(("a.jpg", paint("red"))).ok
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert hasty._held == 0


def test_all_requests_together_have_a_limit(small: Any, limited: Any, paint: Callable[..., bytes]) -> None:
    """While others hold all the bytes, a request is asked to come again."""
    small.uploads._held += SMALL.held_bytes
    try:
        answer = limited.predict(("a.jpg", paint("red")))
    finally:
        small.uploads._held -= SMALL.held_bytes
    assert "Try again" in refused(answer, 429)
    assert answer.headers["Retry-After"] == "1"
    assert limited.predict(("a.jpg", paint("red"))).ok
