import fcntl
import hashlib
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import IO

import pytest

from tests.servers import SIGNATURE, TOKEN, Fault, StandIn, serve, write_certificate
from transfer.runtime.errors import AccessError, DataError, LockedError, NetworkError, StageError
from transfer.sources import http
from transfer.sources.http import Checksum, RetryPolicy

BODY = bytes(range(256)) * 12_000
ARRIVED = 15 << 16
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
QUICK = RetryPolicy(tries=3, first_wait=0.01, longest_wait=5, connect=5, silence=5)


PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(name="_direct", autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="_secret", autouse=True)
def _secret(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test has happen, no line and no file of it holds a signature or a password."""
    caplog.set_level("INFO")
    yield
    said = "".join([caplog.text, *capfd.readouterr()]).encode()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (SIGNATURE, TOKEN):
        assert secret.encode() not in said + written


@pytest.fixture(name="server")
def _server() -> Iterator[StandIn]:
    with serve(BODY) as server:
        yield server


@pytest.fixture(name="certificate")
def _certificate(tmp_path: Path) -> Path:
    write_certificate(tmp_path / "certificate.pem")
    return tmp_path / "certificate.pem"


@pytest.fixture(name="target")
def _target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.zip"


def _address(server: StandIn) -> str:
    return f"{server.address}/file.zip?Signature={SIGNATURE}"


def _fetch(server: StandIn, target: Path, patience: RetryPolicy = QUICK, checksum: Checksum | None = SHA256) -> None:
    http.download(_address(server), target, checksum=checksum, size=len(BODY), patience=patience)


def _blindly(server: StandIn, target: Path, patience: RetryPolicy = QUICK) -> None:
    """Fetch a file of which nothing is known, as Kaggle's archive is."""
    http.download(_address(server), target, patience=patience)


@contextmanager
def _refused(error: type[StageError], words: str) -> Iterator[None]:
    """A refusal in one line, with no secret in it or in the traceback that it would have."""
    with pytest.raises(error, match=words) as refusal:
        yield
    assert "\n" not in str(refusal.value)
    shown = "".join(traceback.format_exception(refusal.value))
    assert SIGNATURE not in shown
    assert TOKEN not in shown


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


@pytest.mark.reliability(
    "network", "a fetched file is changed on the disk", "noticed by its checksum, and fetched again"
)
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_damaged_file_is_fetched_again(server: StandIn, target: Path, checksum: Checksum | None) -> None:
    """A kept file of the right size with a changed byte is noticed and replaced."""
    _fetch(server, target, checksum=checksum)
    target.write_bytes(b"!" + BODY[1:])
    _fetch(server, target, checksum=checksum)
    assert target.read_bytes() == BODY


@pytest.mark.reliability(
    "network", "connection cut midway", "what is missing is asked for, if the file is still the same"
)
def test_cut_transfer_is_resumed(server: StandIn, target: Path) -> None:
    """After a cut only the missing bytes are asked for, on the condition that the file is still the same."""
    server.faults = [Fault(cut_after=ARRIVED)]
    _fetch(server, target)
    first, second = server.gets
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == (f"bytes={ARRIVED}-", '"one"')
    assert target.read_bytes() == BODY


@pytest.mark.reliability(
    "network", "connection cut midway", "what is missing is asked for, if the file is still the same"
)
def test_cut_transfer_is_resumed_by_a_later_run(server: StandIn, target: Path) -> None:
    """What arrived before the last failure is kept for the next run."""
    server.faults = [Fault(cut_after=ARRIVED), *[Fault(status=503)] * 2]
    with pytest.raises(NetworkError, match="What arrived is kept"):
        _fetch(server, target)
    assert not target.exists()
    _fetch(server, target)
    assert server.gets[-1].headers["Range"] == f"bytes={ARRIVED}-"
    assert target.read_bytes() == BODY


def test_answers_in_part_need_no_validator(server: StandIn, target: Path) -> None:
    """What a server once knew its file by holds, though answers in part leave it out, as they may with dates."""
    in_part = Fault(cut_after=1_200_000, headers={"ETag": None})
    server.faults = [Fault(cut_after=1_200_000), in_part]
    _fetch(server, target)
    assert [each.headers.get("Range") for each in server.gets] == [None, "bytes=1200000-", "bytes=2400000-"]
    assert target.read_bytes() == BODY


def test_progress_renews_patience(server: StandIn, target: Path) -> None:
    """A line that is cut more often than there are tries still brings the file, as long as it brings something."""
    server.faults = [Fault(cut_after=1_200_000)] * 2
    _fetch(server, target, patience=QUICK._replace(tries=2))
    assert target.read_bytes() == BODY
    assert len(server.gets) == 3


@pytest.mark.reliability(
    "network", "connection cut, then 503, then another run", "no byte of an error page is taken; the right file arrives"
)
def test_error_page_never_becomes_part_of_the_file(server: StandIn, target: Path) -> None:
    """A cut followed by error pages and a new run gives the right bytes, though no checksum is known."""
    page = Fault(status=503, body=b"sorry" * 100)
    server.faults = [Fault(cut_after=2_000_000), page, page]
    with pytest.raises(NetworkError):
        _fetch(server, target, checksum=None)
    _fetch(server, target, checksum=None)
    assert target.read_bytes() == BODY


@pytest.mark.reliability(
    "network", "the file changes between a cut and the next try", "fetched from its beginning; no old byte is kept"
)
def test_changed_file_is_fetched_from_its_beginning(server: StandIn, target: Path) -> None:
    """When the file has changed since the cut, no old byte is kept."""
    server.faults = [Fault(cut_after=ARRIVED), *[Fault(status=503)] * 2]
    with pytest.raises(NetworkError):
        _fetch(server, target)
    server.body, server.etag = BODY[::-1], '"two"'
    _fetch(server, target, checksum=None)
    assert target.read_bytes() == BODY[::-1]


@pytest.mark.reliability(
    "network", "connection cut midway, and a server that cannot resume", "fetched from its beginning"
)
def test_without_a_validator_nothing_is_resumed(server: StandIn, target: Path) -> None:
    """A server that cannot say that its file is the same is asked for all of it."""
    server.etag = None
    server.faults = [Fault(cut_after=ARRIVED)]
    _fetch(server, target)
    assert "Range" not in server.gets[-1].headers
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "status 500 or 503", "asked again, longer apart each time")
def test_passing_trouble_is_retried(server: StandIn, target: Path) -> None:
    """A server in trouble is asked again."""
    server.faults = [Fault(status=503), Fault(status=500)]
    _fetch(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.reliability(
    "network", "status 429 with Retry-After, in seconds or as a date", "waited for, then it succeeds"
)
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_server_is_given_the_time_it_asks_for(server: StandIn, target: Path, form: str) -> None:
    """`Retry-After` is honoured, as a number and as a date."""
    moment = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.faults = [Fault(status=429, headers={"Retry-After": moment})]
    start = time.monotonic()
    _fetch(server, target)
    assert time.monotonic() - start > 0.9


@pytest.mark.reliability("network", "Retry-After of more than two minutes", "ends with 75; the wait is named")
def test_server_that_asks_for_too_much_time_is_left(server: StandIn, target: Path) -> None:
    """A wait beyond patience ends the fetch at once and is named."""
    server.faults = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(NetworkError, match="wait 3600 s"):
        _fetch(server, target)
    assert len(server.gets) == 1


@pytest.mark.reliability("network", "status 503 that stays", "ends with 75 after six tries in a row that bring nothing")
def test_trouble_that_stays_is_given_up(server: StandIn, target: Path) -> None:
    """Tries are bounded, and the message shows the place without its signature."""
    server.faults = [Fault(status=503)] * 9
    with _refused(NetworkError, f"{server.address}/file.zip: status 503"):
        _fetch(server, target)
    assert len(server.gets) == QUICK.tries


@pytest.mark.reliability(
    "network", "a body that stalls", "taken for cut after 60 seconds of silence; after six tries, ends with 75"
)
def test_silence_ends(server: StandIn, target: Path) -> None:
    """A body that stalls does not hold a run for ever."""
    server.faults = [Fault(stall_after=1000)] * 2
    with _refused(NetworkError, "no byte for 0 s"):
        _fetch(server, target, patience=QUICK._replace(silence=0.2, tries=2))
    assert not target.exists()


@pytest.mark.reliability("network", "no connection", "tried again; after six tries, ends with 75")
def test_nobody_there(target: Path) -> None:
    """A refused connection is a trouble of the network."""
    with serve(BODY) as server:
        address = server.address
    with pytest.raises(NetworkError, match="connection failed"):
        http.download(address, target, patience=QUICK)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault(status=401), AccessError, "status 401"),
        (Fault(status=403), AccessError, "status 403"),
        (Fault(status=407), AccessError, "proxy must let you through"),
        (Fault(status=404), DataError, "status 404"),
        (Fault(status=204), DataError, "status 204"),
        (Fault(status=206, headers={"Content-Range": "bytes 0-9/10"}, body=b"0" * 10), DataError, "status 206"),
        (Fault(status=304), DataError, "status 304"),
        pytest.param(
            *(Fault(headers={"Content-Type": "text/html; charset=utf-8"}), DataError, "a web page"),
            marks=pytest.mark.reliability(
                "network",
                "a web page in place of the file, with status 200",
                "ends with 65; nothing of the page is taken",
            ),
        ),
        pytest.param(
            *(Fault(headers={"Content-Length": "17"}), DataError, "17 announced"),
            marks=pytest.mark.reliability(
                "network", "another length announced than the known file has", "ends with 65 before a byte is taken"
            ),
        ),
        pytest.param(
            *(Fault(headers={"Content-Encoding": "gzip"}), DataError, "a compressed form"),
            marks=pytest.mark.reliability(
                "network",
                "a body compressed on the way (Content-Encoding)",
                "ends with 65; it is not taken for the file",
            ),
        ),
    ],
)
def test_refusals_are_not_retried(
    server: StandIn, target: Path, fault: Fault, error: type[StageError], message: str
) -> None:
    """What will not pass ends the fetch at the first answer, saying what was received."""
    server.faults = [fault]
    with _refused(error, message):
        _fetch(server, target)
    assert len(server.gets) == 1
    assert not target.exists()


