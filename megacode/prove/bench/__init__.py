"""Throughput on made-up tokens: engines and layouts take turns in one run, because a machine's speed drifts."""
