"""The stages: one module for each, run as `python -m tasks <stage>`."""
