"""Segmentation heads on the intermediate features of a plain ViT."""
