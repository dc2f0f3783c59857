"""Intersection over union of a segmenter's label maps."""
