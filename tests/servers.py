"""Local servers for tests: a file server with faults, Kaggle's API, and S3."""

import datetime as dt
import ipaddress
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

TOKEN = "a-token-nobody-may-see"  # noqa: S105 - of no account
SIGNATURE = "a-signature-nobody-may-see"


class Request(NamedTuple):
    """A request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Fault(NamedTuple):
    """How one response differs from the correct one.

    Args:
        status: replaces the correct status, if it is not 0.
        headers: replace or add to the correct ones; None omits a header.
        body: the body, if `status` is given; otherwise it follows the correct body.
        chunked: send the body in chunks, without a Content-Length.
        cut_after: close the connection after so many bytes of the body.
        stall_after: send nothing more after so many bytes of the body.
        trickle: seconds between the bytes of the body.
        endless: bytes to repeat every 10 ms for ever in place of the headers, or with `chunked` after the body.
    """

    status: int = 0
    headers: dict[str, str | None] = {}  # noqa: RUF012 - never modified
    body: bytes = b""
    chunked: bool = False
    cut_after: int | None = None
    stall_after: int | None = None
    trickle: float | None = None
    endless: bytes = b""


class StandIn:
    """A file server with range requests, Kaggle's API, with faults, and below `/hook/` a webhook.

    Each response to a GET takes the next of `faults`, each response to Kaggle's sign-in the next of `sign_in_faults`,
    and each response to Kaggle's request for an archive the next of `api_faults`. The three responses of a submission,
    to its start, its upload and its end, take the next of `submission_faults`. Without a fault a response is correct.
    """

    def __init__(self, body: bytes) -> None:
        """Args: body, the file at every path."""
        self.body = body
        self.etag: str | None = '"one"'
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.sign_in_faults: list[Fault] = []
        self.api_faults: list[Fault] = []
        self.submission_faults: list[Fault] = []
        self.answer = {"message": "Successfully submitted to Dogs vs. Cats", "ref": 7}
        self.uploaded: list[bytes] = []
        self.submissions: list[dict[str, object]] = []  # the requests at their end
        self.tunnel = 403  # the status, as a proxy, for CONNECT: no request leaves the machine
        self.released = threading.Event()
        self.address = ""

    @property
    def gets(self) -> list[Request]:
        """The GET requests."""
        return [request for request in self.requests if request.method == "GET"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Kaggle's client, and any other, connects to this server."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_API_TOKEN": TOKEN,
            "http_proxy": self.address,
            "https_proxy": self.address,
            "no_proxy": "",
        }


@contextmanager
def serve(body: bytes, certificate: Path | None = None) -> Iterator[StandIn]:
    """Serve a file on a free port while the block runs; over HTTPS if a certificate is given."""
    stand_in = StandIn(body)
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    stand_in.address = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def write_certificate(path: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))


class Bucket:
    """An S3 server with one bucket, `bucket`."""

    def __init__(self, address: str) -> None:
        """Args: address, the URL of the server."""
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
        """Return the time at which each object under a prefix was written, by its key without the prefix."""
        return {
            item.key.removeprefix(prefix): item.last_modified for item in self._bucket.objects.filter(Prefix=prefix)
        }


@contextmanager
def serve_s3() -> Iterator[Bucket]:
    """Run an S3 server at a free port while the block runs."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Bucket(f"http://{host}:{port}")
    finally:
        server.stop()


