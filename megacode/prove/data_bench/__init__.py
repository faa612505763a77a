"""Rates of the data room's parts against the libraries that others use for them, in the same run."""
