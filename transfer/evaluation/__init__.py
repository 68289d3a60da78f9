"""Evaluation of trained networks: scores, diagnosis, heat maps, figures and the report."""