_SUBMISSION = [f"competitions.CompetitionApiService/{name}" for name in ("StartSubmissionUpload", "CreateSubmission")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def do_GET(self) -> None:
        self._record()
        fault = self.stand_in.faults.pop(0) if self.stand_in.faults else Fault()
        if fault.status:
            self._answer(fault.status, fault.headers, fault.body, fault)
            return
        body, start = self.stand_in.body, self._start()
        headers: dict[str, str | None] = {"Accept-Ranges": "bytes", "Content-Type": "application/zip"}
        if self.stand_in.etag:
            headers["ETag"] = self.stand_in.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._answer(206 if start else 200, headers | fault.headers, body[start:] + fault.body, fault)

    def do_PUT(self) -> None:
        self._record()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._submission_fault()
        if fault.cut_after is not None:
            self.close_connection = True
            return
        if not fault.status:
            self.stand_in.uploaded.append(content)
        self._json(fault.status or 200, {"status": "done"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._record(content)
        method = urlsplit(self.path).path.removeprefix("/api/v1/")
        if method == "security.OAuthService/IntrospectToken":
            fault = self.stand_in.sign_in_faults.pop(0) if self.stand_in.sign_in_faults else Fault()
            if fault.status:
                self._json(fault.status, {"code": fault.status, "message": "no"}, fault.headers)
            else:
                self._json(200, {"active": True, "username": "somebody"})
        elif method == "competitions.CompetitionApiService/DownloadDataFiles":
            fault = self.stand_in.api_faults.pop(0) if self.stand_in.api_faults else Fault()
            if fault.stall_after is not None:
                self.stand_in.released.wait()
            elif fault.status:
                self._json(fault.status, {"code": fault.status, "message": "no"}, fault.headers)
            else:
                self._answer(302, {"Location": f"http://blobs.test/archive.zip?Signature={SIGNATURE}"}, b"")
        elif method.startswith("/hook/"):
            self._answer(200, {}, b"")
        elif method in _SUBMISSION:
            self._submit(method, json.loads(content))
        else:
            self._json(404, {"code": 404, "message": method})

    def _submit(self, method: str, request: dict[str, object]) -> None:
        fault = self._submission_fault()
        if fault.status:
            self._json(fault.status, {"code": fault.status, "message": fault.body.decode()}, fault.headers)
        elif method == _SUBMISSION[0]:
            self._json(200, {"token": "an-upload", "createUrl": f"http://blobs.test/upload?Signature={SIGNATURE}"})
        else:
            self.stand_in.submissions.append(request)
            self._json(200, self.stand_in.answer)

    def _submission_fault(self) -> Fault:
        return self.stand_in.submission_faults.pop(0) if self.stand_in.submission_faults else Fault()

    def do_CONNECT(self) -> None:
        self._record()
        self._answer(self.stand_in.tunnel, {}, b"")

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _record(self, body: bytes = b"") -> None:
        self.stand_in.requests.append(Request(self.command, self.path, dict(self.headers), body))

    def _start(self) -> int:
        condition = self.headers.get("If-Range")
        if "Range" not in self.headers or (condition and condition != self.stand_in.etag):
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def _json(self, status: int, value: object, headers: dict[str, str | None] | None = None) -> None:
        self._answer(status, {"Content-Type": "application/json"} | (headers or {}), json.dumps(value).encode())

    def _answer(self, status: int, headers: dict[str, str | None], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        length = {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in (length | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        if fault.endless and not fault.chunked:
            self._repeat(fault.endless)
            return
        self.end_headers()
        stop = fault.cut_after if fault.cut_after is not None else fault.stall_after
        with suppress(ConnectionError):  # Kaggle's client disconnects after the headers
            self._write(body[:stop], fault)
        if fault.stall_after is not None:
            self.stand_in.released.wait()

    def _repeat(self, content: bytes) -> None:
        with suppress(ConnectionError):
            self.flush_headers()
            while not self.stand_in.released.wait(0.01):
                self.wfile.write(content)

    def _write(self, body: bytes, fault: Fault) -> None:
        if fault.trickle is not None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.stand_in.released.wait(fault.trickle):
                    break
        elif fault.chunked:
            for start in range(0, len(body), 100_000):
                part = body[start : start + 100_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            if fault.endless:
                self.wfile.write(b"0\r\n")
                self._repeat(fault.endless)
            elif fault.cut_after is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)
        self.wfile.flush()
