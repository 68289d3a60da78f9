import fcntl
import hashlib
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.servers import SIGNATURE, Fault, StandIn, serve
from transfer import transport
from transfer.errors import AccessError, BusyError, DataError, NetworkError
from transfer.transport import Checksum, Patience

BODY = bytes(range(256)) * 12_000
ARRIVED = 15 << 16  # whole chunks
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
QUICK = Patience(tries=3, first_wait=0.01, longest_wait=5, connect=5, silence=5)


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(BODY) as server:
        yield server


@pytest.fixture(name="target")
def _target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.zip"


def _address(server: StandIn) -> str:
    return f"{server.address}/file.zip?Signature={SIGNATURE}"


def _fetch(server: StandIn, target: Path, patience: Patience = QUICK, checksum: Checksum | None = SHA256) -> None:
    transport.fetch(_address(server), target, checksum=checksum, size=len(BODY), patience=patience)


def test_file_arrives(server: StandIn, target: Path) -> None:
    """A file arrives with its bytes, and nothing but its checksum lies beside it."""
    _fetch(server, target)
    assert target.read_bytes() == BODY
    assert sorted(path.name for path in target.parent.iterdir()) == ["file.zip", "file.zip.sha256"]


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_whole_file_is_not_fetched_twice(server: StandIn, target: Path, checksum: Checksum | None) -> None:
    """A file that lies there whole costs no second request, whether its checksum was known before or not."""
    _fetch(server, target, checksum=checksum)
    _fetch(server, target, checksum=checksum)
    assert len(server.gets) == 1


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_damaged_file_is_fetched_again(server: StandIn, target: Path, checksum: Checksum | None) -> None:
    """A kept file of the right size with a changed byte is noticed and replaced."""
    _fetch(server, target, checksum=checksum)
    target.write_bytes(b"!" + BODY[1:])
    _fetch(server, target, checksum=checksum)
    assert target.read_bytes() == BODY


def test_cut_transfer_is_resumed(server: StandIn, target: Path) -> None:
    """After a cut only the missing bytes are asked for, on the condition that the file is still the same."""
    server.faults = [Fault(cut_after=ARRIVED)]
    _fetch(server, target)
    first, second = server.gets
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == (f"bytes={ARRIVED}-", '"one"')
    assert target.read_bytes() == BODY


def test_cut_transfer_is_resumed_by_a_later_run(server: StandIn, target: Path) -> None:
    """What arrived before the last failure is kept for the next run."""
    server.faults = [Fault(cut_after=ARRIVED), *[Fault(status=503)] * 2]
    with pytest.raises(NetworkError, match="What arrived is kept"):
        _fetch(server, target)
    assert not target.exists()
    _fetch(server, target)
    assert server.gets[-1].headers["Range"] == f"bytes={ARRIVED}-"
    assert target.read_bytes() == BODY


def test_progress_renews_patience(server: StandIn, target: Path) -> None:
    """A line that is cut more often than there are tries still brings the file, as long as it brings something."""
    server.faults = [Fault(cut_after=1_200_000)] * 2
    _fetch(server, target, patience=QUICK._replace(tries=2))
    assert target.read_bytes() == BODY
    assert len(server.gets) == 3


def test_error_page_never_becomes_part_of_the_file(server: StandIn, target: Path) -> None:
    """A cut followed by error pages and a new run gives the right bytes, though no checksum is known."""
    page = Fault(status=503, body=b"sorry" * 100)
    server.faults = [Fault(cut_after=2_000_000), page, page]
    with pytest.raises(NetworkError):
        _fetch(server, target, checksum=None)
    _fetch(server, target, checksum=None)
    assert target.read_bytes() == BODY


def test_changed_file_is_fetched_from_its_beginning(server: StandIn, target: Path) -> None:
    """When the file has changed since the cut, no old byte is kept."""
    server.faults = [Fault(cut_after=ARRIVED), *[Fault(status=503)] * 2]
    with pytest.raises(NetworkError):
        _fetch(server, target)
    server.body, server.etag = BODY[::-1], '"two"'
    _fetch(server, target, checksum=None)
    assert target.read_bytes() == BODY[::-1]


