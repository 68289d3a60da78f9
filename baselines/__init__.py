"""Baselines: simpler networks trained on the split of the main pipeline, to compare transfer learning with."""
