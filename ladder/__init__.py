"""The ladder: what each idea from logistic regression to fine-tuning is worth, on one split; a pipeline of its own."""

import sys

from transfer.runtime import signals

if sys.argv[0] == "-m":  # what Python has there until it has found the stage, whose imports may take seconds
    signals.exit_on_signals()