@pytest.mark.reliability("network", "a loop of redirects", "ends with 65 after ten")
def test_redirects_without_end_are_refused(server: StandIn, target: Path) -> None:
    """A loop of redirects ends."""
    server.faults = [Fault(status=302, headers={"Location": f"/file.zip?Signature={SIGNATURE}"})] * 50
    with _refused(DataError, "redirects without end"):
        _fetch(server, target)
    assert len(server.gets) == 11


@pytest.mark.reliability("network", "wrong checksum", "ends with 65; nothing is kept, so that the next run starts anew")
def test_wrong_checksum_is_refused(server: StandIn, target: Path) -> None:
    """Other bytes than expected are not kept, so that the next run starts anew."""
    wrong = Checksum("md5", "0" * 32)
    with pytest.raises(DataError, match="md5 0000"):
        _fetch(server, target, checksum=wrong)
    assert not target.exists()
    _fetch(server, target)
    assert ["Range" in request.headers for request in server.gets] == [False, False]


@pytest.mark.reliability(
    "network", "what an earlier run has fetched is damaged on the disk", "noticed by the checksum, and fetched anew"
)
def test_damaged_part_is_fetched_again(server: StandIn, target: Path) -> None:
    """What lies there of a cut transfer is not blamed on the server if it is damaged: the run that goes on mends it."""
    server.faults = [Fault(cut_after=ARRIVED), *[Fault(status=503)] * 2]
    with pytest.raises(NetworkError):
        _fetch(server, target)
    part = target.with_name("file.zip.part")
    part.write_bytes(bytes(part.stat().st_size))
    _fetch(server, target)
    assert target.read_bytes() == BODY
    assert ["Range" in request.headers for request in server.gets[-2:]] == [True, False]


