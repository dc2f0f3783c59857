"""Segmentation heads on the intermediate features of a plain ViT."""

IGNORE = 255  # in maps of 8-bit class indices, from the loader to the figures: not labelled
