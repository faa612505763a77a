"""Gradients in flat fp32 buffers, their norm, and AdamW on fp32 masters sharded over the replicas."""
