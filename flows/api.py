"""API: Prefect's server, which refuses requests that a page of another origin sends from a browser.

A page of any site may send some requests to 127.0.0.1, and a site whose name resolves to 127.0.0.1 (DNS rebinding) may
also read the responses. The first has a foreign `Origin`, the second a foreign `Host`.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "::1")


def create() -> App:
    """Return Prefect's server with its pages and services, for requests from this machine; Uvicorn's factory."""
    from prefect.server.api.server import create_app  # noqa: PLC0415 - only the server's process needs it

    for name in ("httpx", "httpcore"):  # they log the addresses of webhooks, which are secrets
        logging.getLogger(name).setLevel(logging.WARNING)
    return only_own_pages(create_app(final=True), PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(","))


def only_own_pages(app: App, origins: list[str]) -> App:
    """Return an ASGI application that refuses requests by a foreign host name and from pages of other origins.

    Args:
        app: the application that answers all other requests.
        origins: the origins that are allowed besides that of the request's own address.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        status, reason = refusal(dict(scope["headers"]), origins) if "headers" in scope else (0, "")
        if not status:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # Uvicorn sends status 403
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(reason))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    return checked


def refusal(headers: dict[bytes, bytes], origins: list[str]) -> tuple[int, str]:
    """Return the status and the reason for which a request is refused; 0 if it is not.

    Args:
        headers: the headers of the request, with names in lower case.
        origins: the origins that are allowed besides that of the request's own address.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_loopback(host):
        return 400, "The host of the address must be 127.0.0.1 or localhost."
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and origin not in (f"http://{host}", *origins):
        return 403, "Requests from pages of other origins are refused."
    return 0, ""


def _is_loopback(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in HOSTS
    except ValueError:
        return False