@pytest.mark.reliability("two at once", "two processes at the same download", "the second ends with 75")
def test_two_runs_do_not_write_the_same_file(server: StandIn, target: Path) -> None:
    """While one run fetches a file, another stands back."""
    target.parent.mkdir()
    with target.with_name("file.zip.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="Another run"):
            _fetch(server, target)


@pytest.mark.reliability(
    "network",
    "a body that trickles, less than 1 KiB a second",
    "taken for cut after 60 seconds; after six tries, ends with 75",
)
def test_trickle_ends(server: StandIn, target: Path) -> None:
    """A byte now and then, each in time, is no progress."""
    server.faults = [Fault(trickle=0.02)] * 2
    with _refused(NetworkError, "only [0-9]+ bytes in 0 s"):
        _fetch(server, target, patience=QUICK._replace(silence=0.3, tries=2))
    assert len(server.gets) == 2


@pytest.mark.reliability(
    "network", "headers that trickle, without end", "taken for cut after 160 seconds; after six tries, ends with 75"
)
def test_answer_that_never_begins_ends(server: StandIn, target: Path) -> None:
    """A byte of a header now and then, each in time, is no answer."""
    server.faults = [Fault(trickling_header=0.02)] * 2
    with _refused(NetworkError, "no whole answer for 1 s"):
        _fetch(server, target, patience=QUICK._replace(connect=0.3, silence=0.3, tries=2))
    assert len(server.gets) == 2


def test_body_that_never_ends_ends(server: StandIn, target: Path) -> None:
    """The same of a header behind a body in chunks: what arrived is whole, but nobody says so."""
    server.faults = [Fault(chunked=True, trickling_header=0.02)] * 2
    with _refused(NetworkError, "no whole answer for 1 s"):
        http.download(server.address, target, patience=QUICK._replace(silence=0.3, tries=2))
    assert not target.exists()


def test_slow_line_has_time(server: StandIn, target: Path) -> None:
    """A body that takes many times as long as a silence may last arrives, if it is not slower than the slowest."""
    server.faults = [Fault(trickle=0.01)]
    server.body = b"slowly" * 10
    http.download(server.address, target, patience=QUICK._replace(silence=0.1, slowest=10, tries=1))
    assert target.read_bytes() == server.body


@pytest.mark.reliability(
    "network", "a body in chunks that is cut midway", "what is missing is asked for, if the file is still the same"
)
def test_chunked_body_that_is_cut_is_resumed(server: StandIn, target: Path) -> None:
    """A server that announces no length, and ends in the middle, is asked for the rest."""
    server.faults = [Fault(chunked=True, cut_after=1_000_000)]
    _blindly(server, target)
    assert target.read_bytes() == BODY
    assert [request.headers.get("Range") for request in server.gets] == [None, "bytes=1000000-"]


@pytest.mark.reliability("network", "a shorter body than announced", "taken for cut; what is missing is asked for")
def test_body_without_a_length_that_is_cut_is_resumed(server: StandIn, target: Path) -> None:
    """The size that is known tells that a body was cut whose length the server does not tell."""
    server.faults = [Fault(headers={"Content-Length": None}, cut_after=ARRIVED)]
    _fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.gets[-1].headers["Range"] == f"bytes={ARRIVED}-"


@pytest.mark.reliability("network", "a longer body than announced", "what is too much is not taken")
def test_what_follows_the_announced_body_is_left(server: StandIn, target: Path) -> None:
    """Of a body longer than announced no more than that is taken."""
    server.faults = [Fault(headers={"Content-Length": str(len(BODY))}, body=b"and more")]
    _blindly(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("fault", [Fault(chunked=True), Fault(headers={"Content-Length": None})])
@pytest.mark.reliability(
    "network", "a body without an end", "ends with 65 at the size the file must have, at 4 GiB where none is known"
)
def test_body_without_an_end_does_not_fill_the_disk(server: StandIn, target: Path, fault: Fault) -> None:
    """Where no length is announced, more than the file can have is not taken, and what came is thrown away."""
    server.faults = [fault]
    with _refused(DataError, "at most 1,000,000 bytes. Received: more"):
        _blindly(server, target, QUICK._replace(largest=1_000_000))
    server.faults = [fault._replace(body=b"more")]
    with _refused(DataError, "a file of 3,072,000 bytes. Received: more"):
        _fetch(server, target)
    assert sum(path.stat().st_size for path in target.parent.glob("*.part")) == 0


def test_size_that_nobody_expects_is_refused(server: StandIn, target: Path) -> None:
    """A length beyond all that can be meant is refused before anything is fetched."""
    server.faults = [Fault(headers={"Content-Length": "9999999999999"})]
    with _refused(DataError, "at most 4,294,967,296 bytes. Received: 9,999,999,999,999 announced"):
        _blindly(server, target)


@pytest.mark.parametrize("length", ["-5", "\xb2", "9" * 5000, "17, 18", "3e6", ""])
@pytest.mark.reliability(
    "network", "a Content-Length or Content-Range that makes no sense", "passed over; the right file arrives"
)
def test_length_that_is_none(server: StandIn, target: Path, length: str) -> None:
    """A length that cannot be one counts as no length, and breaks nothing."""
    server.faults = [Fault(headers={"Content-Length": length})]
    _blindly(server, target)
    assert target.read_bytes() == BODY


LEFT = len(BODY) - ARRIVED


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": f"bytes 0-{LEFT - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes {ARRIVED}-{len(BODY)}/{len(BODY) + 1}"},
        {"Content-Range": f"bytes {ARRIVED}-{len(BODY) - 1}/{len(BODY)}", "ETag": '"two"'},
        {"Content-Range": f"bytes {ARRIVED}-{len(BODY) - 1}/{'9' * 5000}"},
        {"Content-Range": f"bytes -{LEFT}/\xb2"},
    ],
    ids=["none", "another start", "another total", "another file", "a huge total", "no numbers"],
)
@pytest.mark.reliability(
    "network", "a Content-Length or Content-Range that makes no sense", "passed over; the right file arrives"
)
def test_other_part_than_asked_for(server: StandIn, target: Path, headers: dict[str, str | None]) -> None:
    """A part that does not belong where the file was cut is not taken, though nothing else would tell."""
    server.faults = [Fault(cut_after=ARRIVED), Fault(status=206, headers=headers, body=b"!" * LEFT)]
    _blindly(server, target)
    assert target.read_bytes() == BODY
    assert len(server.gets) == 3


def test_part_that_ends_too_early(server: StandIn, target: Path) -> None:
    """A server that brings less than the rest that was asked for is asked on."""
    part = {"Content-Range": f"bytes {ARRIVED}-{ARRIVED + 99}/{len(BODY)}", "ETag": '"one"'}
    server.faults = [
        Fault(cut_after=ARRIVED),
        Fault(status=206, headers=part, body=BODY[ARRIVED : ARRIVED + 100]),
    ]
    _blindly(server, target)
    assert target.read_bytes() == BODY
    assert server.gets[-1].headers["Range"] == f"bytes={ARRIVED + 100}-"


def test_part_that_goes_on_too_long(server: StandIn, target: Path) -> None:
    """A part that goes beyond the end of the file is refused with all that it was added to."""
    server.faults = [Fault(cut_after=ARRIVED), Fault(body=b"and more")]
    with _refused(DataError, "3,072,000 bytes. Received: more"):
        _blindly(server, target)
    _blindly(server, target)
    assert "Range" not in server.gets[-1].headers
    assert target.read_bytes() == BODY


def test_validator_that_cannot_be_sent_back(server: StandIn, target: Path) -> None:
    """A file is not resumed, but fetched, from a server whose ETag is none."""
    server.faults = [Fault(headers={"ETag": '"a\r\n b"'}, cut_after=ARRIVED)]
    _fetch(server, target)
    assert "Range" not in server.gets[-1].headers
    assert target.read_bytes() == BODY


def test_patience_ends_though_a_file_keeps_changing(server: StandIn, target: Path) -> None:
    """A server that never comes further than before is left, however much it sends each time."""
    server.etag = None
    server.faults = [Fault(cut_after=2_000_000), Fault(cut_after=100_000)] * 9
    with _refused(NetworkError, "the connection was cut"):
        _fetch(server, target)
    assert len(server.gets) == QUICK.tries


@pytest.mark.parametrize(
    "moment", ["0", "-5", "\xb2", "9" * 5000, "soon", "Sun, 06 Nov 1994 08:49:37 GMT", f"1 Jan 2020 0:00 +{'9' * 20}"]
)
@pytest.mark.reliability(
    "network", "a Retry-After that is over or makes no sense", "waited as without one, then it succeeds"
)
def test_wish_for_time_that_is_none(server: StandIn, target: Path, moment: str) -> None:
    """A server that asks for no time, or in no understandable way, is not asked again at once."""
    server.faults = [Fault(status=503, headers={"Retry-After": moment})]
    start = time.monotonic()
    _fetch(server, target, patience=QUICK._replace(first_wait=0.1))
    assert time.monotonic() - start > 0.1
    assert target.read_bytes() == BODY


def test_redirect_is_followed_without_its_body(server: StandIn, target: Path) -> None:
    """A redirect leads on at once, even if its own body would never end."""
    onward = {"Location": f"other.zip?Signature={SIGNATURE}", "Content-Length": "9999999"}
    server.faults = [Fault(status=307, headers=onward, stall_after=0)]
    _fetch(server, target)
    assert [request.path.partition("?")[0] for request in server.gets] == ["/file.zip", "/other.zip"]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("onward", "words"),
    [
        (f"file:///etc/passwd?Signature={SIGNATURE}", "a redirect to file"),
        (f"ftp://127.0.0.1/?Signature={SIGNATURE}", "a redirect to ftp"),
        (f"http://[::1/?Signature={SIGNATURE}", "a redirect to no address"),
        (f"http://a..b/?Signature={SIGNATURE}", "must be one of HTTP"),
    ],
)
@pytest.mark.reliability("network", "a redirect to something other than HTTP", "ends with 65; it is not followed")
def test_redirect_to_elsewhere_is_refused(server: StandIn, target: Path, onward: str, words: str) -> None:
    """A redirect leads to a server of HTTP or nowhere."""
    server.faults = [Fault(status=302, headers={"Location": onward})]
    with _refused(DataError, words):
        _fetch(server, target)
    assert len(server.gets) == 1


