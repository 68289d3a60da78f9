"""Serve the page: `python -m transfer.prediction.page`.

Modules that need the project's packages are imported inside `stage.run`, which ends in one line in a Python without
them.
"""

from transfer.runtime import stage


def main() -> None:
    """Import the command and run it in this process."""
    with stage.packages_required():
        from transfer.prediction.page import command  # noqa: PLC0415 - it needs packages
    command.main()


if __name__ == "__main__":
    stage.run(main)
