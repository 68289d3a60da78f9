"""Training runs: settings, fit, callbacks, history and resume."""
