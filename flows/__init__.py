"""When it happens: Prefect flows over DVC's graph."""

from transfer.runtime import stage

stage.require_packages("dvc", "prefect", "psutil", "watchdog")
