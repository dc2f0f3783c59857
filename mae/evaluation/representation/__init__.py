"""Evaluation of frozen features: nearest neighbours, layers, attention, projection."""
