import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def started(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that takes Keras from the backend."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )


def test_tensorflow_starts_with_onednn_and_without_chatter() -> None:
    """TensorFlow is imported with oneDNN on, and says nothing on standard error until something is wrong."""
    program = (
        "import os; from transfer.backend import tf; print(int(tf.constant(1)), os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    )
    result = started(program)
    assert (result.stdout.strip(), result.stderr) == ("1 1", "")
    assert started(program, TF_ENABLE_ONEDNN_OPTS="0").stdout.strip() == "1 0"


def test_keras_takes_nothing_along_that_is_not_asked_for() -> None:
    """The start is spared what Keras imports wherever it finds it; all of that can be imported later."""
    program = (
        "import sys; from transfer.backend import keras; "
        "print([name for name in ('matplotlib', 'scipy', 'sklearn') if name in sys.modules]); "
        "import matplotlib.pyplot, scipy.stats, sklearn.metrics"
    )
    assert started(program).stdout.strip() == "[]"
