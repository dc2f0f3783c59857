"""Segmentation on an encoder: the segmenter and its intersection over union."""
