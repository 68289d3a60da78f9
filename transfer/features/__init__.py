"""Cached activations of the frozen base: computed once, stored as one file per photograph and view, read in batches."""
