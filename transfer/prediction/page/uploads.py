"""Uploads: read the photographs of a request into memory, within limits that are checked while it is read.

Nothing is written to a disk: Starlette's own reader of forms moves files above a megabyte to a temporary folder.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from transfer.images import decoding
from transfer.prediction.formats import text
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime.errors import DataError

EXAMPLE = "`curl -F photographs=@cat.jpg`"


class Limits(NamedTuple):
    """What a request may have, and all requests together.

    Attributes:
        photographs: of a request.
        photograph_bytes: of a photograph.
        request_bytes: of a request's body.
        held_bytes: of all requests that are read or answered at the same time.
        seconds: to read a request.
    """

    photographs: int = 32
    photograph_bytes: int = decoding.MAX_BYTES
    request_bytes: int = 2 * decoding.MAX_BYTES
    held_bytes: int = 4 * decoding.MAX_BYTES
    seconds: float = 60.0


class Uploads:
    """Reads the photographs of requests, and counts the bytes that all of them hold; used in one event loop.

    Args:
        limits: of requests.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._held = 0

    @asynccontextmanager
    async def photographs(self, request: Request) -> AsyncIterator[list[InputPhotograph]]:
        """Yield the photographs of a request in their order; they count as held until the block ends.

        A photograph that is too large is represented by one that cannot be read.

        Raises:
            HTTPException: the request is not a form of files, is cut short, exceeds a limit, or is one too many.
            ClientDisconnect: the client has ended.
        """
        reader = _Reader(_boundary(request), self.limits)
        _check_size(int(request.headers.get("content-length", 0)), self.limits)
        try:
            await self._read(request, reader)
            yield reader.photographs()
        finally:
            self._held -= reader.received

    async def _read(self, request: Request, reader: "_Reader") -> None:
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for chunk in request.stream():
                    self._held += len(chunk)
                    reader.write(chunk)
                    self._check_held()
        except TimeoutError:
            raise HTTPException(408, f"A request must arrive within {self.limits.seconds:g} seconds.") from None

    def _check_held(self) -> None:
        if self._held > self.limits.held_bytes:
            raise HTTPException(
                429,
                f"All requests together may hold {_mib(self.limits.held_bytes)}. Try again when others are answered.",
                {"Retry-After": "1"},
            )


class _Upload:
    """A file of a form while it is read; the bytes of one that is too large are dropped."""

    def __init__(self, limits: Limits) -> None:
        self.headers: list[tuple[bytearray, bytearray]] = []
        self.name = ""
        self._limit = limits.photograph_bytes
        self._content = bytearray()
        self._size = 0

    def add(self, data: memoryview) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._content = bytearray()
        else:
            self._content += data

    def read(self) -> bytes:
        if self._size > self._limit:
            raise DataError(f"larger than {_mib(self._limit)}")
        return bytes(self._content)

    def set_name(self) -> None:
        """Take the file's name from the headers.

        Raises:
            HTTPException: it has none, so it is a field.
        """
        headers = {bytes(name).lower(): value.decode("latin-1") for name, value in self.headers}
        _, options = parse_options_header(headers.get(b"content-disposition"))
        if b"filename" not in options:
            field = text(options.get(b"name", b"").decode(errors="surrogateescape"))[:100]
            raise HTTPException(400, f"Every part must be a file, as in {EXAMPLE}. Received: the field `{field}`.")
        self.name = text(options[b"filename"].decode(errors="surrogateescape"))


class _Reader:
    """Collects the files of a form from its bytes, as the parser calls this object back."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self.received = 0  # bytes
        self._limits = limits
        self._uploads: list[_Upload] = []
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_begin": lambda: self._uploads[-1].headers.append((bytearray(), bytearray())),
                "on_header_field": lambda data, start, end: self._uploads[-1].headers[-1][0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._uploads[-1].headers[-1][1].extend(data[start:end]),
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self._uploads[-1].add(memoryview(data)[start:end]),
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        self.received += len(chunk)
        _check_size(self.received, self._limits)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise HTTPException(400, f"The form is damaged: {error}.") from None

    def photographs(self) -> list[InputPhotograph]:
        if not self._complete:
            raise HTTPException(400, "The form is cut short. Send it again.")
        if not self._uploads:
            raise HTTPException(400, f"A request must have photographs, as in {EXAMPLE}. Received: none.")
        return [InputPhotograph(upload.name, upload.read) for upload in self._uploads]

    def _begin(self) -> None:
        if len(self._uploads) == self._limits.photographs:
            raise HTTPException(413, f"A request may have {self._limits.photographs} photographs. Send several.")
        self._uploads.append(_Upload(self._limits))

    def _end_headers(self) -> None:
        self._uploads[-1].set_name()

    def _end(self) -> None:
        self._complete = True


def _boundary(request: Request) -> bytes:
    received = request.headers.get("content-type", "")
    kind, options = parse_options_header(received)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise HTTPException(
            415, f"A request must be multipart/form-data, as in {EXAMPLE}. Received: {received[:100] or 'no type'}."
        )
    return options[b"boundary"]


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.request_bytes:
        raise HTTPException(413, f"A request may have {_mib(limits.request_bytes)}. Send fewer photographs in each.")


def _mib(size: int) -> str:
    return f"{math.ceil(size / (1 << 20))} MiB"
