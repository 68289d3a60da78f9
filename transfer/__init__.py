"""The library the tasks stand on."""
