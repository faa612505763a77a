"""datatrove's executors, at which the stages of a preparation run: this machine, Slurm, or Ray.

datatrove is imported here only, when a preparation starts.
"""
