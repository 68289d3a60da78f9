"""HTTP errors: what an error status, or an error of requests or urllib3, means for a download."""

import re
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests import codes
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, ProxyError, TooManyRedirects
from urllib3.exceptions import LocationParseError

from transfer.runtime.errors import AccessError, DataError

_TRANSIENT = frozenset({codes.request_timeout, codes.too_early, codes.too_many_requests})  # and all from 500 on
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (403|407)")  # http.client has the status in the message only
_CERTIFICATE = re.compile("CERTIFICATE_VERIFY_FAILED|TLS CA certificate bundle")  # the second is of requests


class TransientError(Exception):
    """An attempt failed, and a later one may succeed; the text is the reason."""

    def __init__(self, reason: str, *, retry_after: str | None = None) -> None:
        """Args: reason, in words; retry_after, the value of that header, if the server sent it."""
        super().__init__(reason)
        self.retry_after = retry_after


def check_status(status: int, place: str, retry_after: str | None = None) -> None:
    """Raise the exception for an HTTP status that the caller does not accept; `place` is from `redact_url`."""
    if status in _TRANSIENT or status >= codes.server_error:
        raise TransientError(f"status {status}", retry_after=retry_after)
    if status in (codes.unauthorized, codes.forbidden):
        raise AccessError(f"{place} must be readable for you. Received: status {status}. Check the address and access.")
    if status == codes.proxy_authentication_required:
        raise _proxy_error(place, status)
    raise DataError(f"{place} must be a file. Received: status {status}. Choose another source, or report this.")


def translate_error(error: Exception, place: str) -> Exception:
    """Return the exception to raise for an error of requests or urllib3, whose message may hold a token or a signature.

    An error that is not of the network is returned itself; `place` is from `redact_url`.
    """
    name = type(error).__name__
    match error:
        case ProxyError() if tunnel := _TUNNEL_STATUS.search(str(error)):
            return _proxy_error(place, int(tunnel[1]))
        case TooManyRedirects() | InvalidURL() | InvalidSchema() | MissingSchema() | LocationParseError():
            return DataError(
                f"{place}, its redirects (ten at most, none from HTTPS to HTTP) and a proxy in http_proxy, https_proxy "
                f"or all_proxy must be valid HTTP URLs. Received: another ({name})."
            )
        case OSError() if _CERTIFICATE.search(str(error)):
            return DataError(
                f"{place} must have a certificate trusted here. Check the clock, sign in to the network, or set "
                "REQUESTS_CA_BUNDLE to a file with the certificates of its proxy."
            )
        case requests.RequestException() | urllib3.exceptions.HTTPError() | ConnectionError() | TimeoutError():
            peer = " to the proxy in https_proxy or http_proxy" if isinstance(error, ProxyError) else ""
            return TransientError(f"the connection{peer} failed or timed out ({name})")
    return error


def redact_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, which may be secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _proxy_error(place: str, status: int) -> AccessError:
    return AccessError(
        f"The proxy must give access to {place}. Received: status {status}. "
        "Set name and password in http_proxy and https_proxy (http://NAME:PASSWORD@HOST:PORT), or ask who runs it."
    )
