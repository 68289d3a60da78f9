"""Prediction with a trained network, from Python and from the command line."""
