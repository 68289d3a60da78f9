from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import SIGNATURE, TOKEN, StandIn, serve, write_certificate
from tests.transfer.sources.downloads import BODY

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(name="direct")
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="secret")
def _secret(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """After each test, no line of output and no file holds a signature or a password."""
    caplog.set_level("INFO")
    yield
    output = "".join([caplog.text, *capfd.readouterr()]).encode()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (SIGNATURE, TOKEN):
        assert secret.encode() not in output + content


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
