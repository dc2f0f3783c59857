"""Bytes to batches: list a source, shard it, plan the order, decode, augment, batch.

Imports nothing, so that listing and sharding never wait for torch.
"""
