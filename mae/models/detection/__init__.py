"""Mask R-CNN on a plain ViT: windows, feature pyramid, proposals and heads."""
