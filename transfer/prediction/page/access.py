"""Access: refuse requests of other origins and under other host names, and send the headers that protect the page.

A page of another origin may send photographs to any address without asking. A foreign name that resolves to this
machine (DNS rebinding) would make its pages the same origin as this one; such requests have that name as their host.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
_HTTP_PORT = 80  # which browsers leave out
_OWN_FETCHES = ("same-origin", "none")  # `none`: typed by the user
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Access:
    """ASGI middleware that answers 403 to requests that this module refuses.

    Args:
        app: the application.
        port: at which the server listens.
    """

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self._app = app
        self._hosts = tuple(f"{name}:{port}" for name in NAMES) + (NAMES if port == _HTTP_PORT else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif refusal := reason_to_refuse(Headers(scope=scope), self._hosts):
            await JSONResponse({"detail": refusal}, 403)(scope, receive, send_protected)
        else:
            await self._app(scope, receive, send_protected)


def reason_to_refuse(headers: Headers, hosts: tuple[str, ...]) -> str:
    """Return why a request is refused; an empty text if it is not.

    Args:
        headers: of the request.
        hosts: the names of the server, with its port.
    """
    host, origin = headers.get("host", "").lower(), headers.get("origin")
    allowed = " or ".join(hosts)
    if host not in hosts:
        return f"The host of a request must be {allowed}. Received: {_shown(host)}. Open http://{hosts[0]}/."
    if origin is not None and origin.lower() != f"http://{host}":
        return f"The origin of a request must be http://{host}. Received: {_shown(origin)}. Use the page itself."
    if headers.get("sec-fetch-site", "none") not in _OWN_FETCHES:
        return f"Pages of other sites must not lead here. Type the address instead: http://{host}/."
    return ""


def _shown(value: str) -> str:
    return "".join(filter(str.isprintable, value))[:100] or "none"
