"""From raw images to batches: list a source, shard it, order the epochs, decode, augment, batch.

Imports nothing, so that listing and sharding never wait for torch.
"""
