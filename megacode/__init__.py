"""megacode: a 3D-parallel training engine for code models.

This package imports nothing by itself, so that the command line answers at once.
"""
