"""Stand-in servers on loopback that speak what the real ones speak: a file server, Kaggle, and S3."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer

TOKEN = "a-token-nobody-may-see"  # noqa: S105 - opens nothing
SIGNATURE = "a-signature-nobody-may-see"


class Request(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


class Fault(NamedTuple):
    """How one answer differs from the right one."""

    status: int = 0
    headers: dict[str, str] = {}  # noqa: RUF012 - nothing changes it
    body: bytes = b""
    cut_after: int | None = None  # bytes of the body, then the connection ends
    stall_after: int | None = None  # bytes of the body, then silence


class StandIn:
    """A file server with range requests; answers are right unless `faults` says otherwise.

    `faults` are used up one an answer to a GET, `api_faults` one an answer of Kaggle's own interface.
    """

    def __init__(self, body: bytes) -> None:
        """Args: body, the bytes of the one file it has at any address."""
        self.body = body
        self.etag: str | None = '"one"'
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.api_faults: list[Fault] = []
        self.released = threading.Event()
        self.address = ""

    @property
    def gets(self) -> list[Request]:
        """The requests for the file."""
        return [request for request in self.requests if request.method == "GET"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that leads Kaggle's client, and any other, here."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_API_TOKEN": TOKEN,
            "http_proxy": self.address,
            "https_proxy": self.address,
            "no_proxy": "",
        }


@contextmanager
def serve(body: bytes) -> Iterator[StandIn]:
    """Run a stand-in at a free port while the block runs."""
    stand_in = StandIn(body)
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    stand_in.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Bucket:
    """An S3 server with one bucket, `bucket`."""

    def __init__(self, address: str) -> None:
        """Args: address, the server's."""
        self.environment = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": TOKEN,
            "no_proxy": "127.0.0.1",
        }
        self._bucket = boto3.resource(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="anybody",
            aws_secret_access_key=TOKEN,
        ).Bucket("bucket")
        self._bucket.create()

    def objects(self, prefix: str) -> dict[str, object]:
        """When each object under a prefix was written, by its key without the prefix."""
        return {
            each.key.removeprefix(prefix): each.last_modified for each in self._bucket.objects.filter(Prefix=prefix)
        }


@contextmanager
def serve_s3() -> Iterator[Bucket]:
    """Run an S3 server at a free port while the block runs."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line a request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Bucket(f"http://{host}:{port}")
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self) -> None:
        self._record()
        fault = self.stand_in.faults.pop(0) if self.stand_in.faults else Fault()
        if fault.status:
            self._answer(fault.status, fault.headers, fault.body)
            return
        body, start = self.stand_in.body, self._start()
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/zip"} | fault.headers
        if self.stand_in.etag:
            headers["ETag"] = self.stand_in.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._answer(206 if start else 200, headers, body[start:], fault)

    def do_POST(self) -> None:
        self._record()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        method = urlsplit(self.path).path.removeprefix("/api/v1/")
        if method == "security.OAuthService/IntrospectToken":
            self._json(200, {"active": True, "username": "somebody"})
        elif method == "competitions.CompetitionApiService/DownloadDataFiles":
            fault = self.stand_in.api_faults.pop(0) if self.stand_in.api_faults else Fault()
            if fault.stall_after is not None:
                self.stand_in.released.wait()
            elif fault.status:
                self._json(fault.status, {"code": fault.status, "message": "no"}, fault.headers)
            else:
                self._answer(302, {"Location": f"http://blobs.test/archive.zip?Signature={SIGNATURE}"}, b"")
        else:
            self._json(404, {"code": 404, "message": method})

    def do_CONNECT(self) -> None:
        self._answer(403, {}, b"")  # nothing leaves the machine

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _record(self) -> None:
        self.stand_in.requests.append(Request(self.command, self.path, dict(self.headers)))

    def _start(self) -> int:
        condition = self.headers.get("If-Range")
        if "Range" not in self.headers or (condition and condition != self.stand_in.etag):
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(status, {"Content-Type": "application/json"} | (headers or {}), json.dumps(value).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        stop = fault.cut_after if fault.cut_after is not None else fault.stall_after
        with suppress(ConnectionError):  # Kaggle's client leaves after the headers
            self.wfile.write(body[:stop])
            self.wfile.flush()
        if fault.stall_after is not None:
            self.stand_in.released.wait()
