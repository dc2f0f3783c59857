"""Batches out of an index: epoch order, samples, workers, token cache, remote shards."""
