"""Checkpoints: safetensors shards and a JSON manifest keyed by logical tensor, committed by one rename."""
