"""HTTP errors: what an error status, or an error of requests or urllib3, means for a download."""

import re
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests import codes

from transfer.runtime.errors import AccessError, DataError

_TRANSIENT = frozenset({codes.request_timeout, codes.too_early, codes.too_many_requests})  # and all from 500 on
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (403|407)")  # http.client has the status in the message only
_INVALID_URL = (  # of a file or, through InvalidProxyURL, of a proxy
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationParseError,
)
_CERTIFICATE = re.compile("CERTIFICATE_VERIFY_FAILED|TLS CA certificate bundle")  # the second is of requests


class TransientError(Exception):
    """An attempt failed, and a later one may succeed; the text is the reason."""

    def __init__(self, reason: str, *, retry_after: str | None = None) -> None:
        """Args: reason, in words; retry_after, the value of that header, if the server sent it."""
        super().__init__(reason)
        self.retry_after = retry_after


def check_status(status: int, place: str, retry_after: str | None = None) -> None:
    """Map an HTTP error status to an exception.

    Args:
        status: a status that the caller does not accept.
        place: the URL, from `redact_url`.
        retry_after: the value of that header, if the server sent it.

    Raises:
        TransientError: 408, 425, 429, or 500 and above.
        AccessError: 401, 403 or 407.
        DataError: any other status.
    """
    if status in _TRANSIENT or status >= codes.server_error:
        raise TransientError(f"status {status}", retry_after=retry_after)
    if status in (codes.unauthorized, codes.forbidden):
        raise AccessError(f"{place} must be readable for you. Received: status {status}. Check the address and access.")
    if status == codes.proxy_authentication_required:
        raise _proxy_error(place, status)
    raise DataError(f"{place} must be a file. Received: status {status}. Choose another source, or report this.")


def translate_error(error: Exception, place: str) -> Exception:
    """Map an error of requests or urllib3 to one that can be shown; their messages may hold a token or a signature.

    Args:
        error: any exception.
        place: the URL, from `redact_url`.

    Returns:
        A `TransientError`, `AccessError` or `DataError`; `error` itself if it is not of the network.
    """
    match error:
        case requests.exceptions.ProxyError() if tunnel := _TUNNEL_STATUS.search(str(error)):
            return _proxy_error(place, int(tunnel[1]))
        case requests.exceptions.ProxyError():
            return TransientError("the proxy that https_proxy or http_proxy names failed")
        case OSError() | urllib3.exceptions.HTTPError() if message := _permanent(error, place):
            return DataError(message)
        case requests.Timeout() | urllib3.exceptions.TimeoutError():
            return TransientError(f"timed out ({type(error).__name__})")
        case requests.RequestException() | urllib3.exceptions.HTTPError() | ConnectionError() | TimeoutError():
            return TransientError(f"the connection failed ({type(error).__name__})")
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


def _permanent(error: Exception, place: str) -> str:
    """Return the message for an error that a retry does not change, or an empty text."""
    if isinstance(error, requests.TooManyRedirects):
        return f"{place} must lead to a file. Received: too many redirects. Choose another source, or report this."
    if _CERTIFICATE.search(str(error)):
        return (
            f"{place} must have a certificate that is trusted here. Received: another, or REQUESTS_CA_BUNDLE names no "
            "file. Check the clock, sign in to the network, or set REQUESTS_CA_BUNDLE to a file with the certificates "
            "of its proxy."
        )
    if isinstance(error, _INVALID_URL):
        return (
            "The address of a file, and of a proxy in http_proxy, https_proxy or all_proxy, must be a valid HTTP URL. "
            f"Received: another, for {place}."
        )
    return ""
