"""Fused operations, imported as `megacode.kernels`: one file per op, each beside its definition in `reference.py`."""

__version__ = "0.0.0"
