"""Augmentation, one file for each use."""
