"""Shards: planned, written, reused, published, and read by their index."""
