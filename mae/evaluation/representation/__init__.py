"""Frozen features: neighbours, layers, attention, projection."""
