"""WebDataset shards: plan, write, verify, reuse and publish them, and read them by their index."""
