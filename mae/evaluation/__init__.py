"""Evaluation of an encoder: by classification, detection, segmentation, and of its frozen features."""
