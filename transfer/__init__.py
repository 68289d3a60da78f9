"""The library the tasks stand on."""

__version__ = "0.1.0"
