"""Prefect flows over DVC's graph."""

from flows import prefect_settings
from transfer.runtime import stage

stage.require_packages("dvc", "prefect", "psutil", "watchdog")
prefect_settings.report_errors()
