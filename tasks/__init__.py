"""What stages do: one module a stage, run as `python -m tasks.<stage>`."""

import sys

from transfer import interruption

if sys.argv[0] == "-m":  # what Python has there until it has found the stage, whose imports may take seconds
    interruption.leave_when_asked()
