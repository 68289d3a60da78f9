"""The command `dogs-vs-cats`, which starts the project's modules."""

from transfer.runtime import stage

stage.require_packages("typer", "psutil")
