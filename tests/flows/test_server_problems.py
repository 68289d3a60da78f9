import socket
from pathlib import Path

from flows import server_problems


def test_a_port_in_use_is_named_with_another_one_to_choose() -> None:
    """A port on which another program listens is reported before a server starts; a free one is no problem."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        problem = server_problems.port_problem("127.0.0.1", port)
    assert problem.startswith(f"Port {port} of this machine is used by another program. Choose another: ")
    assert server_problems.port_problem("127.0.0.1", port) == ""


def test_an_address_without_a_server_does_not_answer() -> None:
    """An address on which nothing listens is told from a server that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
    assert server_problems.problem(address) == f"No Prefect server answers at {address}"


def test_the_reason_of_a_server_that_did_not_start_is_in_its_log(tmp_path: Path) -> None:
    """Only the output since the start counts: a full disk has exit code 74, a newer database is named as such."""
    log = tmp_path / "server.log"
    log.write_text("OSError: [Errno 28] No space left on device\n")
    start = log.stat().st_size
    assert server_problems.start_problem(log, 0)[0] == 74
    with log.open("a") as file:
        file.write("alembic.util.exc.CommandError: Can't locate revision identified by 'abc'\n")
    code, reason = server_problems.start_problem(log, start)
    assert code == 1
    assert reason.startswith("A newer version of Prefect than ")


def test_the_last_line_of_a_log_is_an_exception_rather_than_a_fragment() -> None:
    """Marks and fragments of a traceback are no reason."""
    text = "Starting\nTraceback (most recent call last):\n  x = f()\n      ^^^\nValueError: the reason\n^^^^\n"
    assert server_problems.last_line(text) == "ValueError: the reason"
    assert server_problems.last_line("") == "nothing"
