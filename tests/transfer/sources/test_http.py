from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Fault, StandIn
from tests.transfer.sources.downloads import (
    BODY,
    CUT,
    QUICK,
    SHA256,
    fail_after_cut,
    fetch,
    fetch_unknown,
    ranges,
    refused,
)
from transfer.runtime import locks
from transfer.runtime.errors import DataError, LockedError
from transfer.sources import http
from transfer.sources.http import Checksum

pytestmark = pytest.mark.usefixtures("direct", "secret")

REST = len(BODY) - CUT


def test_file_is_downloaded(server: StandIn, target: Path) -> None:
    """The file has the bytes of the server; its checksum and its lock file stay next to it."""
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert sorted(path.name for path in target.parent.iterdir()) == ["file.zip", "file.zip.lock", "file.zip.sha256"]


@pytest.mark.reliability(
    "network", "a downloaded file changes on the disk", "the checksum differs; the file is downloaded again"
)
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_file_is_downloaded_again_only_if_it_is_damaged(
    server: StandIn, target: Path, checksum: Checksum | None
) -> None:
    """A complete file needs no second request; a changed byte is noticed, with and without a known checksum."""
    for _ in range(2):
        fetch(server, target, checksum=checksum)
    assert len(server.gets) == 1
    target.write_bytes(b"!" + BODY[1:])
    fetch(server, target, checksum=checksum)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("recorded", [b"", b"\xff" * 64, b"0" * 64])
def test_file_with_a_damaged_checksum_is_downloaded_again(server: StandIn, target: Path, recorded: bytes) -> None:
    """A file is complete only if the recorded checksum is valid and matches."""
    fetch_unknown(server, target)
    target.with_name("file.zip.sha256").write_bytes(recorded)
    assert not http.is_complete(target)
    fetch_unknown(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "the connection is cut", "the missing bytes are requested, if the file is the same")
def test_cut_download_is_resumed(server: StandIn, target: Path) -> None:
    """After a cut only the missing bytes are requested, on the condition that the file is the same."""
    server.faults = [Fault(cut_after=CUT)]
    fetch(server, target)
    assert ranges(server) == [None, f"bytes={CUT}-"]
    assert server.gets[1].headers["If-Range"] == '"one"'
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "the connection is cut", "the missing bytes are requested, if the file is the same")
@pytest.mark.reliability(
    "network", "the connection is cut, then status 503, then another run", "no error page becomes part of the file"
)
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_cut_download_is_resumed_by_a_later_run(server: StandIn, target: Path, checksum: Checksum | None) -> None:
    """A partial file is kept for the next run, and error pages are not appended to it."""
    fail_after_cut(server, target)
    fetch(server, target, checksum=checksum)
    assert ranges(server)[-1] == f"bytes={CUT}-"
    assert target.read_bytes() == BODY


def test_partial_response_needs_no_validator(server: StandIn, target: Path) -> None:
    """The ETag of the first response stays valid if a partial response omits it."""
    server.faults = [Fault(cut_after=1_200_000), Fault(cut_after=1_200_000, headers={"ETag": None})]
    fetch(server, target)
    assert ranges(server) == [None, "bytes=1200000-", "bytes=2400000-"]
    assert target.read_bytes() == BODY


@pytest.mark.reliability(
    "network", "the file changes between a cut and the next attempt", "all bytes are downloaded; no old byte is kept"
)
def test_changed_file_is_downloaded_from_its_start(server: StandIn, target: Path) -> None:
    """A partial file is replaced if the file on the server has another ETag."""
    fail_after_cut(server, target)
    server.body, server.etag = BODY[::-1], '"two"'
    fetch(server, target, checksum=None)
    assert target.read_bytes() == BODY[::-1]


@pytest.mark.reliability(
    "network", "the connection is cut, and the server cannot resume", "all bytes are downloaded again"
)
@pytest.mark.parametrize("etag", [None, '"a\r\n b"', 'W/"weak"'])
def test_download_without_a_validator_starts_again(server: StandIn, target: Path, etag: str | None) -> None:
    """A download is not resumed without a strong ETag or a date that can be sent back."""
    server.etag = etag
    server.faults = [Fault(cut_after=CUT)]
    fetch(server, target)
    assert ranges(server) == [None, None]
    assert target.read_bytes() == BODY


def test_unreasonable_size_is_refused(server: StandIn, target: Path) -> None:
    """A Content-Length above the limit ends the download before a byte is written."""
    server.faults = [Fault(headers={"Content-Length": "9999999999999"})]
    with refused(DataError, "at most 4,294,967,296 bytes. Received: 9,999,999,999,999 announced"):
        fetch_unknown(server, target)


@pytest.mark.reliability("network", "a wrong checksum", "exit 65; nothing is kept, so that the next run starts anew")
def test_wrong_checksum_is_refused(server: StandIn, target: Path) -> None:
    """A file with another checksum is not kept, and the next run downloads all bytes."""
    with refused(DataError, "md5 0000"):
        fetch(server, target, checksum=Checksum("md5", "0" * 32))
    assert not target.exists()
    fetch(server, target)
    assert ranges(server) == [None, None]


@pytest.mark.reliability(
    "network", "the partial file of an earlier run is damaged", "the checksum differs; all bytes are downloaded again"
)
def test_damaged_partial_file_is_replaced(server: StandIn, target: Path) -> None:
    """A wrong checksum after a resumed download is not blamed on the server: the same run downloads all bytes."""
    fail_after_cut(server, target)
    target.with_name("file.zip.part").write_bytes(bytes(CUT))
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert ranges(server)[-2:] == [f"bytes={CUT}-", None]


