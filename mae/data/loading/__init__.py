"""Loading: batches from an index, with epoch order, samples, workers, token cache and remote shards."""
