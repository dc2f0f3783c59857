"""Masked-autoencoder pretraining as a reproducible pipeline: raw images to a gated model in the registry."""
