"""What stages do: one module a stage, run as `python -m tasks <stage>`."""
