from typing import Any

import pytest
from starlette.datastructures import Headers

from transfer.prediction.page import access

HOST = "127.0.0.1:8484"


def refusal(**headers: str) -> str:
    """Return why a request with these headers is refused by a server at port 8484."""
    return access.reason_to_refuse(
        Headers({name.replace("_", "-"): value for name, value in headers.items()}), (HOST, "localhost:8484")
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"host": HOST},
        {"host": "LocalHost:8484"},
        {"host": HOST, "origin": f"http://{HOST}", "sec_fetch_site": "same-origin"},
        {"host": HOST, "sec_fetch_site": "none"},
    ],
)
def test_requests_of_the_page_itself_are_answered(headers: dict[str, str]) -> None:
    """The page, a typed address and a program without the headers of a browser have access."""
    assert refusal(**headers) == ""


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:8484", "127.0.0.1", "127.0.0.1:8485", "127.0.0.1.nip.io:8484", ""]
)
def test_other_host_names_are_refused(host: str) -> None:
    """A name that somebody else lets resolve to this machine is refused, also with the right port."""
    assert refusal(host=host).startswith(f"The host of a request must be {HOST} or localhost:8484. Received: ")


@pytest.mark.parametrize(
    "origin", ["http://example.org", "null", f"https://{HOST}", "http://localhost:8484", "http://127.0.0.1:80"]
)
def test_other_origins_are_refused(origin: str) -> None:
    """A page of another origin is refused: another site, a file, another port."""
    assert refusal(host=HOST, origin=origin).startswith(f"The origin of a request must be http://{HOST}. Received: ")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_links_and_pictures_of_other_sites_are_refused(site: str) -> None:
    """Requests for which a browser sends no origin are refused by the site that they come from."""
    assert "Type the address instead" in refusal(host=HOST, sec_fetch_site=site)


def test_no_control_character_is_echoed() -> None:
    """A refusal shows what was received without what a terminal would interpret."""
    assert "Received: a[31mb. " in refusal(host="a\x1b[31mb")


@pytest.mark.reliability(
    "network", "a request of another origin or host name", "403 with a sentence, before it is read"
)
@pytest.mark.parametrize("headers", [{"Host": "example.org"}, {"Origin": "http://example.org"}])
def test_a_refused_request_is_not_read(page: Any, headers: dict[str, str]) -> None:
    """The server answers 403 with a sentence to any method and path, with the headers that protect the page."""
    for answer in (page.get("/anything", headers=headers), page.predict(("a", b""), headers=headers)):
        assert answer.status_code == 403
        assert "Received: " in answer.json()["detail"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_may_load_nothing_from_elsewhere(page: Any) -> None:
    """The policy of every answer allows the server's own files alone, and no other page may frame it."""
    policy = page.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
