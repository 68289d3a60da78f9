import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
    )


def test_the_import_has_the_projects_settings() -> None:
    """OneDNN is on unless the environment switches it off, and importing writes nothing to standard error.

    Matplotlib, SciPy and scikit-learn are not imported with it; they can be imported later.
    """
    program = (
        "import os, sys; from transfer.network.backend import tf; "
        "print(int(tf.constant(1)), os.environ['TF_ENABLE_ONEDNN_OPTS'], "
        "[name for name in ('matplotlib', 'scipy', 'sklearn') if name in sys.modules])"
    )
    result = run(f"{program}; import matplotlib.pyplot, scipy.stats, sklearn.metrics")
    assert (result.stdout.strip(), result.stderr) == ("1 1 []", "")
    assert run(program, TF_ENABLE_ONEDNN_OPTS="0").stdout.strip() == "1 0 []"
