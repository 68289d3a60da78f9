"""The library that the stages use."""

import sys

__version__ = "0.1.0"

# the first code of the project in every process, and valid in older Pythons, which cannot import other modules
if sys.version_info < (3, 11):  # noqa: UP036 - DVC runs the `python` that is first on the PATH
    sys.stderr.write(
        "Stages need Python 3.11 or a later version. Received: {}, which is {}.{}. "
        "Run `make install` and `. .venv/bin/activate`, then try again.\n".format(sys.executable, *sys.version_info[:2])
    )
    sys.exit(78)
