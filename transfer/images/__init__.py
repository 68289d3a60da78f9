"""Photographs as files and pixels: decoding, manifest, selection, augmentation."""
