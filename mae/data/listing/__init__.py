"""Listings of a source: the manifest, drift between two listings, statistics of listed images."""