def test_without_a_validator_nothing_is_resumed(server: StandIn, target: Path) -> None:
    """A server that cannot say that its file is the same is asked for all of it."""
    server.etag = None
    server.faults = [Fault(cut_after=ARRIVED)]
    _fetch(server, target)
    assert "Range" not in server.gets[-1].headers
    assert target.read_bytes() == BODY


def test_passing_trouble_is_retried(server: StandIn, target: Path) -> None:
    """A server in trouble is asked again."""
    server.faults = [Fault(status=503), Fault(status=500)]
    _fetch(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_server_is_given_the_time_it_asks_for(server: StandIn, target: Path, form: str) -> None:
    """`Retry-After` is honoured, as a number and as a date."""
    moment = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.faults = [Fault(status=429, headers={"Retry-After": moment})]
    start = time.monotonic()
    _fetch(server, target)
    assert time.monotonic() - start > 0.9


def test_server_that_asks_for_too_much_time_is_left(server: StandIn, target: Path) -> None:
    """A wait beyond patience ends the fetch at once and is named."""
    server.faults = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(NetworkError, match="wait 3600 s"):
        _fetch(server, target)
    assert len(server.gets) == 1


def test_trouble_that_stays_is_given_up(server: StandIn, target: Path) -> None:
    """Tries are bounded, and the message shows the place without its signature."""
    server.faults = [Fault(status=503)] * 9
    with pytest.raises(NetworkError, match="status 503") as refusal:
        _fetch(server, target)
    assert len(server.gets) == QUICK.tries
    assert server.address in str(refusal.value)
    assert SIGNATURE not in str(refusal.value)


def test_silence_ends(server: StandIn, target: Path) -> None:
    """A body that stalls does not hold a run for ever."""
    server.faults = [Fault(stall_after=1000)] * 2
    with pytest.raises(NetworkError):
        _fetch(server, target, patience=QUICK._replace(silence=0.2, tries=2))
    assert not target.exists()


def test_nobody_there(target: Path) -> None:
    """A refused connection is a trouble of the network."""
    with serve(BODY) as server:
        address = server.address
    with pytest.raises(NetworkError, match="connection failed"):
        transport.fetch(address, target, patience=QUICK)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault(status=401), AccessError, "status 401"),
        (Fault(status=403), AccessError, "status 403"),
        (Fault(status=404), DataError, "status 404"),
        (Fault(headers={"Content-Type": "text/html; charset=utf-8"}), DataError, "a web page"),
        (Fault(headers={"Content-Length": "17"}), DataError, "17 announced"),
    ],
)
def test_refusals_are_not_retried(
    server: StandIn, target: Path, fault: Fault, error: type[Exception], message: str
) -> None:
    """What will not pass ends the fetch at the first answer, saying what was received."""
    server.faults = [fault]
    with pytest.raises(error, match=message):
        _fetch(server, target)
    assert len(server.gets) == 1
    assert not target.exists()


def test_redirects_without_end_are_refused(server: StandIn, target: Path) -> None:
    """A loop of redirects ends."""
    server.faults = [Fault(status=302, headers={"Location": "/file.zip"})] * 50
    with pytest.raises(DataError, match="redirects without end"):
        _fetch(server, target)


def test_wrong_checksum_is_refused(server: StandIn, target: Path) -> None:
    """Other bytes than expected are not kept, so that the next run starts anew."""
    wrong = Checksum("md5", "0" * 32)
    with pytest.raises(DataError, match="md5 0000"):
        _fetch(server, target, checksum=wrong)
    assert not target.exists()
    _fetch(server, target)
    assert ["Range" in request.headers for request in server.gets] == [False, False]


def test_two_runs_do_not_write_the_same_file(server: StandIn, target: Path) -> None:
    """While one run fetches a file, another stands back."""
    target.parent.mkdir()
    with target.with_name("file.zip.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="Another run"):
            _fetch(server, target)


def test_shown_address_holds_no_secret() -> None:
    """Neither user, password nor query of an address are shown."""
    assert transport.shown("https://me:secret@host.test/a.zip?Signature=b#c") == "https://host.test/a.zip"
