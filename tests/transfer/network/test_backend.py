import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )


def test_tensorflow_uses_onednn_and_prints_nothing() -> None:
    """OneDNN is on unless the environment switches it off, and importing writes nothing to standard error."""
    program = (
        "import os; from transfer.network.backend import tf; "
        "print(int(tf.constant(1)), os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    )
    result = run(program)
    assert (result.stdout.strip(), result.stderr) == ("1 1", "")
    assert run(program, TF_ENABLE_ONEDNN_OPTS="0").stdout.strip() == "1 0"


def test_keras_does_not_import_optional_packages() -> None:
    """Importing Keras does not import matplotlib, scipy and scikit-learn; they can be imported later."""
    program = (
        "import sys; from transfer.network.backend import keras; "
        "print([name for name in ('matplotlib', 'scipy', 'sklearn') if name in sys.modules]); "
        "import matplotlib.pyplot, scipy.stats, sklearn.metrics"
    )
    assert run(program).stdout.strip() == "[]"
