"""`pytest --quick` skips what is slow, whatever it starts and wherever."""

import os
import subprocess
import sys
from pathlib import Path

KERAS = """
class Model:
    def fit(self, *data):
        raise AssertionError
"""
TESTS = """
import os, socket, subprocess, threading, time
import keras

def test_a_process(): subprocess.run(["sleep", "60"])
def test_a_fork(): os.fork()
def test_a_server(): socket.create_server(("127.0.0.1", 0))
def test_a_training_run(): keras.Model().fit()
def test_a_server_in_a_thread():
    threading.Thread(target=test_a_server).start()
    time.sleep(60)
def test_nothing_of_these(): pass
"""


def test_what_starts_something_is_skipped(tmp_path: Path) -> None:
    """Tests that start a process, a server or a training run are skipped, all others are run."""
    (tmp_path / "keras.py").write_text(KERAS)
    (tmp_path / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "--quick", "-rs", "-p", "tests.quick", "-p", "no:cacheprovider"]
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--override-ini=pythonpath={root} {tmp_path}", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},  # where `-p` finds the plugin
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "1 passed, 5 skipped" in result.stdout, result.stdout + result.stderr
