import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[4]


def start(*arguments: object, folder: Path) -> "subprocess.Popen[str]":
    """Start the command in a folder, as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "transfer.prediction.page", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(*arguments: object, folder: Path) -> tuple[int, str]:
    """Return the exit code and standard error of a command that ends by itself."""
    process = start(*arguments, folder=folder)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.mark.reliability("two at once", "a page at a port that is used", "75 with another port")
def test_a_used_port_ends_in_one_line(tmp_path: Path) -> None:
    """If another program listens at the port, the command ends at once and names another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, errors = refused("--port", port, folder=tmp_path)
    assert code == 75
    assert re.fullmatch(
        rf"The port {port} of 127\.0\.0\.1 must be free to use\. Received: Address already in use\. .*--port \d+`\.\n",
        errors,
    )


def test_without_a_network_the_command_ends_in_one_line(tmp_path: Path) -> None:
    """A project that was never run has no network; a file that is none is refused as `predict` does."""
    (tmp_path / "artifacts").mkdir()
    code, errors = refused("--port", 0, folder=tmp_path)
    assert code == 65
    assert re.fullmatch(r"artifacts/fine_tune/model\.keras is missing\. Run `dvc repro` to make it, .*\n", errors)
    (tmp_path / "model.keras").write_text("no network")
    code, errors = refused("--port", 0, "--model", "model.keras", folder=tmp_path)
    assert (code, errors.count("\n")) == (65, 1)


def test_a_wrong_port_is_refused(tmp_path: Path) -> None:
    """A port must be a number that exists."""
    code, errors = refused("--port", "80000", folder=tmp_path)
    assert code == 2
    assert "it must be a number from 0 to 65535. Received: 80000" in errors


def test_the_page_is_served_until_ctrl_c(model_folder: Path) -> None:
    """The command names network and address, listens on the loopback interface alone, and ends quietly with 0."""
    process = start("--port", 0, "--model", "model.keras", folder=model_folder)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[1] == "Model: model.keras.\n"
    address = re.findall(r"http://127\.0\.0\.1:\d+/", lines[2])[0]
    assert requests.get(f"{address}ready", timeout=300).json()["ready"]
    port = int(address.rstrip("/").rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} " in line]
    assert "0100007F" in {place.partition(":")[0] for place in listening}
    assert "00000000" not in {place.partition(":")[0] for place in listening}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
