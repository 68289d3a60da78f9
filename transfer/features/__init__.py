"""Cached activations of the frozen base: computed once, stored by row, read in batches."""