@pytest.mark.reliability("network", "a redirect from HTTPS to plain HTTP", "ends with 65; it is not followed")
def test_redirect_to_an_open_line_is_refused(
    server: StandIn, target: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for by HTTPS does not come by plain HTTP, and what opens it is not sent that way."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serve(BODY, certificate) as private:
        _fetch(private, target)
        assert target.read_bytes() == BODY
        private.faults = [Fault(status=302, headers={"Location": _address(server)})]
        with _refused(DataError, "Received: a redirect to http"):
            _fetch(private, target.with_name("other.zip"))
    assert not server.gets


@pytest.mark.parametrize(
    ("trusted", "words"), [(None, "a certificate that is trusted"), ("gone.pem", "REQUESTS_CA_BUNDLE must name a file")]
)
@pytest.mark.reliability("network", "a certificate that is not trusted", "ends with 65; what to look at is named")
def test_stranger_is_not_trusted(
    target: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: str | None, words: str
) -> None:
    """A server that cannot prove who it is is asked once, and the message tells how to trust it."""
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", trusted)
    with serve(BODY, certificate) as stranger, _refused(DataError, words):
        _fetch(stranger, target)
    assert not stranger.requests


@pytest.mark.reliability(
    "network",
    "trouble, with a token or a signed address at hand",
    "neither is in any line, message, traceback, artifact or file",
)
def test_faulty_header_shows_no_address(server: StandIn, target: Path) -> None:
    """A header that is none is not complained of with the whole address."""
    server.faults = [Fault(headers={"no header\r\nContent-Language": "en"})]
    _fetch(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "a proxy on the way", "used as http_proxy, https_proxy and no_proxy say")
def test_proxy_is_used(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names brings the file, except from where none is wanted."""
    monkeypatch.setenv("http_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    http.download(f"http://files.test/file.zip?Signature={SIGNATURE}", target, patience=QUICK)
    assert target.read_bytes() == BODY
    assert server.gets[0].path.startswith("http://files.test/")
    assert server.gets[0].headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _fetch(server, target.with_name("other.zip"))
    assert server.gets[-1].path.startswith("/file.zip")


@pytest.mark.parametrize("status", [403, 407])
@pytest.mark.reliability("network", "a proxy that lets nobody through", "ends with 77; the proxy's status is named")
def test_proxy_that_shuts_out(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A proxy that wants a password, or forbids the server, is not asked again."""
    monkeypatch.setenv("https_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    server.tunnel = status
    with _refused(AccessError, f"https://files.test/file.zip. Received: status {status}"):
        http.download(f"https://files.test/file.zip?Signature={SIGNATURE}", target, patience=QUICK)
    assert len(server.requests) == 1


@pytest.mark.reliability("network", "a proxy that is not there", "tried again; after six tries, ends with 75")
def test_proxy_that_is_not_there(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message tells that it is the proxy that does not answer."""
    with serve(BODY) as server:
        monkeypatch.setenv("http_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    with _refused(NetworkError, "the proxy that https_proxy or http_proxy names failed"):
        http.download(f"http://files.test/?Signature={SIGNATURE}", target, patience=QUICK)


@pytest.mark.parametrize("proxy", ["http://me:{}@[", "http://me:{}@a..b:80", "socks5://me:{}@127.0.0.1:1", "{}://"])
@pytest.mark.reliability(
    "network",
    "a proxy's address that makes no sense, or one of SOCKS",
    "ends with 65; the variables to look at are named",
)
def test_proxy_that_is_none(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A proxy of no understandable address, or of another kind, is named as what is wrong."""
    monkeypatch.setenv("http_proxy", proxy.format(TOKEN))
    with _refused(DataError, "a proxy's in http_proxy, https_proxy or all_proxy, must be one of HTTP"):
        _fetch(server, target)


def test_another_run_that_is_quicker(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another run has brought while this one began is taken, and not fetched again."""
    alone = http._alone

    @contextmanager
    def later(partial: Path) -> Iterator[IO[bytes]]:
        target.write_bytes(BODY)
        http.mark_complete(target)
        with alone(partial) as file:
            yield file

    monkeypatch.setattr(http, "_alone", later)
    _blindly(server, target)
    assert not server.gets
    assert sorted(path.name for path in target.parent.iterdir()) == ["file.zip", "file.zip.sha256"]


@pytest.mark.parametrize("kept", [b"", b"\xff" * 64, b"0" * 64])
def test_checksum_that_is_damaged(server: StandIn, target: Path, kept: bytes) -> None:
    """A file whose kept checksum is another, or none, is fetched again."""
    _blindly(server, target)
    target.with_name("file.zip.sha256").write_bytes(kept)
    assert not http.is_complete(target)
    _blindly(server, target)
    assert target.read_bytes() == BODY


def test_shown_address_holds_no_secret() -> None:
    """Neither user, password nor query of an address are shown."""
    assert http.redact_url("https://me:secret@host.test/a.zip?Signature=b#c") == "https://host.test/a.zip"