@pytest.mark.reliability("two at once", "two processes download the same file", "the second ends with exit 75")
def test_two_processes_do_not_write_the_same_file(server: StandIn, target: Path) -> None:
    """A second process raises an error while the first downloads."""
    with locks.exclusive(target.with_name("file.zip.lock"), busy=""), refused(LockedError, "Another process"):
        fetch(server, target)
    assert not server.gets


def test_file_of_another_process_is_used(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process completes before this one has the lock is not downloaded again."""

    @contextmanager
    def late(_: Path, **__: str) -> Iterator[None]:
        target.parent.mkdir()
        target.write_bytes(BODY)
        http.mark_complete(target)
        yield

    monkeypatch.setattr(locks, "exclusive", late)
    fetch_unknown(server, target)
    assert not server.gets
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "cut"),
    [
        pytest.param(
            *(Fault(chunked=True, cut_after=1_000_000), 998_400),  # a cut chunk is dropped
            marks=pytest.mark.reliability(
                "network",
                "a chunked body is cut",
                "the missing bytes are requested, if the file is the same",
            ),
        ),
        pytest.param(
            *(Fault(headers={"Content-Length": None}, cut_after=CUT), CUT),
            marks=pytest.mark.reliability(
                "network", "a body is shorter than the known size", "the missing bytes are requested"
            ),
        ),
    ],
)
def test_cut_body_without_a_length_is_resumed(server: StandIn, target: Path, fault: Fault, cut: int) -> None:
    """The missing bytes are requested too if the server announced no length."""
    server.faults = [fault]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={cut}-"]


@pytest.mark.reliability("network", "a body longer than its Content-Length", "the excess is not read")
def test_excess_after_the_body_is_not_read(server: StandIn, target: Path) -> None:
    """The file ends where the Content-Length says."""
    server.faults = [Fault(headers={"Content-Length": str(len(BODY))}, body=b"and more")]
    fetch_unknown(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("fault", [Fault(chunked=True), Fault(headers={"Content-Length": None})])
@pytest.mark.reliability(
    "network", "an endless body", "exit 65 at the known size of the file, or at 4 GiB if the size is unknown"
)
def test_endless_body_does_not_fill_the_disk(server: StandIn, target: Path, fault: Fault) -> None:
    """A body without a length is refused as soon as it is too long, and nothing of it is kept."""
    server.faults = [fault]
    with refused(DataError, "at most 1,000,000 bytes. Received: more"):
        fetch_unknown(server, target, QUICK._replace(max_bytes=1_000_000))
    server.faults = [fault._replace(body=b"more")]
    with refused(DataError, "a file of 3,072,000 bytes. Received: more"):
        fetch(server, target)
    assert target.with_name("file.zip.part").stat().st_size == 0


@pytest.mark.parametrize("length", ["-5", "\xb2", "9" * 5000, "17, 18", "3e6", ""])
@pytest.mark.reliability(
    "network", "an invalid Content-Length or Content-Range", "ignored or retried; the correct file is downloaded"
)
def test_invalid_content_length(server: StandIn, target: Path, length: str) -> None:
    """An invalid length does not end the download."""
    server.faults = [Fault(headers={"Content-Length": length})]
    fetch_unknown(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": f"bytes 0-{REST - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes {CUT}-{len(BODY)}/{len(BODY) + 1}"},
        {"Content-Range": f"bytes {CUT}-{len(BODY) - 1}/{len(BODY)}", "ETag": '"two"'},
        {"Content-Range": f"bytes {CUT}-{len(BODY) - 1}/{'9' * 5000}"},
        {"Content-Range": f"bytes -{REST}/\xb2"},
    ],
    ids=["none", "another start", "another total", "another file", "a huge total", "no numbers"],
)
@pytest.mark.reliability(
    "network", "an invalid Content-Length or Content-Range", "ignored or retried; the correct file is downloaded"
)
def test_wrong_part_is_not_appended(server: StandIn, target: Path, headers: dict[str, str | None]) -> None:
    """A part that does not start at the end of the partial file is refused, though no checksum is known."""
    server.faults = [Fault(cut_after=CUT), Fault(status=206, headers=headers, body=b"!" * REST)]
    fetch_unknown(server, target)
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-", None]


def test_part_that_is_too_short_is_followed_by_another_request(server: StandIn, target: Path) -> None:
    """A server may send less than the requested part."""
    part = {"Content-Range": f"bytes {CUT}-{CUT + 99}/{len(BODY)}", "ETag": '"one"'}
    server.faults = [Fault(cut_after=CUT), Fault(status=206, headers=part, body=BODY[CUT : CUT + 100])]
    fetch_unknown(server, target)
    assert target.read_bytes() == BODY
    assert ranges(server)[-1] == f"bytes={CUT + 100}-"


def test_part_that_is_too_long_is_refused(server: StandIn, target: Path) -> None:
    """A part that goes beyond the end of the file is not kept, and the next run downloads all bytes."""
    server.faults = [Fault(cut_after=CUT), Fault(body=b"and more")]
    with refused(DataError, "Received: more"):
        fetch_unknown(server, target)
    fetch_unknown(server, target)
    assert ranges(server)[-1] is None
    assert target.read_bytes() == BODY
