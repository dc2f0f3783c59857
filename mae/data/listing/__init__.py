"""Listings of a source: the manifest, and drift and statistics of listed images."""
